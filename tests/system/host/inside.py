"""Run the checks on this host as root, and write one result line a check into a directory.

Every check runs, even after a failed one. The last line is `done`; if it is missing, the host stopped early.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

from checks import CHECKS


def main(folder: Path) -> None:
    """Run all checks in their order."""
    with (folder / "results").open("w", encoding="utf-8", buffering=1) as results:
        for check in CHECKS:
            what = (check.__doc__ or check.__name__).splitlines()[0]
            try:
                check()
                results.write(f"ok      {what}\n")
            except (AssertionError, OSError, ValueError, LookupError) as error:
                text = "\n".join(traceback.format_exception(error)).replace("\n", "\n        ")
                results.write(f"FAILED  {what}\n        {text}\n")
        results.write("done\n")
    with (folder / "journal").open("wb") as journal:
        subprocess.run(["journalctl", "--boot", "--output=short-monotonic"], stdout=journal, check=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

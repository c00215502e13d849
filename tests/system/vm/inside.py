"""Run the checks of this boot as root, and write a line for each: result, name, evidence.

The kernel command line names the boot (`test-vm=NAME`). Each check builds on the previous ones, so the first failure
ends the boot and writes the journal to the second path. The last line of a complete run is `done`.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import raising
import rebooting

BOOTS = {"raise": raising.CHECKS, **rebooting.BOOTS}


def main(results_path: str, console_path: str) -> None:
    """Run all checks of the boot in their order."""
    words = Path("/proc/cmdline").read_text(encoding="ascii").split()
    (boot,) = (word.partition("=")[2] for word in words if word.startswith("test-vm="))
    with open(results_path, "w", encoding="utf-8", buffering=1) as results:
        for check in BOOTS[boot]:
            name = check.__name__.replace("_", " ")
            try:
                evidence = check()
            except (AssertionError, OSError, ValueError, LookupError) as error:
                text = "".join(traceback.format_exception(error)).strip().replace("\n", "\n        ")
                results.write(f"FAILED  {name}: {error}\n        {text}\n")
                with open(console_path, "wb") as console:
                    subprocess.run(["journalctl", "--boot", "--output=short-monotonic"], stdout=console, check=False)
                return
            results.write(f"ok      {name}: {evidence}\n")
        results.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

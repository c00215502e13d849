"""A campaign of faults against a real guard: forged messages, kills, damaged files, failing disks. Needs root.

sudo tests/system/campaign [--seed N] [--kinds forgery,kills,damage,disks] [--share PERCENT]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[up]) for up in (2, 3))]

from ground import ground  # noqa: E402 - through that path

TIMES = {"forgery": 1200, "kills": 330, "damage": 420, "disks": 120}


def main() -> int:
    """Run the kinds and print what was done and found."""
    parser = argparse.ArgumentParser(description="Run a campaign of faults against a real guard.")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat the faults of an earlier campaign")
    parser.add_argument("--kinds", default=",".join(TIMES), help="comma-separated, of: %(default)s")
    parser.add_argument("--share", type=int, default=100, metavar="PERCENT", help="do this share of the faults")
    args = parser.parse_args()
    findings = 0
    for kind in args.kinds.split(","):
        with ground(kind, args.seed) as one:
            try:
                importlib.import_module(kind).run(one, max(1, TIMES[kind] * args.share // 100))
            finally:  # also of a run that is interrupted
                print(f"{kind}, seed {args.seed}: {sum(one.done.values())} faults, {len(one.findings)} findings")  # noqa: T201
                for what, times in sorted(one.done.items()):
                    print(f"  {times:5} {what}")  # noqa: T201
        findings += len(one.findings)
    return min(1, findings)


if __name__ == "__main__":
    sys.exit(main())

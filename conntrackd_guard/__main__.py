"""`python3 -m conntrackd_guard` is the `guard` command."""

from conntrackd_guard.cli.main import entry

if __name__ == "__main__":
    entry()

"""The made-up host and its disks, for every test here."""

from disks import refusing, stalled
from guarded import host

__all__ = ["host", "refusing", "stalled"]

"""The made-up host and its disks, for every test here."""

from disks import refusing, stalled
from guarded import host
from ordered import a_guard_that_raised, settings_of_whoever_tests

__all__ = ["a_guard_that_raised", "host", "refusing", "settings_of_whoever_tests", "stalled"]

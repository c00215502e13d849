"""The exit codes of every command; the README's table is compared with this."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says. 77 and 78 are those of sysexits(3)."""

    DONE = 0
    """The command did what it was asked."""
    FAILED = 1
    """Something the command needs could not be done; the message says what."""
    USAGE = 2
    """The command line can't be understood."""
    NO = 3
    """The command was understood and the answer is no: degraded, something wrong, nothing to revert, refused without --force."""
    NOT_PERMITTED = 77
    """The caller lacks the rights for this."""
    BAD_SETTINGS = 78
    """The settings can't be used; every problem is listed with its file and line."""

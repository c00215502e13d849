"""The exit codes of every command; the documents list them from here."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes. 77 and 78 are those of sysexits(3)."""

    DONE = 0
    """The command succeeded."""
    FAILED = 1
    """The command failed; the message on stderr names the cause."""
    USAGE = 2
    """The command line is invalid, or names no command."""
    NO = 3
    """The answer is no: a guard that needs help, a failed check, nothing to revert, or refused without --force."""
    NOT_PERMITTED = 77
    """The user lacks the permissions."""
    BAD_SETTINGS = 78
    """The settings are invalid; each problem is listed with its file and line."""

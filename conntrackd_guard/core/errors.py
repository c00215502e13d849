"""The guard's own errors, split by whose fault they are.

Each message says what was found, where, and what to do next; `cli` prints it as it stands.
"""

from __future__ import annotations


class GuardError(Exception):
    """Something the guard needs could not be done; `str()` is a sentence for people."""


class HostError(GuardError):
    """The host refused a read or a write.

    `errno` is the system's error number, None where there was none.
    """

    def __init__(self, doing: str, path: object, error: OSError | None, next_step: str) -> None:
        self.doing = doing
        self.path = str(path)
        self.errno = error.errno if error is not None else None
        self.cause = (error.strerror or str(error)) if error is not None else "unexpected content"
        self.next_step = next_step
        super().__init__(f"{doing} {self.path}: {self.cause}. {next_step}")


class SettingsError(GuardError):
    """The settings can't be used: exit code 78."""


class NotPermitted(GuardError):  # noqa: N818 - reads as the exit code's name
    """The caller lacks the rights for this: exit code 77."""


class AnswerIsNo(GuardError):  # noqa: N818 - not a fault: the command's answer is no (exit code 3)
    """The request was understood and the answer is no."""

"""The guard's errors, by fault.

Each message has what failed, where, and the next step; `cli` prints it unchanged.
"""


class GuardError(Exception):
    """Base class; `str()` is a message for people."""


class HostError(GuardError):
    """The host refused a read or a write.

    `action` is an infinitive, such as `read`. `errno` is the system's error number, or None.
    """

    def __init__(self, action: str, path: object, error: OSError | None, next_step: str) -> None:
        self.action = action
        self.path = str(path)
        self.errno = error.errno if error is not None else None
        self.cause = (error.strerror or str(error)) if error is not None else "unexpected content"
        self.next_step = next_step
        super().__init__(f"Can't {action} {self.path}: {self.cause}. {next_step}".rstrip())


class SettingsError(GuardError):
    """The settings are invalid: exit code 78."""


class NotPermitted(GuardError):  # noqa: N818 - reads as the exit code's name
    """The caller lacks the rights: exit code 77."""


class Unfinished(GuardError):  # noqa: N818 - not a fault
    """Another process still works on it: the same call again shows what came of it."""


class AnswerIsNo(GuardError):  # noqa: N818 - not a fault
    """A valid request with a negative answer: exit code 3."""


def describe(error: Exception) -> str:
    """Return an error as one sentence without its end; one that nobody expected with its type and its place."""
    if isinstance(error, GuardError | OSError):
        return str(error)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" in {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
    return f"Unexpected {type(error).__name__}: {error}{where}"

"""The file that node_exporter's textfile collector reads."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from conntrackd_guard.core.errors import HostError

_NEXT_STEPS = {
    errno.ENOENT: "Create the folder, or name another in `metrics_file`.",
    errno.EROFS: "The unit must be allowed to write there: see `ReadWritePaths=` in the README, under Metrics.",
}


class MetricsFile:
    """A file at a path that the operator chose: nothing but its name is taken for granted. Methods raise HostError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, text: str) -> None:
        """Replace the file in one step, readable by everyone whatever the umask. It need not survive a power cut."""
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            # The folder may be another user's: what stands there by now is neither followed nor waited for.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                with open(descriptor, "wb") as file:
                    os.fchmod(descriptor, 0o644)
                    file.write(text.encode())
                os.rename(temporary, self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise self._error("writing", error) from error

    def drop(self) -> None:
        """Remove the file: what it tells would be taken for today's."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("removing", error) from error

    def _error(self, doing: str, error: OSError) -> HostError:
        step = _NEXT_STEPS.get(error.errno or 0, "Check that the folder has room and is writable.")
        return HostError(doing, self.path, error, step)

"""The file that node_exporter's textfile collector reads."""

import errno
from pathlib import Path

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host import files

_NEXT_STEPS = {
    errno.ENOENT: "Create the folder, or set another one in `metrics_file`.",
    errno.EROFS: "The unit must allow it: see `ReadWritePaths=` in guard.yaml(5), under metrics_file.",
}


class MetricsFile:
    """The metrics file. Its folder may belong to another user. Methods raise HostError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, text: str) -> None:
        """Replace the file, readable by everyone."""
        try:
            files.replace(self.path, text.encode(), durable=False)
        except OSError as error:
            raise self._error("write", error) from error

    def drop(self) -> None:
        """Remove the file: its content is no longer updated."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("remove", error) from error

    def _error(self, action: str, error: OSError) -> HostError:
        step = _NEXT_STEPS.get(error.errno or 0, "Check that the folder has room and is writable.")
        return HostError(action, self.path, error, step)

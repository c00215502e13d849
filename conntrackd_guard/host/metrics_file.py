"""The file that node_exporter's textfile collector reads."""

import errno
from pathlib import Path

from conntrackd_guard.host import files

_NEXT_STEPS = {
    errno.ENOENT: "Create the folder, and show it to the unit: see `BindPaths=` in guard.yaml(5), under metrics_file.",
    errno.EROFS: "The unit must allow it: see `BindPaths=` in guard.yaml(5), under metrics_file.",
}
_CHECK = "Check that the folder has room and is writable."


class MetricsFile:
    """The metrics file. Its folder may belong to another user. Methods raise HostError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, text: str) -> None:
        """Replace the file, readable by everyone."""
        with files.translate_errors("write", self.path, _CHECK, _NEXT_STEPS):
            files.replace(self.path, text.encode(), durable=False)

    def drop(self) -> None:
        """Remove the file: its content is no longer updated."""
        with files.translate_errors("remove", self.path, _CHECK, _NEXT_STEPS):
            self.path.unlink(missing_ok=True)

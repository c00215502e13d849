"""What the guard in a pod shows the container that holds a token: decisions, and the daemon's status.

A folder of the pod (emptyDir, in memory): the guard writes it, `guard events` mounts it read-only. So neither sees more of
the other, and nothing that the reader does reaches the guard.
"""

import contextlib
from typing import Any

from conntrackd_guard.host import files
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import is_status

_CHECK = "Check the emptyDir volume of the pod: is it full, or read-only?"


class Outbox:
    """The folder. It keeps the newest decisions, up to `notify_spool.MAX_QUEUED`; nobody removes them earlier."""

    def __init__(self, paths: Paths) -> None:
        self.folder = paths.outbox
        self.decisions = NotifySpool(self.folder / "decisions", shared=True)
        self._source, self._status = paths.status_file, self.folder / "status.json"

    @property
    def exists(self) -> bool:
        """Whether the pod has the folder."""
        return self.folder.is_dir()

    def publish_status(self) -> None:
        """Copy the daemon's last status. Raises HostError."""
        with files.translate_errors("copy the status to", self._status, _CHECK):
            try:
                content = files.read(self._source, files.JSON_BYTES)
            except FileNotFoundError:  # before the first
                return
            files.replace(self._status, content, durable=False)

    def status(self) -> dict[str, Any] | None:
        """Return the status that was copied last, None if there is none, or nothing that a guard writes. Never raises."""
        with contextlib.suppress(OSError, ValueError):
            found = files.read_json(self._status)
            return found if is_status(found) else None
        return None

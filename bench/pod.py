"""The guard in its container: the pod of deploy/kubernetes.yaml, run by crun, with the folders and the journal of the bench.

The image comes from scripts/test-cluster --bench.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import yaml
from testbed.kube_pod import OWNERS, Image, Pod
from testbed.private_world import Guard

from bench.checkout import REPOSITORY
from bench.contenders import Contender, Running, forget_earlier_guards
from bench.ground import progress, wait_for

_BUNDLE = os.environ.get("GUARD_BUNDLE")
_MANIFEST = REPOSITORY / "deploy/kubernetes.yaml"
_SOCKET = "/namespaces.sock"
_CONNECTED = "03"  # SS_CONNECTED of linux/net.h: accepted


def in_container(**settings: object) -> tuple[Contender, ...]:
    """Return the guard in its container, with `settings` that differ from the manifest's; nothing without an image."""
    if _BUNDLE is None:
        return ()
    return (Contender(name="guard in its container", settings=settings, run_by=RunningPod),)


def say_if_left_out() -> None:
    """Print that the guard in its container is not measured, if it isn't."""
    if _BUNDLE is None:
        progress("without the guard in its container: scripts/test-cluster --bench makes its image and measures it too")


class _PodHere(Pod):
    """Its host's folders are those of the bench."""

    def on_host(self, path: str) -> Path:
        return Path(path)


@dataclass(slots=True)
class RunningPod(Running):
    """Run the pod from ready to killed, its helper connected."""

    pod: _PodHere = field(init=False)
    guard: Guard = field(init=False)

    def __enter__(self) -> Self:
        """Raises TimeoutError with the guard's output if it doesn't get ready."""
        forget_earlier_guards()
        folder = self.ground.folder / "pod"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        documents = list(yaml.safe_load_all(_MANIFEST.read_text("utf-8")))
        image = Image.unpacked(Path(str(_BUNDLE)))
        self.pod = _PodHere.of_manifest(documents, folder=folder, runtime="crun", image=image)
        settings = yaml.safe_load(self.pod.settings["guard.yaml"]) | self.contender.settings
        self.pod.settings["guard.yaml"] = json.dumps(settings)  # which is YAML
        began = time.monotonic()
        self.guard = self.pod.start()
        self.process = self.guard.process
        try:
            wait_for(self._is_ready, "guard.ready", look_seconds=0.01)
            self.ready_ms = (time.monotonic() - began) * 1000
            self.pod.start(OWNERS)
            wait_for(_helper_is_connected, "the helper to connect")
        except TimeoutError as error:
            self.__exit__()
            raise TimeoutError(f"{self.contender.name}: {error}; its output: {self._output()}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.pod.end()
        self.process.wait()

    def _leader(self) -> int:
        return self.pod.pid()

    def _output(self) -> str:
        return self.guard.log.read_text("utf-8", "replace")

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise TimeoutError("it ended")
        return "guard.ready" in self._output()


def _helper_is_connected() -> bool:
    """Return whether the guard has accepted the connection of its helper."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines())
    return any(row[-1].endswith(_SOCKET) and row[5] == _CONNECTED for row in rows)

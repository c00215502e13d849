"""Full, read-only, failing and stalled disks, and ones without inodes, under each folder that the guard writes."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ground import Ground, tail
from testbed.faults import RUN, STATE, open_intents, persisted
from testbed.private_world import Guard, eventually
from testbed.stage import LIMIT, limit

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: every later access gets EIO
_FOLDERS = {"state": STATE, "/run": RUN, "sysctl.d": "etc/sysctl.d"}


def run(ground: Ground, times: int) -> None:
    """Try every disk with every fault at every moment, from a random one on, `times` altogether."""
    cells = list(itertools.product(_FOLDERS, _FAULTS, _MOMENTS))
    cells.remove(("/run", "stalled", "raise"))  # memory doesn't stall, and an intent is written before the limit
    for moment in ("revert", "start", "prune"):
        cells.remove(("/run", "stalled", moment))
    ground.random.shuffle(cells)
    for where, fault, moment in itertools.islice(itertools.cycle(cells), times):
        ground.attempt(f"{where} {fault}", lambda one=(where, fault, moment): _one(ground, *one))


def _one(ground: Ground, where: str, fault: str, moment: str) -> None:
    ground.clean()
    with _disk(ground, _FOLDERS[where]) as folder:
        try:
            _MOMENTS[moment](ground, where, folder, _FAULTS[fault])
        except AssertionError as error:
            raise AssertionError(f"{where} {fault} at {moment}: {error}") from error
        finally:
            for guard in ground.stage.world._guards:
                guard.process.kill()
                guard.process.wait()


@contextmanager
def _disk(ground: Ground, name: str) -> Iterator[Path]:
    """Mount a small ext4 at the folder, as it is."""
    folder, image = ground.root / name, ground.stage.world._folder / "image"
    folder.mkdir(parents=True, exist_ok=True)
    _mount(ground, name, image)
    try:
        yield folder
    finally:
        while ground.stage.world.run(["umount", "--lazy", f"/{name}"]).returncode == 0:
            pass


def _mount(ground: Ground, name: str, image: Path) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-N", "256", str(image)], check=True)
    answer = ground.stage.world.run(["mount", "-o", "loop", str(image), f"/{name}"])
    assert answer.returncode == 0, answer.stderr


@contextmanager
def _full(_: Ground, folder: Path) -> Iterator[None]:
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    yield
    ballast.unlink()


@contextmanager
def _without_inodes(_: Ground, folder: Path) -> Iterator[None]:
    made = folder / "inodes"
    made.mkdir()
    with suppress(OSError):
        for number in itertools.count():
            (made / str(number)).touch()
    yield
    subprocess.run(["rm", "-rf", made], check=True)


@contextmanager
def _read_only(ground: Ground, folder: Path) -> Iterator[None]:
    name = folder.relative_to(ground.root)
    assert ground.stage.world.run(["mount", "-o", "remount,abort", f"/{name}"]).returncode == 0  # as after an error
    yield
    _replaced(ground, str(name))


@contextmanager
def _failing(ground: Ground, folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(descriptor, _SHUTDOWN, (2).to_bytes(4, "little"))
    os.close(descriptor)
    yield
    _replaced(ground, str(folder.relative_to(ground.root)))


def _replaced(ground: Ground, name: str) -> None:
    """The operator mounts a new, empty disk, over the other one: the guard never sees the folder below."""
    _mount(ground, name, ground.stage.world._folder / f"image{time.monotonic_ns()}")


@contextmanager
def _stalled(ground: Ground, folder: Path) -> Iterator[None]:
    name = f"/{folder.relative_to(ground.root)}"
    script = 'fsfreeze -f "$1" && echo frozen && cat; fsfreeze -u "$1"'  # thawed even if this process is killed
    words = [*ground.stage.world.enter, "sh", "-c", script, "sh", name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"frozen\n"
        try:
            yield
        finally:
            holder.communicate(timeout=30)


Fault = Callable[[Ground, Path], contextmanager]
_FAULTS = {
    "full": _full,
    "without inodes": _without_inodes,
    "read-only": _read_only,
    "failing": _failing,
    "stalled": _stalled,
}


def _at_raise(ground: Ground, where: str, folder: Path, fault: Fault) -> None:
    guard = ground.start()
    with fault(ground, folder):
        ground.raise_once(guard)
        ground.raise_once(guard)
        if (
            where != "/run" and fault is not _stalled and (where, fault) != ("state", _without_inodes)
        ):  # needs no new file
            eventually(lambda: _errors(guard), f"an error; {tail(guard)}", seconds=60)
    _caught_up(ground, guard, where)


def _at_prune(ground: Ground, where: str, folder: Path, fault: Fault) -> None:
    """Two seconds are several rounds of flushing, pruning and writing series."""
    guard = ground.start()
    ground.raise_once(guard)
    with fault(ground, folder):
        time.sleep(2)
        ground.raise_once(guard)
    _caught_up(ground, guard, where)


def _at_start(ground: Ground, where: str, folder: Path, fault: Fault) -> None:
    guard = ground.start()
    ground.raise_once(guard)
    ground.settled(guard)
    ground.stop(guard)
    with fault(ground, folder):
        guard = ground.start(ready=False)
        if where == "/run":  # without a lock it doesn't start
            eventually(lambda: guard.process.poll() is not None or _is_ready(guard), "a start", guard.log, seconds=60)
        if guard.process.poll() is None:
            ground.raise_once(guard)
        else:
            ground.sound(guard)
            assert "/run" in tail(guard), tail(guard)
    if guard.process.poll() is not None:
        guard = ground.start()
    _caught_up(ground, guard, where)


def _at_revert(ground: Ground, where: str, folder: Path, fault: Fault) -> None:
    guard = ground.start()
    ground.raise_once(guard)
    ground.settled(guard)
    with fault(ground, folder):
        command = ground.command("revert", "--all", "--force")
        if fault is not _stalled:  # the history that names the raises may be what stalls: then the command waits for it
            command.wait(60)
    code = command.wait(60)
    assert code >= 0, f"`guard revert` ended with {code}"
    assert code != 0 or limit() == LIMIT, f"{limit()} after a revert"
    ground.resume()
    _caught_up(ground, guard, where)


def _caught_up(ground: Ground, guard: Guard, where: str) -> None:
    """On a sound disk everything is explained and saved: by this guard, or, if /run was lost with its files, by the next."""
    assert guard.process.poll() is None, tail(guard)
    if where != "/run":
        ground.raise_once(guard)
        eventually(lambda: not open_intents(ground.stage), f"intents closed; {tail(guard)}", seconds=60)
        eventually(lambda: persisted(ground.stage) == limit(), f"the drop-in; {tail(guard)}", seconds=60)
    for text, times in _errors(guard).items():
        assert times == 1, f"{times} times: {text}"
    code = guard.stop()
    ground.sound(guard)
    assert code == 0 or where == "/run", f"exit code {code}; {tail(guard)}"
    guard = ground.start()
    ground.raise_once(guard)
    ground.settled(guard)
    ground.stop(guard)
    rows = {row["to"] for row in ground.stage.world.decisions()}
    assert limit() in rows, rows


def _errors(guard: Guard) -> dict[str, int]:
    """Return how often each error was logged."""
    texts = [event["message"] for event in guard.events() if event["level"] == "error"]
    return {text: texts.count(text) for text in texts}


def _is_ready(guard: Guard) -> bool:
    return any(event["event"] == "guard.ready" for event in guard.events())


_MOMENTS = {"raise": _at_raise, "prune": _at_prune, "start": _at_start, "revert": _at_revert}

"""Flipped bits, cut and foreign content, and things that are no files, at every path that the guard reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ground import ETC, SETTINGS, Ground, tail
from testbed import bad_files
from testbed.faults import DROP_IN, RUN, STATE
from testbed.private_world import Guard, eventually
from testbed.records import raised
from testbed.stage import LIMIT, limit

from conntrackd_guard.host.runtime_dir import JsonFolder

_A_ROUND, _AT_ONCE = 6, 12
_HISTORY = tuple(f"{STATE}/history.db{suffix}" for suffix in ("", "", "", "-wal", "-shm"))
_SETTINGS = (f"{ETC}/guard.yaml", f"{ETC}/guard.d/10.yaml")
_PAUSES = (f"{RUN}/pause", f"{ETC}/pause")
_LOCKED = tuple(f"{RUN}/drop-in.{name}" for name in ("lock", "request", "override", "answer"))
_LEFT = (f"{RUN}/intents/campaign-1.json", f"{RUN}/overrides/campaign-1.json")
PATHS = (*_HISTORY, *_SETTINGS, *_PAUSES, *_LOCKED, *_LEFT, DROP_IN, f"{RUN}/status.json", f"{RUN}/lock")


def run(ground: Ground, times: int) -> None:
    """Damage `times` files, several at once, half of them under a running guard."""
    for number in range(-(-times // _AT_ONCE)):
        if number % _A_ROUND == 0 or limit() > 8 * LIMIT:
            ground.clean()
        step = _while_running if ground.random.random() < 0.5 else _while_stopped
        ground.attempt("several", lambda step=step: step(ground), 0)


def _damage_some(ground: Ground, when: str) -> list[str]:
    """Damage several files, once they have content, and return their paths and what was done to each."""
    done = list[str]()
    for name in ground.random.sample(PATHS, _AT_ONCE):
        if any(one.endswith(name) for one in done):
            continue
        kind = ground.random.choice(("flip",) * 5 + ("cut", "zeros", "garbage", "removed", *bad_files.KINDS))
        if kind == "cut" and name.endswith("-shm"):
            kind = "flip"  # SIGBUS, as docs/explanation/limitations.md has it
        elif kind == "a dangling link" and name.endswith(".db"):
            kind = "a link to itself"  # a dangling one is a disk that is not mounted: waited for
        _leave(ground, name)
        _damage(ground, ground.root / name, kind)
        ground.done[f"{'bit flips' if kind == 'flip' else 'other damage'} {when}"] += 1
        done.append(f"{kind} at {name}")
    return done


def _usual(ground: Ground) -> Guard:
    """Return a guard that has raised."""
    _usual_settings(ground)
    guard = ground.running()
    _end_pause(ground)
    ground.raise_once(guard)
    return guard


def _while_stopped(ground: Ground) -> None:
    guard = _usual(ground)
    guard.kill() if ground.random.random() < 0.7 else ground.stop(guard)  # a kill leaves the WAL
    done = _damage_some(ground, "while it is stopped")
    with _named(done):
        guard = ground.start(ready=False)
        eventually(lambda: guard.process.poll() is not None or _is_ready(guard), "a start", guard.log, seconds=60)
        if guard.process.poll() is not None:
            ground.sound(guard)
            assert guard.process.returncode == 78, tail(guard)
            assert f"/{ETC}/guard." in tail(guard), tail(guard)
            _usual_settings(ground)
            guard = ground.start()
        _still_works(ground, guard, done)


def _while_running(ground: Ground) -> None:
    guard = _usual(ground)
    done = _damage_some(ground, "while the guard runs")
    with _named(done):
        answers = guard.log.read_text().count("ettings ")
        guard.signal(signal.SIGHUP)
        eventually(lambda: guard.log.read_text().count("ettings ") > answers, "a reload", guard.log, seconds=60)
        _still_works(ground, guard, done)


def _still_works(ground: Ground, guard: Guard, done: list[str]) -> None:
    """It raises for a full table, the views answer, and it ends as asked; another one starts on what is left."""
    _end_pause(ground)
    if any(name in one for one in done for name in _SETTINGS):
        _usual_settings(ground)
        guard.signal(signal.SIGHUP)
    ground.raise_once(guard)
    words = ground.random.choice((("history",), ("status",), ("doctor",), ("show", "1"), ("top",)))
    answer = ground.stage.world.guard(*words)
    for text in ("Traceback", "Unexpected"):
        assert text not in answer.stderr + answer.stdout, f"guard {words[0]}: {answer.stderr or answer.stdout}"
    ground.stop(guard)
    ground.sound(ground.start())


def _leave(ground: Ground, name: str) -> None:
    """Have the file exist that is damaged next, with what the guard would read there."""
    path = ground.root / name
    if name in _LEFT:
        JsonFolder(path.parent).put(path.stem, raised("campaign-1", limit_after=limit() + 1))
    elif name == _SETTINGS[1]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("max_limit: 100_000_000\nbudget: 25%\n")
    elif name in {*_LOCKED, *_PAUSES} and not os.path.lexists(path):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        content = {"boot_id": boot_id, "decided_us": 5, "content": None, "by": "guard pause", "until_seconds": 1e9}
        path.write_text(json.dumps(content))


def _is_ready(guard: Guard) -> bool:
    return any(event["event"] == "guard.ready" for event in guard.events())


def _end_pause(ground: Ground) -> None:
    """A pause that can't be read is one: only an operator ends it."""
    _remove(ground.root / _PAUSES[1])
    ground.resume()


@contextmanager
def _named(done: list[str]) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{'; '.join(done)}: {error}") from error


def _usual_settings(ground: Ground) -> None:
    for name in _SETTINGS:
        _remove(ground.root / name)
    ground.stage.world.configure(SETTINGS)


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", path], check=True)


def _damage(ground: Ground, path: Path, kind: str) -> None:
    if kind in bad_files.KINDS:
        bad_files.replace(path, kind)
        return
    if kind == "removed":
        _remove(path)
        return
    if not path.is_file():
        return
    with suppress(FileNotFoundError), path.open("r+b") as file:  # in place, as a bad disk does it
        size = os.fstat(file.fileno()).st_size
        at = ground.random.randrange(max(1, size))
        file.seek(at)
        old = file.read(1) or b"\0"
        file.seek(at)
        if kind == "flip":
            file.write(bytes([old[0] ^ 1 << ground.random.randrange(8)]))
        elif kind == "cut":
            file.truncate(at)
        else:
            file.write(bytes(size - at) if kind == "zeros" else ground.random.randbytes(size - at))

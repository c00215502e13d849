"""SIGKILL at random moments, to the guard or to a command that writes what the guard reads."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ground import Ground
from testbed.faults import RUN, persisted
from testbed.stage import LIMIT, limit

_A_ROUND = 10
_COMMANDS = (("revert", "--force"), ("revert", "--all", "--force"), ("pause", "--for", "1h"), ("resume",), ("persist",))


def run(ground: Ground, times: int) -> None:
    """Kill `times` times: a third of them while messages are counted, the others while limits are written."""
    for number in range(-(-times // _A_ROUND)):
        if number % 3 == 0:
            ground.attempt("guard killed while it counts messages", lambda: _counting(ground), _A_ROUND)
        else:
            _raising(ground)


def _moment(ground: Ground, longest: float = 0.25) -> None:
    time.sleep(ground.random.random() * longest)  # the fault's own moment, not a wait for anything


def _counting(ground: Ground) -> None:
    """Each message is counted once, whether the guard runs, starts or is dead when it comes."""
    stage = ground.stage
    ground.clean(max_limit=LIMIT)
    if stage.world._journald is None:
        stage.world.start_journald()
    before = stage.messages_recorded(ground.start())
    first = stage.kernel.messages()
    for _ in range(_A_ROUND):
        ready = ground.random.random() < 0.7
        guard = ground.start(ready=ready)
        traffic = ground.meanwhile(lambda: [ground.overflow(ground.random.randrange(5)) for _ in range(3)])
        _moment(ground, 0.4 if ready else 1.0)
        guard.kill()
        traffic.join()
        ground.overflow(ground.random.randrange(3))
    expected = stage.kernel.messages() - first
    guard = ground.start()
    counted = stage.messages_recorded(guard) - before
    ground.sound(guard)
    rows = "".join(f"\n{row}" for row in stage.world.decisions())
    assert counted == expected, f"{counted} messages counted, the kernel logged {expected}{rows}"
    assert limit() == LIMIT


def _raising(ground: Ground) -> None:
    """Every write is explained, the drop-in is whole, and nothing lowers the limit but a revert."""
    ground.clean()
    ground.start().stop()
    for _ in range(_A_ROUND):
        if ground.random.random() < 0.6:
            ground.attempt("guard killed while it raises", lambda: _kill_guard(ground))
        else:
            words = ground.random.choice(_COMMANDS)
            ground.attempt(f"guard {words[0]} killed", lambda words=words: _kill_command(ground, words))
    ground.attempt("after a round of kills", lambda: _go_on(ground), 0)


def _kill_guard(ground: Ground) -> None:
    guard, before = ground.running(), limit()
    traffic = ground.meanwhile(ground.overflow)
    _moment(ground)
    guard.kill()
    traffic.join()
    _check_next(ground, lambda after: after >= before)


def _kill_command(ground: Ground, words: tuple[str, ...]) -> None:
    guard = ground.running()
    ground.resume()
    before = ground.raise_once(guard)
    ground.settled(guard)
    if ground.random.random() < 0.5 or words == ("persist",):
        ground.stop(guard)
        _request(ground)
    command = ground.command(*words)
    _moment(ground, 1.2)
    command.send_signal(signal.SIGKILL)
    command.wait()
    if guard.process.poll() is None:
        guard.kill() if ground.random.random() < 0.5 else ground.stop(guard)
    _check_next(ground, lambda after: after >= before or words[0] == "revert", reverts=words[0] == "revert")


def _request(ground: Ground) -> None:
    """Leave a request for the drop-in, as a daemon in a sandbox does."""
    content = {"limit": limit(), "limit_before": LIMIT, "wall_seconds": int(time.time()), "decision": "campaign-1"}
    document = {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "decided_us": int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1e6),
        "content": {**content, "memory_total_bytes": 1, "budget_bytes": 1},
    }
    (ground.root / RUN / "drop-in.request").write_text(json.dumps(document))


def _check_next(ground: Ground, allowed: Callable[[int], bool], *, reverts: bool = False) -> None:
    """The next guard explains and completes what the kill left."""
    assert allowed(limit()), f"{limit()} in force after the kill"
    persisted(ground.stage)  # whole, or it raises
    guard, found = ground.start(), limit()
    if reverts:  # its file comes before its limit, which the next raise has follow again
        ground.resume()
        found = ground.raise_once(guard)
    ground.settled(guard)
    assert limit() >= found, f"the start lowered {found} to {limit()}"
    ground.sound(guard)
    ground.chain()


def _go_on(ground: Ground) -> None:
    """After all of them a guard still raises."""
    guard = ground.running()
    ground.resume()
    ground.raise_once(guard)
    ground.settled(guard)
    ground.stop(guard)
    ground.chain()

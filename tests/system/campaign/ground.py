"""What every kind of fault acts on: a real guard with short intervals in a private world, and what must hold of it."""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from testbed.faults import DROP_IN, RUN, open_intents, persisted, reset, staged
from testbed.limit_guard import LimitGuard
from testbed.private_world import PYTHON, Guard, eventually
from testbed.stage import LIMIT, Stage, limit

PROGRAM = "/run/private-world/repository/tests/system/campaign/hurried_guard.py"
SETTINGS = {"raise_early": False, "conflict_limit": 0, "growth_factor": "1.1", "cooldown": "50ms"}
ETC = "etc/conntrackd-guard"
_RAW = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
_FAULT = re.compile(r"Traceback|Unexpected \w+|Fatal Python")
_SECONDS = 60.0
"""Long, for a slow machine: everything is waited for by its condition."""


class Ground:
    """One stage for a kind of fault; counts what was done and keeps what was found."""

    def __init__(self, stage: Stage, rng: random.Random, kind: str) -> None:
        self.stage, self.random, self.kind = stage, rng, kind
        self.root = stage.world.root
        self.done = Counter[str]()
        self.findings: list[str] = []

    def attempt(self, what: str, step: Callable[[], object], times: int = 1) -> None:
        """Do one step; a failed check is a finding, and the next step has a clean ground."""
        try:
            step()
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            self.findings.append(f"{self.kind} {sum(self.done.values())}: {what}: {type(error).__name__}: {error}")
            print(f"FOUND {self.findings[-1]}", flush=True)  # noqa: T201 - the result
            self.clean()
        self.done[what] += times

    def clean(self, **settings: object) -> None:
        """Begin again: no guard, no files of one, an empty table, the first limit, and these settings."""
        for guard in self.stage.world._guards:
            if guard.process.poll() is None:
                guard.kill()
        subprocess.run(["rm", "-rf", self.root / ETC, self.root / DROP_IN], check=True)
        (self.root / ETC).mkdir()
        self.stage.world.configure(SETTINGS | settings)
        reset(self.stage)

    def start(self, *, ready: bool = True, ring_buffer: bool = True) -> Guard:
        """Start a guard; wait until it watches if it has to be `ready`."""
        world = self.stage.world
        if ready:
            return world.start_guard(program=PROGRAM, ring_buffer=ring_buffer)
        log = world._folder / f"guard-{len(world._guards)}.log"
        with log.open("wb") as out:
            guard = Guard(world._spawn([PYTHON, PROGRAM, "run", "--log-format", "json"], out), log)
        world._guards.append(guard)
        return guard

    def running(self) -> Guard:
        """Return the guard that runs, or start one."""
        alive = [guard for guard in self.stage.world._guards if guard.process.poll() is None]
        return alive[-1] if alive else self.start()

    def resume(self) -> None:
        """End a pause, as an operator does."""
        if os.path.lexists(self.root / RUN / "pause"):
            self.stage.world.guard("resume")
            assert not os.path.lexists(self.root / RUN / "pause"), "`guard resume` leaves the pause"

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin another command of the guard."""
        return self.stage.world._spawn([PYTHON, PROGRAM, *arguments], subprocess.DEVNULL)

    def overflow(self, packets: int = 1) -> None:
        """Fill the table and send packets that it drops."""
        self.stage.table.fill(max(0, limit() - self.stage.table.count()))
        self.stage.table.overflow(packets)

    def meanwhile(self, work: Callable[[], object]) -> threading.Thread:
        """Do `work` in a thread."""
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def raise_once(self, guard: Guard) -> int:
        """Overflow the table until the guard raises, and return the limit then."""
        before = limit()

        def raised() -> bool:
            assert guard.process.poll() is None, f"ended with {guard.process.poll()}: {tail(guard)}"
            self.overflow()
            return limit() > before

        eventually(raised, f"a raise above {before}; {tail(guard)}", seconds=_SECONDS)
        return limit()

    def settled(self, guard: Guard) -> None:
        """Wait until everything is explained and saved: no intent, no override, and the drop-in has the limit in force."""
        overrides = self.root / RUN / "overrides"
        for what, holds in (
            ("intents closed", lambda: not open_intents(self.stage)),
            ("overrides taken", lambda: not list(overrides.glob("*.json"))),
            ("the drop-in", lambda: persisted(self.stage) in {limit(), *([None] if limit() == LIMIT else [])}),
        ):
            eventually(holds, f"{what} (limit {limit()}); {tail(guard)}", seconds=_SECONDS)
        folders = (
            self.root / RUN,
            self.root / "etc/sysctl.d",
        )  # a status that is just written is gone at the next look
        eventually(lambda: not any([*folder.rglob(".*.new")] for folder in folders), "an end of `.new` files")

    def sound(self, guard: Guard) -> None:
        """The log has no control character, no traceback and no error that the program did not expect."""
        content = guard.log.read_bytes()
        assert not (raw := _RAW.search(content)), f"raw {raw[0]!r} in the log"
        assert not (fault := _FAULT.search(content.decode())), f"{fault[0]}: {tail(guard)}"

    def stop(self, guard: Guard) -> None:
        """End a guard and look at its log."""
        code = guard.stop()
        self.sound(guard)
        assert code == 0, f"exit code {code}: {tail(guard)}"

    def chain(self) -> None:
        """The raises in the history lead to the limit in force without a gap, but for reverts."""
        rows = [row for row in self.stage.world.decisions() if row["outcome"] == "applied" and row["to"]]
        for one, other in pairwise(rows):
            assert one["to"] == other["from"], f"a gap in the history: {[(r['from'], r['to']) for r in rows]}"
        assert not rows or rows[-1]["to"] == limit(), f"{rows[-1]['to']} is the last row, {limit()} in force"


@contextmanager
def ground(kind: str, seed: int) -> Iterator[Ground]:
    """Give a kind of fault its ground; the limit is restored in every case."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LimitGuard() as limit_guard,
        staged(limit_guard, Path(folder)) as stage,
    ):
        limit_guard.set_message_cost(0)
        one = Ground(stage, random.Random(f"{kind} {seed}"), kind)  # noqa: S311 - repeatable, no secret
        yield one
        one.clean()


def tail(guard: Guard) -> str:
    """Return the end of a guard's log."""
    return guard.log.read_text("utf-8", "replace")[-1500:]

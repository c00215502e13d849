"""A whole guard on a made-up host, driven at random: it raises only for a table that needs it then and there."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from testbed.guarded import LIMIT, Guarded, Host, an_override

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Corroboration, OverrideKind, Pause, Raise, Record, Trigger
from conntrackd_guard.daemon.applier import BucketsRefused, Lowered
from conntrackd_guard.host.conntrack import namespaces

INITIAL, ROOTLESS = "1", "200"
GONE = 999
"""A namespace that nothing leads to."""


class AnyOrderOfEvents(RuleBasedStateMachine):
    """The initial table, which is trusted, and a rootless container's, which is not."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory()
        self.host = Host(Path(self.folder.name))
        self.patch.setattr(namespaces, "_user_owned", lambda d: os.fstat(d).st_ino == self.host.container)
        self.counts, self.drops = {INITIAL: 0, ROOTLESS: 0}, {INITIAL: 0, ROOTLESS: 0}
        self.turns: deque[tuple[float, int, int, bool]] = deque(maxlen=300)
        """Time, entries and drops of the trusted table, and whether it stood near the limit, at each turn."""
        self.raised: list[Record] = []
        self.judged: dict[tuple[int | None, int | None], Corroboration | None] = {}
        """What the first decision about each message found: by namespace and stamp."""
        self.hidden = False

    @initialize(raise_early=st.booleans(), kernel_message=st.booleans())
    def start(self, *, raise_early: bool, kernel_message: bool) -> None:
        """Start the guard, with any of its triggers."""
        self.policy = Policy(raise_early=raise_early, kernel_message=kernel_message)
        self.guarded = Guarded(self.host, self.policy)
        apply, decide = self.guarded.parts.applier.apply, self.guarded.controller.decide

        def applied(planned: Record, decision: Raise) -> Record | Lowered | BucketsRefused:
            self.raised.append(planned)
            return apply(planned, decision)

        def decided(trigger: Trigger, **more: Any) -> Any:
            decision = decide(trigger, **more)
            self.judged.setdefault((trigger.namespace, trigger.stamp_us), decision.corroboration)
            return decision

        self.guarded.parts.applier.apply = applied  # type: ignore[method-assign]
        self.guarded.controller.decide = decided  # type: ignore[method-assign]

    def teardown(self) -> None:
        """End the guard."""
        if hasattr(self, "guarded"):
            self.guarded.stop()
        self.patch.undo()
        self.folder.cleanup()

    def put(self, pid: str) -> None:
        """Have the host show that table."""
        self.host.table(self.counts[pid], drop=self.drops[pid], pid=pid)
        self.host.leave(2 * LIMIT if self.hidden else 0)

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.05, 0.25, 0.25, 1.0, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        """The loop does a turn, and every raise in it is judged."""
        count, limit = self.counts[INITIAL], self.host.limit
        near = count >= 0.8 * limit
        self.turns.append((self.guarded.clock.now + seconds, count, self.drops[INITIAL], near))
        self.raised.clear()
        self.guarded.turn(seconds)
        for record in self.raised:
            assert isinstance(record.decision, Raise)
            event(f"raised: {record.decision.corroboration}")
            if record.decision.corroboration is Corroboration.CONFIRMED:
                share, growth = count / limit, self.growth()
                lasts = (limit - count) / growth if growth > 0 else float("inf")
                assert share >= 0.8 or (share >= 0.75 and lasts < 600) or (share >= 0.3 and lasts <= 1), (share, lasts)
            else:
                trigger = record.trigger
                readable = {self.host.initial} | ({self.host.container} if ROOTLESS in self.counts else set())
                assert trigger.namespace not in readable
                assert trigger.namespace is not None or not record.observation.complete
                first = self.judged.get((trigger.namespace, trigger.stamp_us))
                assert first in {None, Corroboration.UNKNOWN}, "a message that was explained before"

    def growth(self) -> float:
        """Return the steepest growth of the trusted table in two seconds; what it dropped counts if it was near the limit."""
        now = self.turns[-1][0]
        looks = [turn for turn in self.turns if now - turn[0] <= 2.01]
        refused = any(turn[3] for turn in looks)
        wanted = [(at, count + drop * refused) for at, count, drop, _ in looks]
        pairs = [(a, b) for index, a in enumerate(wanted) for b in wanted[index + 1 :] if b[0] - a[0] >= 0.0199]
        return max(((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs), default=0.0)

    @rule(
        pid=st.sampled_from([INITIAL, INITIAL, ROOTLESS]), share=st.sampled_from([0.05, 0.5, 0.74, 0.79, 0.85, 0.96, 1])
    )
    def entries_come_and_go(self, pid: str, share: float) -> None:
        """A table holds any share of the limit."""
        if pid in self.counts:
            self.counts[pid] = int(share * self.host.limit)
            self.put(pid)

    @rule(pid=st.sampled_from([INITIAL, ROOTLESS]), entries=st.integers(-2_000, 4_000))
    def a_few_entries_come_and_go(self, pid: str, entries: int) -> None:
        """A table changes a little."""
        if pid in self.counts:
            self.counts[pid] = max(0, self.counts[pid] + entries)
            self.put(pid)

    @rule(pid=st.sampled_from([INITIAL, ROOTLESS]), packets=st.sampled_from([1, 3, 60, 20_000]))
    def packets_are_dropped(self, pid: str, packets: int) -> None:
        """For want of room, or because races are lost and allocations fail."""
        if pid in self.counts:
            self.drops[pid] += packets
            self.put(pid)

    @rule(about=st.sampled_from(["none", "initial", "container", "gone"]))
    def the_kernel_prints_a_message(self, about: str) -> None:
        """With or without a number."""
        numbers = {"none": None, "initial": self.host.initial, "container": self.host.container, "gone": GONE}
        self.guarded.message(numbers[about])

    @rule(share=st.sampled_from([0.1, 0.5, 2, 8]))
    def another_program_sets_the_limit(self, share: float) -> None:
        """To less or more."""
        self.host.limit = min(4_000_000, max(4_096, int(share * self.host.limit)))

    @rule()
    def raising_is_paused(self) -> None:
        """By an operator."""
        self.guarded.runtime_dir.put_pause(Pause(by="root", reason="drill"))

    @rule()
    def raising_is_resumed(self) -> None:
        """By an operator."""
        self.guarded.runtime_dir.drop_pause()
        resume = an_override(self.guarded, OverrideKind.RESUME)
        self.guarded.runtime_dir.overrides.put(resume.key, encode(resume))

    @precondition(lambda self: ROOTLESS in self.counts)
    @rule(late=st.booleans())
    def the_container_ends(self, *, late: bool) -> None:
        """Its entries are freed at once or late."""
        self.host.end(ROOTLESS)
        del self.counts[ROOTLESS], self.drops[ROOTLESS]
        self.hidden = late
        self.put(INITIAL)

    @precondition(lambda self: self.hidden)
    @rule()
    def its_entries_are_freed(self) -> None:
        """At last."""
        self.hidden = False
        self.put(INITIAL)


TestAnyOrderOfEvents: Any = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""A whole guard on a made-up host, driven at random: it raises only for a table that needs it then and there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from testbed.guarded import Guarded, Host, an_override

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Corroboration, OverrideKind, Pause, Raise, Record, Trigger
from conntrackd_guard.daemon.applier import BucketsRefused, Lowered
from conntrackd_guard.host.conntrack import owner_helper
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostInput, Span
from conntrackd_guard.replay.sources.history import HistoryFile

OURS, THEIRS = "1", "200"
"""Processes: of the initial namespace, and of a rootless container, which is not trusted."""

pids = st.sampled_from([OURS, OURS, THEIRS])
events = st.one_of(
    st.tuples(st.just("holds"), pids, st.sampled_from([0.05, 0.5, 0.74, 0.79, 0.85, 0.96, 1.0])),
    st.tuples(st.just("grows"), pids, st.integers(-2_000, 4_000)),
    st.tuples(st.just("drops"), pids, st.sampled_from([1, 60, 20_000])),  # for want of room, or lost races
    st.tuples(st.just("drops"), pids, st.sampled_from([1, 60, 20_000])),
    st.tuples(st.just("message"), st.sampled_from([None, OURS, THEIRS, "gone"]), st.none()),
    st.tuples(st.just("message"), st.sampled_from([None, OURS, THEIRS, "gone"]), st.none()),
    st.tuples(st.just("limit"), st.none(), st.sampled_from([0.1, 0.5, 2, 8])),
    st.tuples(st.sampled_from(["pause", "resume", "nothing"]), st.none(), st.none()),
    st.tuples(st.just("ends"), st.sampled_from([None, THEIRS, "silent"]), st.booleans()),
)
times = st.sampled_from([0.01, 0.05, 0.25, 0.25, 1.0, 5.5, 11.0])
"""Seconds after an event until the loop does its next turn."""


class Scene:
    """The host and its guard, and what a reader of the law needs to know of them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, policy: Policy) -> None:
        patch.setattr(owner_helper, "_user_owned", lambda at: f"/{THEIRS}/" in os.readlink(f"/proc/self/fd/{at}"))
        self.host = Host(folder)
        self.guarded = Guarded(self.host, policy)
        self.counts, self.drops = {OURS: 0, THEIRS: 0}, {OURS: 0, THEIRS: 0}
        self.turns = [(self.guarded.clock.now, 0, 0, False)]
        """Time, entries and drops of our table, and whether it stood near the limit, at each turn."""
        self.raised: list[Record] = []
        self.judged: dict[tuple[int | None, int | None], Corroboration | None] = {}
        """What the first decision about each message found: by namespace and stamp."""
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

    def happen(  # noqa: C901 - one case an event
        self, what: str, who: str | None, figure: Any
    ) -> None:
        """Have one event happen."""
        guarded = self.guarded
        match what:
            case "holds" if who in self.counts:
                self.counts[who] = int(figure * self.host.limit)
            case "grows" if who in self.counts:
                self.counts[who] = max(0, self.counts[who] + figure)
            case "drops" if who in self.drops:
                self.drops[who] += figure
            case "message":
                numbers = {OURS: self.host.initial, THEIRS: self.host.container, "gone": 999}
                guarded.message(numbers.get(who or ""))
            case "limit":
                self.host.limit = min(4_000_000, max(4_096, int(figure * self.host.limit)))
            case "pause":
                guarded.runtime_dir.put_pause(Pause(by="root", reason="drill"))
            case "resume":
                guarded.runtime_dir.drop_pause()
                resume = an_override(guarded, OverrideKind.RESUME)
                guarded.runtime_dir.overrides.put(resume.key, encode(resume))
            case "ends" if THEIRS in self.counts:  # when it was full and a message came, or at any other time
                if who != "silent":
                    self.happen("holds", THEIRS, 1.0)
                    self.happen("message", who, None)
                    self.turn(0.05)
                self.host.end(THEIRS, memory_is_kept=figure)
                del self.counts[THEIRS], self.drops[THEIRS]
            case "ends":
                self.host.end(THEIRS, memory_is_kept=False)
            case _:
                return
        for pid, count in self.counts.items():
            self.host.table(count, drop=self.drops[pid], pid=pid)

    def turn(self, seconds: float) -> None:
        """Have the loop do a turn after that time, and judge every raise in it."""
        count, limit = self.counts[OURS], self.host.limit
        self.turns.append((self.guarded.clock.now + seconds, count, self.drops[OURS], count >= 0.8 * limit))
        self.raised.clear()
        self.guarded.turn(seconds)
        for record in self.raised:
            assert isinstance(record.decision, Raise)
            event(f"raised: {record.trigger.kind}, {record.decision.corroboration}")
            if record.decision.corroboration is Corroboration.CONFIRMED:
                share, growth = count / limit, self.growth()
                lasts = (limit - count) / growth if growth > 0 else float("inf")
                assert share >= 0.8 or (share >= 0.75 and lasts < 600) or (share >= 0.3 and lasts <= 1)
            else:
                number, readable = record.trigger.namespace, {self.host.initial}
                assert number not in readable | ({self.host.container} if THEIRS in self.counts else set())
                assert number is not None or not record.observation.complete
                first = self.judged.get((number, record.trigger.stamp_us))
                assert first in {None, Corroboration.UNKNOWN}, "a message that was explained before"

    def growth(self) -> float:
        """Return the steepest growth of our table in two seconds; what it dropped counts if it was near the limit."""
        now = self.turns[-1][0]
        looks = [turn for turn in self.turns if now - turn[0] <= 2.01]
        refused = any(turn[3] for turn in looks)
        wanted = [(at, count + drop * refused) for at, count, drop, _ in looks]
        pairs = [(a, b) for index, a in enumerate(wanted) for b in wanted[index + 1 :] if b[0] - a[0] >= 0.0199]
        return max(((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs), default=0.0)


@settings(max_examples=settings().max_examples // 2)
@given(st.lists(st.tuples(events, times), min_size=6, max_size=30), st.booleans())
def test_no_raise_without_need_in_any_order_of_events(
    course: list[tuple[tuple[str, str | None, Any], float]],
    raise_early: bool,  # noqa: FBT001 - drawn
) -> None:
    """No table under the threshold is raised for, unless its growth would fill it; and no message twice explained.

    Each row of the history, decided again from what it recorded, gets its recorded verdict.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        scene = Scene(Path(folder), patch, Policy(raise_early=raise_early, conflict_limit=0))
        try:
            for what, seconds in course:
                scene.happen(*what)
                scene.turn(seconds)
        finally:
            scene.guarded.stop()
        for one in HistoryFile(scene.guarded.paths.history).read(Span()):
            if isinstance(one, HostInput) and one.grade is Grade.EXACT:
                exact = replay(one, Policy(), recorded=True).exact
                assert exact is not None
                assert exact.differences == ()
                assert exact.same + exact.overrides == exact.rows
                event(f"decided again: {exact.rows > 0}")

"""Hosts, states and policies as hypothesis makes them: anything the settings and the kernel allow."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from conntrackd_guard.core.configuration import Buckets, FloodAction, FloodResponse, Policy, Share
from conntrackd_guard.core.model import INT_MAX, MessageKind, Observation, Refusal, State, Table, Trigger, TriggerKind

GIB = 1 << 30
NOW = 10_000.0

namespaces = st.integers(min_value=4026531840, max_value=4026531842)


@st.composite
def tables(draw: st.DrawFn, limit: int) -> tuple[Table, ...]:
    """Up to five tables, from empty to a little over the limit."""
    numbers = draw(st.lists(namespaces, unique=True, min_size=1, max_size=3))
    return tuple(
        Table(
            namespace=number,
            label=f"process {number % 100}",
            count=draw(st.sampled_from([0, limit * 17 // 20, limit, limit + 1]) | st.integers(0, limit + 1)),
            dropped=draw(st.none() | st.integers(0, 5000)),
            demand_per_second=draw(st.none() | st.floats(0, 1e6)),
            burst_per_second=draw(st.none() | st.floats(0, 1e6)),
            user_owned=draw(st.booleans()) and draw(st.booleans()),
            flooded=draw(st.none() | st.booleans()),
        )
        for number in numbers
    )


limits = st.one_of(
    st.sampled_from([8192, 65_536, 262_144]), st.integers(1, 2_000_000), st.integers(INT_MAX - 1000, INT_MAX)
)
totals = st.sampled_from([GIB, 24 * GIB, 128 * GIB]) | st.integers(64 << 20, 1 << 42)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """A host at one moment."""
    limit = draw(limits)
    total = draw(totals)
    available = draw(st.integers(0, total) | st.integers(total // 2, total))
    return Observation(
        boottime_seconds=NOW,
        wall_seconds=1.8e9,
        boot_id="b",
        limit=limit,
        kernel_limit=limit,
        tables=draw(tables(limit)),
        complete=draw(st.booleans()),
        unread_tables=draw(st.just(0) | st.integers(1, 3)),
        hidden_entries=draw(st.just(0) | st.integers(0, 2 * limit)),
        buckets=draw(st.sampled_from([None, 65_536, 262_144, 1 << 22]) | st.integers(512, 1 << 22)),
        entry_slab_bytes=draw(st.none() | st.integers(192, 512)),
        memory_total_bytes=total,
        memory_hugetlb_bytes=draw(st.just(0) | st.integers(0, total)),
        memory_available_bytes=available,
        memory_zfs_bytes=draw(st.just(0) | st.integers(0, available)),
        memory_is_low=draw(st.booleans()),
    )


@st.composite
def crowds(draw: st.DrawFn) -> Observation:
    """A host with up to two hundred tables beside, from nearly empty to full; some of users, some that dropped."""
    seen = draw(observations())
    limit = seen.limit or 0
    share, number = draw(st.sampled_from([0.0, 0.29, 0.31, 0.45, 0.49, 0.75, 0.81, 1.0])), draw(st.integers(0, 60))
    counts = draw(st.lists(st.integers(1, 5000), max_size=140)) + [int(share * limit)] * number
    crowd = tuple(
        Table(
            namespace=index,
            label="",
            count=min(count, limit),
            dropped=draw(st.sampled_from([0, None, 1])),
            demand_per_second=draw(st.sampled_from([None, 1e6])),
            user_owned=draw(st.booleans()),
        )
        for index, count in enumerate(counts)
    )
    return replace(seen, tables=seen.tables + crowd)


restrictions = st.just(FloodResponse(action=FloodAction.HOLD)) | st.builds(
    FloodResponse, action=st.just(FloodAction.RAISE_TO), limit=st.integers(1, INT_MAX)
)
"""Values of `on_flood` that a flood is treated differently with."""

policies = st.just(Policy()) | st.builds(
    Policy,
    threshold=st.floats(0.1, 0.95),
    growth_factor=st.floats(1.01, 10),
    budget=st.builds(Share, fraction=st.floats(0, 0.9)),
    min_available=st.none() | st.builds(Share, fraction=st.floats(0, 0.9)),
    min_limit=st.none() | st.integers(1, INT_MAX),
    max_limit=st.none() | st.integers(1, INT_MAX),
    on_flood=st.just(FloodResponse()) | restrictions,
    buckets=st.sampled_from(Buckets),
    trust_user_namespaces=st.booleans(),
)

states = st.just(State()) | st.builds(
    State,
    last_raise_seconds=st.none() | st.floats(NOW - 60, NOW),
    raise_seconds=st.lists(st.floats(NOW - 700, NOW), max_size=25).map(lambda times: tuple(sorted(times))),
    set_limit=st.none(),
    reverted=st.booleans(),
    conflict_seconds=st.lists(st.floats(NOW - 90_000, NOW), max_size=5).map(lambda times: tuple(sorted(times))),
    refusal=st.none()
    | st.builds(
        Refusal,
        errno=st.just(30),
        limit=st.integers(1, 100),
        count=st.integers(1, 9),
        until_seconds=st.floats(NOW - 10, NOW + 300),
    ),
)

line_triggers = st.builds(
    Trigger,
    kind=st.just(TriggerKind.KERNEL_MESSAGE),
    message_kind=st.just(MessageKind.TABLE_FULL),
    namespace=st.none() | namespaces,
    message_count=st.just(1),
    message_seconds=st.floats(NOW - 5, NOW),
    stamp_us=st.integers(0, 2**53),
    judged=st.booleans(),
)
triggers = line_triggers | st.builds(Trigger, kind=st.just(TriggerKind.FILLING_UP), namespace=namespaces)

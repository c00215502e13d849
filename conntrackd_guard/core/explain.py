"""The why of a record in plain English, with the figures: the same text in log, history and `guard show`."""

from __future__ import annotations

from typing import assert_never

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Arithmetic,
    Bound,
    Corroboration,
    Hold,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    Table,
    TriggerKind,
)
from conntrackd_guard.core.text import printable, short
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.core.verification import Drops, End, Verification

_MOST_IN_SECONDS = 100
_WHOLE_FROM = 10
"""A growth of 0.2/s is not shown as 0."""

_ABOUT_A_TABLE = frozenset(
    {
        HoldReason.STABLE,
        HoldReason.UNTRUSTED_NAMESPACE,
        HoldReason.PAUSED,
        HoldReason.CONFLICT,
        HoldReason.WRITE_REFUSED,
        HoldReason.RATE_LIMITED,
        HoldReason.OVER_BUDGET,
        HoldReason.RESERVE,
        HoldReason.AT_CEILING,
        HoldReason.FLOOD,
        HoldReason.UNSAMPLED,
        HoldReason.CHAINS,
        HoldReason.INT_MAX,
        HoldReason.CONTRADICTED,
        HoldReason.DRY_RUN_SUFFICIENT,
    }
)
"""Holds of which the reader wants to know how full the table is."""


def sentence(record: Record) -> str:
    """Return why, what it costs and what to do next, on one line, safe to print."""
    match record.decision:
        case Raise() as decision:
            text = _raise_sentence(record, decision)
        case Hold() as decision:
            text = _hold_sentence(record, decision)
        case Override() as decision:
            text = _order_sentence(record, decision)
        case _:
            assert_never(record.decision)
    return printable(text)


def table_name(table: Table) -> str:
    """Return what people call the table's namespace: `the initial namespace`, `web (netns 4026532316)`."""
    if table.initial:
        return "the initial namespace"
    number = f"netns {table.namespace}"
    return f"{short(table.label)} ({number})" if table.label and table.label != number else number


def concerned(record: Record) -> Table | None:
    """Return the table that the record is about: the one named, else the fullest, None where none was read.

    An untrusted one is what a hold for that reason is about, but not a sum that charges another table as full too.
    """
    tables, decision = record.observation.tables, record.decision
    about = [table for table in tables if table.namespace == record.trigger.namespace] or [*tables]
    if isinstance(decision, Hold) and decision.reason is HoldReason.UNTRUSTED_NAMESPACE:
        about = [table for table in about if table.user_owned] or about
    arithmetic = None if isinstance(decision, Override) else decision.arithmetic
    if arithmetic is not None and arithmetic.full_tables > 1 and any(table.user_owned for table in about):
        about = [table for table in tables if not table.user_owned] or about
    return max(about, key=lambda table: table.count, default=None)


def _raise_sentence(record: Record, decision: Raise) -> str:
    outcome, arithmetic = record.outcome, decision.arithmetic
    step = f"{arithmetic.current:,} → {decision.target:,}"
    match outcome.kind:
        case OutcomeKind.APPLIED | OutcomeKind.NONE:
            done = f"Raised {step}"
        case OutcomeKind.REHEARSED:
            done = f"Would raise {step} (dry run)"
        case OutcomeKind.REJECTED:
            done = f"Could not raise {step} ({outcome.detail or 'the kernel refused the write'})"
        case OutcomeKind.NOT_APPLIED:
            done = f"Did not raise {step} ({outcome.detail or 'the write never happened'})"
        case OutcomeKind.UNKNOWN:
            done = f"May have raised {step} ({outcome.detail or 'it is not known whether the write happened'})"
        case _:
            assert_never(outcome.kind)
    return " ".join([f"{done}: {_need(record, decision)}; {_cost(arithmetic)}.", *decision.advice])


def _need(record: Record, decision: Raise) -> str:
    """Return what made the guard raise."""
    if record.trigger.persisted is not None:
        return f"{record.trigger.persisted.limit:,} was kept for this boot, and a kernel default is in force"
    table = concerned(record)
    if decision.corroboration is Corroboration.UNKNOWN or table is None:
        number = record.trigger.namespace
        return f"the kernel reports a full table{f' in netns {number}' if number else ''}, which could not be checked"
    how = _how_full(table, decision.arithmetic.current)
    state = "was full" if table.count >= decision.arithmetic.current or table.dropped else "was filling up"
    fuller = any(other.count > table.count for other in record.observation.tables)
    by_line = record.trigger.namespace == table.namespace or (record.trigger.namespace is None and not fuller)
    if record.trigger.kind is not TriggerKind.FILLING_UP and by_line and state != "was full":
        state = "was full a moment before"
    return f"the table of {table_name(table)} {state} ({how})"


def _how_full(table: Table, limit: int) -> str:
    """Return count, drops and growth: `65,536 of 65,536, 1,204 dropped, growing by 300 a second`."""
    parts = [f"{table.count:,} of {limit:,}"]
    if table.dropped:
        parts.append(f"{table.dropped:,} dropped")
    if table.demand_per_second and table.demand_per_second >= 1:
        parts.append(f"demand {table.demand_per_second:,.0f} a second")
    return ", ".join(parts)


def _cost(arithmetic: Arithmetic) -> str:
    """Return what the step may cost and leaves."""
    left = arithmetic.memory_available_bytes - arithmetic.new_bytes
    return (
        f"the worst case costs {format_bytes(arithmetic.cost_bytes)} of a {format_bytes(arithmetic.budget_bytes)} "
        f"budget and leaves {format_bytes(left)} available"
    )


def _hold_sentence(record: Record, decision: Hold) -> str:
    limit = record.observation.limit
    parts = [decision.reason.sentence]
    match decision.reason:
        case HoldReason.LIMIT_RAISED | HoldReason.LIMIT_LOWERED if record.trigger.was is not None and limit is not None:
            by = f" ({record.outcome.detail})" if record.outcome.detail else ""
            parts = [f"{decision.reason.sentence.rstrip('.')}: {record.trigger.was:,} → {limit:,}{by}."]
        case HoldReason.PAUSED if record.observation.pause is not None:
            pause = record.observation.pause
            parts.append(f"By {pause.by}{f': {pause.reason}' if pause.reason else ''}.")
        case HoldReason.WRITE_REFUSED if record.state.refusal is not None:
            refusal = record.state.refusal
            wait = max(0.0, refusal.until_seconds - record.observation.boottime_seconds)
            parts.append(f"Refused {refusal.count} times (errno {refusal.errno}); next try in {format_duration(wait)}.")
        case HoldReason.RESERVE_BROKEN if decision.arithmetic is not None:
            parts = [_broken(decision.arithmetic)]
        case _:
            pass
    table = concerned(record)
    if decision.reason in _ABOUT_A_TABLE and table is not None and limit:
        name = table_name(table)
        parts.append(f"The table of {name} holds {_how_full(table, limit)} ({100 * table.count / limit:.0f} %).")
    if decision.arithmetic is not None:
        parts.append(_bounds(decision.arithmetic))
    where = "" if limit is None else f" at {limit:,}"
    return " ".join([f"Held{where}: {parts[0]}", *(part for part in parts[1:] if part), *decision.advice])


def _broken(arithmetic: Arithmetic) -> str:
    """Return which is broken: the budget, by the tables, or the reserve, by whoever took the memory."""
    taken = f"{arithmetic.in_use:,} entries take {format_bytes(arithmetic.cost_bytes)}"
    budget, reserve = format_bytes(arithmetic.budget_bytes), format_bytes(arithmetic.min_available_bytes)
    over = arithmetic.cost_bytes > arithmetic.budget_bytes
    told = [f"The tables hold more memory than the budget: {taken} of {budget}."] if over else []
    if arithmetic.memory_available_bytes < arithmetic.min_available_bytes:
        tables = "" if over else f"; the tables' {taken} of a budget of {budget}"
        available = format_bytes(arithmetic.memory_available_bytes)
        told.append(f"Less memory is available than the reserve, {available} of {reserve}{tables}.")
    return " ".join(told) or HoldReason.RESERVE_BROKEN.sentence


def _bounds(arithmetic: Arithmetic) -> str:
    """Return the figures of the bound that held the step back."""
    match arithmetic.bound:
        case Bound.TARGET:
            return ""
        case Bound.MAX_LIMIT:
            bound = "the ceiling allows"
        case Bound.FLOOD:
            bound = "`on_flood` allows"
        case Bound.BUDGET:
            bound = f"the budget of {format_bytes(arithmetic.budget_bytes)} allows"
        case Bound.MIN_AVAILABLE:
            available = format_bytes(arithmetic.memory_available_bytes)
            bound = f"a reserve of {format_bytes(arithmetic.min_available_bytes)} ({available} is available) allows"
        case Bound.CHAINS:
            bound = f"{arithmetic.buckets or 0:,} buckets allow"
        case Bound.INT_MAX:
            bound = "the kernel allows"
        case _:
            assert_never(arithmetic.bound)
    return f"Wanted {arithmetic.wanted:,}; {bound} {arithmetic.target:,}."


def _order_sentence(record: Record, order: Override) -> str:
    who = "" if order.uid is None else f" by uid {order.uid}"
    if order.login_uid is not None and order.login_uid != order.uid:
        who += f" (logged in as uid {order.login_uid})"
    why = f": {order.reason.rstrip('.')}" if order.reason else ""
    observation = record.observation
    match order.kind:
        case OverrideKind.REVERT:
            done = "Reverted" if record.outcome.kind is OutcomeKind.APPLIED else "Ordered to revert"
            target = "the value before" if order.target is None else f"{order.target:,}"
            detail = f" {record.outcome.detail.rstrip('.')}." if record.outcome.detail else ""
            return f"{done} {observation.limit or 0:,} → {target}{who}{why}.{detail}"
        case OverrideKind.PAUSE:
            until = "until `guard resume`"
            if order.until_seconds is not None:
                until = f"for {format_duration(max(0.0, order.until_seconds - observation.boottime_seconds))}"
            return f"Raising paused {until}{who}{why}."
        case OverrideKind.RESUME:
            return f"Raising resumed{who}{why}."
        case _:
            assert_never(order.kind)


def verification(found: Verification) -> str:
    """Return whether the drops ended, what ended the watching, and how long the limit lasts."""
    return f"{_drops(found)} {_lasts(found)}"


def _drops(found: Verification) -> str:
    dropped, watched = f"{found.dropped or 0:,} more dropped", _span(found.seconds)
    match found.end:
        case End.WATCHED:
            until = f"in the {watched} watched"
        case End.RAISED_AGAIN:
            until = f"in the {watched} until the next raise"
        case End.LIMIT_CHANGED:
            until = f"in the {watched} until the limit was changed"
        case _:
            assert_never(found.end)
    match found.drops:
        case Drops.NONE:
            return f"nothing dropped {until}."
        case Drops.ENDED:
            return f"the drops ended {_span(found.last_drop_seconds or 0)} after the raise ({dropped})."
        case Drops.CONTINUING:
            return f"drops went on: {dropped} {until}."
        case Drops.UNKNOWN:
            return f"no drop counter of that table could be read {until}."
        case _:
            assert_never(found.drops)


def _lasts(found: Verification) -> str:
    if found.growth_per_second is None:
        return "The growth was seen too short to tell how long the limit lasts."
    if found.seconds_to_full is None:
        return "No table grew."
    growth, left = found.growth_per_second, found.seconds_to_full
    rate = f"{growth:,.0f}" if growth >= _WHOLE_FROM else f"{growth:g}"
    return f"At this rate ({rate}/s) {found.limit:,} lasts {format_duration(left) if left >= 1 else 'no longer'}."


def _span(seconds: float) -> str:
    """Return how long: two looks are not always close, a host may have been suspended between them."""
    return f"{seconds:.3g} s" if seconds < _MOST_IN_SECONDS else format_duration(seconds)

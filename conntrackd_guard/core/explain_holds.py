"""The sentences of holds: what was not done and why, with the figures of the record."""

from collections.abc import Callable
from typing import assert_never

from conntrackd_guard.core import tuning
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, MessageKind, Record, Table
from conntrackd_guard.core.records import concerned, table_name
from conntrackd_guard.core.state import advance
from conntrackd_guard.core.units import format_bytes, format_duration, format_span

_STATEMENTS = frozenset({
    HoldReason.HISTORICAL, HoldReason.SUPPRESSED, HoldReason.RESOLVED, HoldReason.COOLDOWN, HoldReason.UNLIMITED,
    HoldReason.NO_CONNTRACK, HoldReason.ALREADY_IN_FORCE, HoldReason.SET_ELSEWHERE, HoldReason.OVER_BUDGET_AT_START,
    HoldReason.LIMIT_RAISED, HoldReason.LIMIT_LOWERED, HoldReason.RESERVE_BROKEN,
})  # fmt: skip
"""Holds of which nobody expected a raise: their sentence begins without `Not raised`."""
_ABOUT_A_TABLE = frozenset({
    HoldReason.STABLE, HoldReason.UNTRUSTED_NAMESPACE, HoldReason.PAUSED, HoldReason.CONFLICT, HoldReason.WRITE_REFUSED,
    HoldReason.RATE_LIMITED, HoldReason.OVER_BUDGET, HoldReason.RESERVE, HoldReason.AT_CEILING, HoldReason.FLOOD,
    HoldReason.UNSAMPLED, HoldReason.CHAINS, HoldReason.INT_MAX, HoldReason.CONTRADICTED, HoldReason.DRY_RUN_SUFFICIENT,
})  # fmt: skip
"""Holds whose reader needs to know how full the table is."""
_MESSAGES = {
    MessageKind.TABLE_FULL: "table full",
    MessageKind.EXPECTATION_FULL: "expectation table full",
    MessageKind.NEIGHBOUR_FULL: "neighbour table overflow",
    MessageKind.SUPPRESSED: "callbacks suppressed",
}
UNKNOWN_WRITER = "by unknown"
"""The detail of an outcome where nothing shows who changed the limit."""


def hold_sentence(record: Record, decision: Hold, policy: Policy) -> str:
    """Return why nothing is raised, and what to do next."""
    reason, limit = decision.reason, record.observation.limit
    composed = _COMPOSED.get(reason, _plain)(record, decision, policy)
    text = composed or reason.sentence
    if reason not in _STATEMENTS:
        head = "Not raised" if limit is None else f"Not raised (limit {limit:,})"
        text = f"{head}: {text[0].lower()}{text[1:]}"
    parts, table = [text], concerned(record)
    if reason in _ABOUT_A_TABLE and table is not None and limit:
        full = f"{table.count:,} of {limit:,} entries ({100 * table.count / limit:.0f} %)"
        parts.append(f"The table of {table_name(table)} holds {', '.join([full, *counters(table)])}.")
    if decision.arithmetic is not None:
        parts.append(_bounds(decision.arithmetic))
    advised = reason is not HoldReason.PAUSED or not composed  # which says itself how to end the pause
    return " ".join(filter(None, [*parts, *(decision.advice if advised else ())]))


def counters(table: Table) -> list[str]:
    """Return drops and growth where there are any: `1,204 dropped`, `300 new entries/s`."""
    dropped = [f"{table.dropped:,} dropped"] if table.dropped else []
    demand = table.demand_per_second or 0
    return dropped + ([f"{demand:,.0f} new entries/s"] if demand >= 1 else [])


def _plain(_record: Record, _decision: Hold, _policy: Policy) -> str:
    return ""


def _historical(record: Record, _decision: Hold, _policy: Policy) -> str:
    trigger = record.trigger
    if trigger.message_kind is None:
        return ""
    where = f" in netns {trigger.namespace}" if trigger.namespace else ""
    plural = "" if trigger.message_count == 1 else "s"
    found = f'{trigger.message_count} "{_MESSAGES[trigger.message_kind]}" message{plural}{where}'
    return f"Found {found} from before this start. Not acted on: current table usage decides."


def _foreign_write(record: Record, _decision: Hold, policy: Policy) -> str:
    """Return what another program did to the limit, and after how many lowerings the guard stops raising."""
    if record.trigger.was is None:
        return ""
    detail, now = record.outcome.detail.removeprefix("by "), record.observation.boottime_seconds
    who = f"probably {detail}" if detail and record.outcome.detail != UNKNOWN_WRITER else "not known what"
    change = f"from {record.trigger.was:,} to {record.observation.limit or 0:,}"
    text = f"Something else set nf_conntrack_max {change} ({who})."
    after = advance(record.state, record).conflict_seconds
    if after == record.state.conflict_seconds or not policy.conflict_limit:
        return text
    window, most = tuning.CONFLICT_WINDOW_SECONDS, policy.conflict_limit
    count = sum(at > now - window for at in after)
    stops = "the guard has stopped raising" if count >= most else f"at {most} the guard stops raising"
    return f"{text} {count} of {most} in {window / 3600:.0f} h: {stops}."


def _cooldown(record: Record, decision: Hold, _policy: Policy) -> str:
    if decision.retry_seconds is None:
        return ""
    return f"Waiting up to {_wait(record, decision.retry_seconds)} after the last raise before the next."


def _unsampled(record: Record, decision: Hold, _policy: Policy) -> str:
    if decision.retry_seconds is None:
        return ""
    return f"{decision.reason.sentence} Next try in {_wait(record, decision.retry_seconds)}."


def _rate_limited(_record: Record, _decision: Hold, _policy: Policy) -> str:
    return f"Rate limit reached: {tuning.MAX_RAISES} raises within {format_duration(tuning.MAX_RAISES_WINDOW_SECONDS)}."


def _paused(record: Record, _decision: Hold, _policy: Policy) -> str:
    pause = record.observation.pause
    if pause is None:
        return ""
    if pause.by.startswith("/"):
        return f"Raising is paused: {pause.by} exists. Remove it to resume."
    why = f' ("{pause.reason}")' if pause.reason else ""
    until = ""
    if pause.until_seconds is not None:
        until = f" for another {_wait(record, pause.until_seconds)}"
    return f"Raising is paused by `{pause.by}`{why}{until}. End it: `guard resume`."


def _write_refused(record: Record, _decision: Hold, _policy: Policy) -> str:
    refusal = record.state.refusal
    if refusal is None:
        return ""
    tries = "once" if refusal.count == 1 else f"{refusal.count} times"
    wait = _wait(record, refusal.until_seconds)
    return f"The kernel refused the write {tries} (errno {refusal.errno}). Next try in {wait}."


def _set_elsewhere(record: Record, _decision: Hold, _policy: Policy) -> str:
    limit, persisted = record.observation.limit, record.trigger.persisted
    if limit is None or persisted is None:
        return ""
    return (
        f"The limit ({limit:,}) is lower than the {persisted.limit:,} saved for this boot and isn't a kernel default. "
        "Someone set it on purpose, so it stays."
    )


def _resolved(record: Record, _decision: Hold, _policy: Policy) -> str:
    table, limit = concerned(record), record.observation.limit
    if table is None or not limit:
        return ""
    name = table_name(table)
    return f"{name[0].upper()}{name[1:]}: the condition is over ({table.count:,} of {limit:,}). Nothing to do."


def _broken(_record: Record, decision: Hold, _policy: Policy) -> str:
    """Return which is broken: the budget, by the tables, or `min_available`, by whoever took the memory."""
    arithmetic = decision.arithmetic
    if arithmetic is None:
        return ""
    used = f"{arithmetic.in_use:,} entries take {format_bytes(arithmetic.cost_bytes)}"
    budget, least = format_bytes(arithmetic.budget_bytes), format_bytes(arithmetic.min_available_bytes)
    over = arithmetic.cost_bytes > arithmetic.budget_bytes
    parts = [f"The tables exceed the memory budget: {used} of {budget}."] if over else []
    if arithmetic.memory_available_bytes < arithmetic.min_available_bytes:
        tables = "" if over else f" The tables' {used} of a budget of {budget}."
        available = format_bytes(arithmetic.memory_available_bytes)
        parts.append(f"Too little memory is available: {available}, less than `min_available` ({least}).{tables}")
    return " ".join(parts)


def _bounds(arithmetic: Arithmetic) -> str:
    """Return the figures of the bound that held the step back."""
    match arithmetic.bound:
        case Bound.TARGET:
            return ""
        case Bound.MAX_LIMIT:
            bound = "`max_limit` allows"
        case Bound.FLOOD:
            bound = "`on_flood` allows"
        case Bound.BUDGET:
            bound = f"the budget of {format_bytes(arithmetic.budget_bytes)} allows"
        case Bound.MIN_AVAILABLE:
            available = format_bytes(arithmetic.memory_available_bytes)
            least = format_bytes(arithmetic.min_available_bytes)
            bound = f"`min_available` of {least} ({available} is available) allows"
        case Bound.CHAINS:
            bound = f"{arithmetic.buckets or 0:,} buckets allow"
        case Bound.INT_MAX:
            bound = "the kernel allows"
        case _:
            assert_never(arithmetic.bound)
    return f"Wanted {arithmetic.wanted:,}; {bound} {arithmetic.target:,}."


def _wait(record: Record, until_seconds: float) -> str:
    """Return the time from a record until then (CLOCK_BOOTTIME)."""
    return format_span(max(0.0, until_seconds - record.observation.boottime_seconds))


_COMPOSED: dict[HoldReason, Callable[[Record, Hold, Policy], str]] = {
    HoldReason.HISTORICAL: _historical,
    HoldReason.LIMIT_RAISED: _foreign_write,
    HoldReason.LIMIT_LOWERED: _foreign_write,
    HoldReason.COOLDOWN: _cooldown,
    HoldReason.UNSAMPLED: _unsampled,
    HoldReason.RATE_LIMITED: _rate_limited,
    HoldReason.PAUSED: _paused,
    HoldReason.WRITE_REFUSED: _write_refused,
    HoldReason.SET_ELSEWHERE: _set_elsewhere,
    HoldReason.RESOLVED: _resolved,
    HoldReason.RESERVE_BROKEN: _broken,
}
"""Reasons with figures; an empty text where the record lacks them. The others are their reason's own sentence."""

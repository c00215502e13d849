"""The sentence of a record: why, with the figures. The same text stands in log, history and `guard show`."""

from __future__ import annotations

from typing import assert_never

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Arithmetic,
    Bound,
    Corroboration,
    Hold,
    MessageKind,
    Observation,
    OutcomeKind,
    Override,
    OverrideKind,
    Pause,
    Raise,
    Record,
    Table,
    TriggerKind,
)
from conntrackd_guard.core.state import advance
from conntrackd_guard.core.text import printable, short
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.core.verification import Drops, End, Verification

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
_MOST_IN_SECONDS = 100
_WHOLE_FROM = 10
"""A growth of 0.2/s is not shown as 0."""


def sentence(record: Record, policy: Policy) -> str:
    """Return why, what it costs and what to do next, on one line, safe to print."""
    match record.decision:
        case Raise() as decision:
            text = _raise_sentence(record, decision)
        case Hold() as decision:
            text = _hold_sentence(record, decision, policy)
        case Override() as decision:
            text = _override_sentence(record, decision)
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

    A hold for an untrusted table is about that one. An arithmetic that charges another table as full is about the other.
    """
    tables, decision = record.observation.tables, record.decision
    about = [table for table in tables if table.namespace == record.trigger.namespace] or [*tables]
    if isinstance(decision, Hold) and decision.reason is HoldReason.UNTRUSTED_NAMESPACE:
        about = [table for table in about if table.user_owned] or about
    arithmetic = None if isinstance(decision, Override) else decision.arithmetic
    if arithmetic is not None and arithmetic.full_tables > 1 and any(table.user_owned for table in about):
        about = [table for table in tables if not table.user_owned] or about
    return max(about, key=lambda table: table.count, default=None)


def verification(found: Verification) -> str:
    """Return whether the drops ended after a raise, and when the new limit would be full."""
    return f"{_drops(found)} {_forecast(found)}"


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
    left = arithmetic.memory_available_bytes - arithmetic.new_bytes
    cost = (
        f"the worst case costs {format_bytes(arithmetic.cost_bytes)} of a {format_bytes(arithmetic.budget_bytes)} "
        f"budget and leaves {format_bytes(left)} available"
    )
    return " ".join([f"{done}: {_need(record, decision)}; {cost}.", *decision.advice])


def _need(record: Record, decision: Raise) -> str:
    """Return the condition that led to a raise."""
    if record.trigger.kept is not None:
        return f"{record.trigger.kept.limit:,} was saved for this boot, and the kernel's default was in force"
    table, limit = concerned(record), decision.arithmetic.current
    if decision.corroboration is Corroboration.UNKNOWN or table is None:
        number = record.trigger.namespace
        return f"the kernel reports a full table{f' in netns {number}' if number else ''}, which could not be checked"
    fuller = any(other.count > table.count for other in record.observation.tables)
    by_message = record.trigger.namespace == table.namespace or (record.trigger.namespace is None and not fuller)
    if table.count >= limit:
        state = "was full"
    elif table.dropped or (record.trigger.kind is not TriggerKind.FILLING_UP and by_message):
        state = "had been full"
    else:
        state = "was filling up"
    counters = "".join(f", {text}" for text in _counters(table))
    return f"the table of {table_name(table)} {state} ({table.count:,} of {limit:,}{counters})"


def _counters(table: Table) -> list[str]:
    """Return drops and growth where there are any: `1,204 dropped`, `300 new entries/s`."""
    dropped = [f"{table.dropped:,} dropped"] if table.dropped else []
    demand = table.demand_per_second or 0
    return dropped + ([f"{demand:,.0f} new entries/s"] if demand >= 1 else [])


def _hold_sentence(record: Record, decision: Hold, policy: Policy) -> str:
    reason, limit = decision.reason, record.observation.limit
    text = _stated(record, decision, policy)
    if reason not in _STATEMENTS:
        head = "Not raised" if limit is None else f"Not raised (limit {limit:,})"
        text = f"{head}: {text[0].lower()}{text[1:]}"
    parts, table = [text], concerned(record)
    if reason in _ABOUT_A_TABLE and table is not None and limit:
        full = f"{table.count:,} of {limit:,} entries ({100 * table.count / limit:.0f} %)"
        parts.append(f"The table of {table_name(table)} holds {', '.join([full, *_counters(table)])}.")
    if decision.arithmetic is not None:
        parts.append(_bounds(decision.arithmetic))
    is_paused = reason is HoldReason.PAUSED and record.observation.pause is not None  # which says how to end it
    return " ".join(filter(None, [*parts, *(() if is_paused else decision.advice)]))


def _stated(record: Record, decision: Hold, policy: Policy) -> str:
    """Return a hold's reason with the figures of this record."""
    observation, trigger, reason = record.observation, record.trigger, decision.reason
    wait = _span(max(0.0, (decision.retry_seconds or 0.0) - observation.boottime_seconds))
    match reason:
        case HoldReason.HISTORICAL if trigger.message_kind is not None:
            count, where = trigger.message_count, f" in netns {trigger.namespace}" if trigger.namespace else ""
            found = f'{count} "{_MESSAGES[trigger.message_kind]}" message{"" if count == 1 else "s"}{where}'
            return f"Found {found} from before this start. Not acted on: current table usage decides."
        case HoldReason.LIMIT_RAISED | HoldReason.LIMIT_LOWERED if trigger.was is not None:
            return _foreign_write(record, trigger.was, policy)
        case HoldReason.COOLDOWN if decision.retry_seconds is not None:
            return f"Waiting up to {wait} after the last raise before the next."
        case HoldReason.UNSAMPLED if decision.retry_seconds is not None:
            return f"{reason.sentence} Next try in {wait}."
        case HoldReason.RATE_LIMITED:
            window = format_duration(tuning.MAX_RAISES_WINDOW_SECONDS)
            return f"Rate limit reached: {tuning.MAX_RAISES} raises within {window}."
        case HoldReason.PAUSED if observation.pause is not None:
            return _paused(observation.pause, observation)
        case HoldReason.WRITE_REFUSED if record.state.refusal is not None:
            refusal = record.state.refusal
            wait = _span(max(0.0, refusal.until_seconds - observation.boottime_seconds))
            tries = f"{refusal.count} times" if refusal.count > 1 else "once"
            return f"The kernel refused the write {tries} (errno {refusal.errno}). Next try in {wait}."
        case HoldReason.SET_ELSEWHERE if trigger.kept is not None and observation.limit is not None:
            return (
                f"The limit ({observation.limit:,}) is lower than the {trigger.kept.limit:,} saved for this boot and "
                "isn't a kernel default. Someone set it on purpose, so it stays."
            )
        case HoldReason.RESOLVED if (table := concerned(record)) is not None and observation.limit:
            name, full = table_name(table), f"{table.count:,} of {observation.limit:,}"
            return f"{name[0].upper()}{name[1:]}: the condition is over ({full}). Nothing to do."
        case HoldReason.RESERVE_BROKEN if decision.arithmetic is not None:
            return _broken(decision.arithmetic)
        case _:
            return reason.sentence


def _foreign_write(record: Record, was: int, policy: Policy) -> str:
    """Return what another program did to the limit, and how many lowerings remain until the guard stops raising."""
    detail, now = record.outcome.detail.removeprefix("by "), record.observation.boottime_seconds
    known = detail and record.outcome.detail != UNKNOWN_WRITER
    who = f"probably {detail}" if known else "not known what"
    text = f"Something else set nf_conntrack_max from {was:,} to {record.observation.limit or 0:,} ({who})."
    after = advance(record.state, record).conflict_seconds
    if after == record.state.conflict_seconds or not policy.conflict_limit:
        return text
    window, most = tuning.CONFLICT_WINDOW_SECONDS, policy.conflict_limit
    count = sum(at > now - window for at in after)
    stops = "the guard has stopped raising" if count >= most else f"at {most} the guard stops raising"
    return f"{text} {count} of {most} in {format_duration(window)}: {stops}."


def _paused(pause: Pause, observation: Observation) -> str:
    if pause.by.startswith("/"):
        return f"Raising is paused: {pause.by} exists. Remove it to resume."
    why = f' ("{pause.reason}")' if pause.reason else ""
    until = ""
    if pause.until_seconds is not None:
        until = f" for another {_span(max(0.0, pause.until_seconds - observation.boottime_seconds))}"
    return f"Raising is paused by `{pause.by}`{why}{until}. End it: `guard resume`."


def _broken(arithmetic: Arithmetic) -> str:
    """Return which is broken: the budget, by the tables, or `min_available`, by whoever took the memory."""
    used = f"{arithmetic.in_use:,} entries take {format_bytes(arithmetic.cost_bytes)}"
    budget, least = format_bytes(arithmetic.budget_bytes), format_bytes(arithmetic.min_available_bytes)
    over = arithmetic.cost_bytes > arithmetic.budget_bytes
    parts = [f"The tables exceed the memory budget: {used} of {budget}."] if over else []
    if arithmetic.memory_available_bytes < arithmetic.min_available_bytes:
        tables = "" if over else f" The tables' {used} of a budget of {budget}."
        available = format_bytes(arithmetic.memory_available_bytes)
        parts.append(f"Too little memory is available: {available}, less than `min_available` ({least}).{tables}")
    return " ".join(parts) or HoldReason.RESERVE_BROKEN.sentence


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


def _override_sentence(record: Record, override: Override) -> str:
    who = "An operator" if override.uid is None else f"uid {override.uid}"
    if override.login_uid is not None and override.login_uid != override.uid:
        who += f" (logged in as uid {override.login_uid})"
    why = f": {override.reason.rstrip('.')}" if override.reason else ""
    observation = record.observation
    match override.kind:
        case OverrideKind.REVERT:
            done = "reverted" if record.outcome.kind is OutcomeKind.APPLIED else "tried to revert"
            target = "the value before" if override.target is None else f"{override.target:,}"
            detail = f" {record.outcome.detail.rstrip('.')}." if record.outcome.detail else ""
            return f"{who} {done} the limit from {observation.limit or 0:,} to {target}{why}.{detail}"
        case OverrideKind.PAUSE:
            until = "until `guard resume`"
            if override.until_seconds is not None:
                until = f"for {format_duration(max(0.0, override.until_seconds - observation.boottime_seconds))}"
            return f"{who} paused raising {until}{why}."
        case OverrideKind.RESUME:
            return f"{who} resumed raising{why}."
        case _:
            assert_never(override.kind)


def _drops(found: Verification) -> str:
    dropped, raised = f"{found.dropped or 0:,}", f"the raise to {found.limit:,}"
    match found.end:
        case End.WATCHED:
            until = f"within {_span(found.seconds)}"
        case End.RAISED_AGAIN:
            until = f"within {_span(found.seconds)}, until the next raise"
        case End.LIMIT_CHANGED:
            until = f"within {_span(found.seconds)}, until the limit was changed"
        case _:
            assert_never(found.end)
    match found.drops:
        case Drops.NONE:
            return f"No packets were dropped after {raised} {until}."
        case Drops.ENDED:
            return f"Drops ended {_span(found.last_drop_seconds or 0)} after {raised} ({dropped} more packets)."
        case Drops.CONTINUING:
            return f"Packets are still dropped after {raised}: {dropped} {until}."
        case Drops.UNKNOWN:
            return f"Could not verify {raised}: no drop counter of that table was readable {until}."
        case _:
            assert_never(found.drops)


def _forecast(found: Verification) -> str:
    if found.growth_per_second is None:
        return "Watched too briefly for a forecast."
    if found.seconds_to_full is None:
        return "No table grew."
    if found.seconds_to_full < 1:
        return "The table is full again."
    growth = found.growth_per_second
    rate = f"{growth:,.0f}" if growth >= _WHOLE_FROM else f"{growth:g}"
    full = format_duration(found.seconds_to_full)
    return f"At the average growth since ({rate}/s) the table would be full in {full}."


def _span(seconds: float) -> str:
    """Return a duration with fractions of short ones; a watch may be long where the host was suspended."""
    return f"{seconds:.3g} s" if seconds < _MOST_IN_SECONDS else format_duration(seconds)

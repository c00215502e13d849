"""The sentence of a record: why, with the figures. The same text stands in log, history and `guard show`."""

from typing import assert_never

from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.explain_holds import bounds, counters, hold_sentence
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import (
    Corroboration,
    Hold,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    TriggerKind,
)
from conntrackd_guard.core.records import concerned, table_name
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes, format_duration, format_span
from conntrackd_guard.core.verification import Drops, End, Verification

_WHOLE_FROM = 10
"""A growth of 0.2/s is not shown as 0."""
_RAISES = {
    OutcomeKind.APPLIED: ("Raised {step}", ""),
    OutcomeKind.NONE: ("Raised {step}", ""),
    OutcomeKind.REHEARSED: ("Would raise {step} (dry run)", ""),
    OutcomeKind.REJECTED: ("Could not raise {step} ({why})", "the kernel refused the write"),
    OutcomeKind.NOT_APPLIED: ("Did not raise {step} ({why})", "the write never happened"),
    OutcomeKind.UNKNOWN: ("May have raised {step} ({why})", "it is not known whether the write happened"),
}
"""What was done, and the reason where the outcome has no detail."""
_SPANS = {
    End.WATCHED: "within {span}",
    End.RAISED_AGAIN: "in the {span} until the next raise",
    End.LIMIT_CHANGED: "in the {span} until the limit was changed",
}


def sentence(record: Record, policy: Policy) -> str:
    """Return why, what it costs and what to do next, on one line, safe to print."""
    match record.decision:
        case Raise() as decision:
            text = _raise_sentence(record, decision)
        case Hold() as decision:
            text = hold_sentence(record, decision, policy)
        case Override() as decision:
            text = _override_sentence(record, decision)
        case _:
            assert_never(record.decision)
    return printable(text)


def verification(found: Verification) -> str:
    """Return whether the drops ended after a raise, and when the new limit would be full."""
    return f"{_drops(found)} {_forecast(found)}"


def operator(override: Override) -> str:
    """Return who carried out an override: `root (logged in as alice)`, or numbers where no names are known."""
    if override.uid is None:
        return "An operator"
    who = override.user or f"uid {override.uid}"
    if override.login_uid is None or override.login_uid == override.uid:
        return who
    return f"{who} (logged in as {override.login or f'uid {override.login_uid}'})"


def _raise_sentence(record: Record, decision: Raise) -> str:
    outcome, arithmetic = record.outcome, decision.arithmetic
    done, why = _RAISES[outcome.kind]
    done = done.format(step=f"{arithmetic.current:,} → {decision.target:,}", why=outcome.detail or why)
    left = format_bytes(arithmetic.memory_available_bytes - arithmetic.new_bytes)
    most, budget = format_bytes(arithmetic.cost_bytes), format_bytes(arithmetic.budget_bytes)
    cost = f"when full, the tables take {most} of a memory budget of {budget} and leave {left} available"
    part = [f"Only part of the step fits. {bounds(arithmetic)}"] if arithmetic.bound is not Bound.TARGET else []
    return " ".join([f"{done}: {_need(record, decision)}; {cost}.", *part, *decision.advice])


def _need(record: Record, decision: Raise) -> str:
    """Return the condition that led to a raise."""
    if record.trigger.persisted is not None:
        persisted, boot = record.trigger.persisted, record.observation.boot_id
        was = "set in this boot" if persisted.boot_id == boot else "saved for this boot"
        return f"{persisted.limit:,} was {was}, and the kernel's default was in force"
    if record.trigger.kind is TriggerKind.MINIMUM:
        return f"the limit was below the `min_limit` of {decision.arithmetic.wanted:,}"
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
    figures = "".join(f", {text}" for text in counters(table))
    return f"the table of {table_name(table)} {state} ({table.count:,} of {limit:,}{figures})"


def _override_sentence(record: Record, override: Override) -> str:
    who = operator(override)
    why = f": {override.reason.rstrip('.')}" if override.reason else ""
    observation = record.observation
    match override.kind:
        case OverrideKind.REVERT:
            done = "reverted" if record.outcome.kind is OutcomeKind.APPLIED else "tried to revert"
            target = "the value before" if override.target is None else f"{override.target:,}"
            if override.buckets_target is not None:
                target += f", and the hash buckets from {observation.buckets or 0:,} to {override.buckets_target:,}"
            detail = f" {record.outcome.detail.rstrip('.')}." if record.outcome.detail else ""
            return f"{who} {done} the limit from {format_limit(observation.limit or 0)} to {target}{why}.{detail}"
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
    until = _SPANS[found.end].format(span=format_span(found.seconds))
    match found.drops:
        case Drops.NONE:
            return f"No packets were dropped after {raised} {until}."
        case Drops.ENDED:
            return f"Drops ended {format_span(found.last_drop_seconds or 0)} after {raised} ({dropped} more packets)."
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
    if not found.seconds_to_full:
        return "The table is full again."
    growth, last = found.growth_per_second, found.last_growth_per_second
    rate = f"{growth:,.0f}" if growth >= _WHOLE_FROM else f"{growth:g}"
    full, span = format_span(found.seconds_to_full), format_span(found.seconds)
    text = f"At the average growth of these {span} ({rate}/s), the table would be full in {full}"
    return f"{text}." if last is None else f"{text}; in the last second it grew by {last:,.0f}."

"""What a record is about: reason, table, fingerprint, whether an operator has to act. And records kept small.

Pure. Figures are no part of a fingerprint: a table that stays at its ceiling for a day is one piece of news, however its
count moves.
"""

from dataclasses import replace
from typing import Final, assert_never

from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import signed
from conntrackd_guard.core.model import (
    INT_MAX,
    Hold,
    ImpossibleCount,
    NamespaceOwner,
    Observation,
    OutcomeKind,
    Override,
    Raise,
    Record,
    Table,
    TriggerKind,
)
from conntrackd_guard.core.text import short
from conntrackd_guard.core.usage import GATE_USE

ACTIONABLE = frozenset({
    HoldReason.OVER_BUDGET, HoldReason.OVER_BUDGET_AT_START, HoldReason.RESERVE, HoldReason.AT_CEILING, HoldReason.FLOOD,
    HoldReason.CHAINS, HoldReason.INT_MAX, HoldReason.CONFLICT, HoldReason.RESERVE_BROKEN, HoldReason.MEMORY_UNKNOWN,
    HoldReason.CHAIN_DROPS, HoldReason.LONG_CHAINS, HoldReason.BUCKETS_LOST, HoldReason.IMPOSSIBLE_COUNT,
})  # fmt: skip
"""Need met a bound that the guard can't move, or the guard stopped itself. Time, a raise or an operator ends the others."""
USERS: Final = "users"
"""The subject of holds for the tables of user namespaces, all together: any user can create thousands."""
MOST_NAMED: Final = 6
"""Of those namespaces, the first few that a row names."""
UNTRUSTED = frozenset({HoldReason.UNTRUSTED_NAMESPACE, HoldReason.OWNER_UNKNOWN, HoldReason.UNREACHABLE_NAMESPACE})
"""Holds for namespaces that may be any user's."""
WITHOUT_NEED = frozenset({TriggerKind.START, TriggerKind.MINIMUM})
"""Triggers of raises while no table is known to be full."""
NAMED_ONE_BY_ONE = 32
"""The fullest tables have an entry each in a record; 5,000 would make it 1 MiB, and encoding it 55 ms."""


def reason(record: Record) -> str:
    """Return why, in one or two stable words.

    For a hold `over_budget`, for a raise `restore`, `min_limit` or `kernel_message confirmed`, for an override `revert`.
    """
    match record.decision:
        case Hold(reason=why):
            return why.code
        case Raise() if record.trigger.kind is TriggerKind.START:
            return "restore"
        case Raise() if record.trigger.kind is TriggerKind.MINIMUM:
            return "min_limit"
        case Raise(corroboration=corroboration):
            return f"{record.trigger.kind} {corroboration}"
        case Override(kind=kind):
            return kind.value
        case other:
            assert_never(other)


def changes_state(record: Record) -> bool:
    """Return whether `core.state.advance` can care: raises (refused ones too), overrides, other writers."""
    return not isinstance(record.decision, Hold) or record.trigger.kind is TriggerKind.OTHER_WRITER


def is_refused(record: Record) -> bool:
    """Return whether a raise was tried and the kernel did not take it."""
    return isinstance(record.decision, Raise) and record.outcome.kind is OutcomeKind.REJECTED


def merges(record: Record) -> bool:
    """Return whether equal records are one piece of news: plain holds and refused writes."""
    return is_refused(record) or not changes_state(record)


def needs_operator(record: Record) -> bool:
    """Return whether the record is a hold that only an operator can end."""
    decision = record.decision
    return isinstance(decision, Hold) and decision.reason in ACTIONABLE and record.outcome.kind is OutcomeKind.NONE


def wrote_limit(record: Record) -> bool:
    """Return whether the record is a raise that was written, or that the kernel refused."""
    return isinstance(record.decision, Raise) and record.outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REJECTED}


def fingerprint(record: Record) -> str:
    """Return subject, trigger, verdict, reason and limit as one text: records with equal texts are the same news.

    A refused write is about limit and error alone, whichever table it was for.
    """
    limit, trigger = record.observation.limit, record.trigger
    parts: tuple[object, ...] = ("refused", record.outcome.errno, limit)
    if not is_refused(record):
        about = subject(record)
        parts = (about, trigger.kind, trigger.message_kind, verdict(record.decision), reason(record), limit)
    return "|".join(map(str, parts))


def subject(record: Record) -> int | str | None:
    """Return the namespace that triggered the record, None without one. For a hold that any user can cause: USERS.

    That is one for a namespace of a user, and for one that is gone: nothing shows whose it was.
    """
    number = record.trigger.namespace
    is_roots = record.observation.unread_owner is NamespaceOwner.ROOT
    if number is None or is_roots or not isinstance(record.decision, Hold):
        return number
    trusted = (table.namespace for table in record.observation.tables if not table.user_owned)
    return number if number in trusted else USERS


def users_namespaces(record: Record) -> tuple[tuple[int, str], ...]:
    """Return number and name of the namespace that the record has as one of USERS; else nothing."""
    number = record.trigger.namespace
    if number is None or subject(record) != USERS:
        return ()
    tables = (table for table in record.observation.tables if table.namespace == number)
    return ((number, next(map(table_name, tables), f"netns {number}")),)


def condense(observation: Observation, concerned: int | None, policy: Policy) -> Observation:
    """Return the observation with its small tables as one sum: any user can create thousands of namespaces.

    No decision changes by it, but the bound and the calculation of a hold whose bounds allow less than the limit in force.
    A small table is below the threshold and too empty to be in need by its growth, whatever it dropped. So it is charged
    twice what it holds, which is less than the limit. Never among them: the fullest, the initial one, that of the
    namespace `concerned`, and those that lost packets to long chains.
    """
    if len(observation.tables) <= NAMED_ONE_BY_ONE:
        return observation
    limits = [limit for limit in (observation.limit, observation.kernel_limit) if limit]  # counts are judged by either
    small_below = min(GATE_USE, policy.threshold) * min(limits, default=INT_MAX)
    fullest = sorted(observation.tables, key=lambda table: (-table.count, table.namespace))
    alone = fullest[:NAMED_ONE_BY_ONE]
    small: list[Table] = []
    for table in fullest[NAMED_ONE_BY_ONE:]:
        apart = table.initial or table.namespace == concerned or table.lost_to_chains or table.count >= small_below
        (alone if apart else small).append(table)
    return replace(
        observation,
        tables=tuple(alone),
        small_tables=len(small),
        small_entries=sum(table.count for table in small),
        small_user_owned_entries=sum(table.count for table in small if table.user_owned),
    )


def concerned(record: Record) -> Table | None:
    """Return the table that the record is about: the one named, else the fullest, None where none was read.

    A hold for an untrusted table is about that one. A calculation that charges it as such is about another table.
    """
    tables, decision = record.observation.tables, record.decision
    about = [table for table in tables if table.namespace == record.trigger.namespace] or [*tables]
    if isinstance(decision, Hold) and decision.reason in UNTRUSTED:
        about = [table for table in about if table.user_owned] or about
    arithmetic = None if isinstance(decision, Override) else decision.arithmetic
    if arithmetic is not None and arithmetic.untrusted_entries and any(table.user_owned for table in about):
        about = [table for table in tables if not table.user_owned] or about
    return max(about, key=lambda table: table.count, default=None)


def is_dropping(record: Record) -> bool:
    """Return whether the table that the record is about drops packets, or is full and so does."""
    table, limit = concerned(record), record.observation.limit or 0
    return table is not None and (bool(table.dropped) or table.count >= limit > 0)


def table_name(table: Table) -> str:
    """Return what people call the table's namespace: `the initial namespace`, `web (netns 4026532316)`."""
    if table.initial:
        return "the initial namespace"
    number = f"netns {table.namespace}"
    return f"{short(table.label)} ({number})" if table.label and table.label != number else number


def impossible_text(found: ImpossibleCount) -> str:
    """Return which table's count can't be true, and why."""
    name = "the initial namespace" if found.label == "initial" else short(found.label)
    why = f"by the slab cache nf_conntrack at most {found.most:,} exist in all namespaces"
    if found.count > INT_MAX:  # count > limit, unsigned
        why = "the counter fell below 0, so the kernel takes every new connection for one too many"
    return f"the count of {name} can't be true: {signed(found.count):,} entries ({found.source}); {why}"

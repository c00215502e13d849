"""The sentences of holds: what was not done and why, with the figures of the record."""

from conntrackd_guard.core import chains, tuning
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.kernel_default import default_limit
from conntrackd_guard.core.limits import format_limit, is_unlimited
from conntrackd_guard.core.model import Corroboration, Hold, LoadFacts, MessageKind, Pause, Record, Table
from conntrackd_guard.core.records import concerned, impossible_text, is_dropping, table_name
from conntrackd_guard.core.state import advance, conflicts
from conntrackd_guard.core.text import capitalized
from conntrackd_guard.core.units import format_bytes, format_duration, format_rate, format_span, utc
from conntrackd_guard.core.usage import CONFIRM_USE

_STATEMENTS = frozenset({
    HoldReason.HISTORICAL, HoldReason.SUPPRESSED, HoldReason.RESOLVED, HoldReason.COOLDOWN, HoldReason.UNLIMITED,
    HoldReason.NO_CONNTRACK, HoldReason.ALREADY_IN_FORCE, HoldReason.SET_ELSEWHERE, HoldReason.OVER_BUDGET_AT_START,
    HoldReason.LIMIT_RAISED, HoldReason.LIMIT_LOWERED, HoldReason.RESERVE_BROKEN, HoldReason.BUCKETS_CHANGED,
    HoldReason.RELOADED, HoldReason.CHAIN_DROPS, HoldReason.LONG_CHAINS, HoldReason.BUCKETS_LOST,
})  # fmt: skip
"""Holds of which nobody expected a raise: their sentence begins without `Not raised`."""
_ABOUT_A_TABLE = frozenset({
    HoldReason.STABLE, HoldReason.UNTRUSTED_NAMESPACE, HoldReason.OWNER_UNKNOWN, HoldReason.PAUSED, HoldReason.CONFLICT,
    HoldReason.WRITE_REFUSED,
    HoldReason.RATE_LIMITED, HoldReason.OVER_BUDGET, HoldReason.RESERVE, HoldReason.AT_CEILING, HoldReason.FLOOD,
    HoldReason.UNSAMPLED, HoldReason.CHAINS, HoldReason.INT_MAX, HoldReason.CONTRADICTED, HoldReason.DRY_RUN_SUFFICIENT,
    HoldReason.MEMORY_UNKNOWN,
})  # fmt: skip
"""Holds whose reader needs to know how full the table is."""
_DROPS = _ABOUT_A_TABLE - {HoldReason.STABLE, HoldReason.CONTRADICTED, HoldReason.DRY_RUN_SUFFICIENT}
"""Holds that cost connections while they last."""
_DROPS_NOW = "The kernel is dropping new connections."
_DROPS_LATER = "The kernel will drop new connections once it is full."
_MESSAGES = {
    MessageKind.TABLE_FULL: "table full",
    MessageKind.EXPECTATION_FULL: "expectation table full",
    MessageKind.NEIGHBOUR_FULL: "neighbour table overflow",
    MessageKind.SUPPRESSED: "callbacks suppressed",
}
_BOUNDS = {
    Bound.MAX_LIMIT: "`max_limit` allows",
    Bound.FLOOD: "`on_flood` allows",
    Bound.BUDGET: "the budget of {budget} allows",
    Bound.MIN_AVAILABLE: "`min_available` of {least} ({available} is available) allows",
    Bound.CHAINS: "{buckets:,} buckets allow",
    Bound.INT_MAX: "the kernel allows",
}
"""What held a step back, before the figure that it allows."""
ACTING_GUARD = "the acting guard"
"""The detail of an outcome of a dry run begins with it where that guard changed the limit."""
UNKNOWN_WRITER = "by unknown"
"""The detail of an outcome where nothing shows who changed the limit."""


def hold_sentence(record: Record, decision: Hold, policy: Policy) -> str:
    """Return why nothing is raised, and what to do next."""
    reason, limit = decision.reason, record.observation.limit
    text = _statement(record, decision, policy)
    if reason not in _STATEMENTS:
        head = "Not raised" if limit is None else f"Not raised (limit {limit:,})"
        text = f"{head}: {text[0].lower()}{text[1:]}"
    parts, table = [text], concerned(record)
    if reason in _ABOUT_A_TABLE and table is not None and limit:
        full = f"{table.count:,} of {limit:,} entries ({100 * table.count / limit:.0f} %)"
        parts.append(f"The table of {table_name(table)} holds {', '.join([full, *counters(table)])}.")
        if reason in _DROPS:
            parts.append(_DROPS_NOW if is_dropping(record) else _DROPS_LATER)
    if decision.arithmetic is not None and decision.arithmetic.bound is not Bound.TARGET:
        parts.append(bounds(decision.arithmetic))
    if reason is not HoldReason.PAUSED or record.observation.pause is None:  # a pause's statement says how to end it
        parts += decision.advice
    return " ".join(filter(None, parts))


def counters(table: Table) -> list[str]:
    """Return drops and growth where there are any: `1,204 dropped`, `300 new entries/s measured over 1 s`."""
    texts = [f"{table.dropped:,} dropped"] if table.dropped else []
    for rate, seconds in (
        (table.demand_per_second, table.demand_seconds),
        (table.burst_per_second, table.burst_seconds),
    ):
        if rate is not None and rate >= 1:
            texts.append(format_rate(rate, seconds))
    return texts


def _statement(  # noqa: C901, PLR0911, PLR0912 - one return a reason
    record: Record, decision: Hold, policy: Policy
) -> str:
    """Return the reason with its figures; its own sentence if it has none, or if the record lacks them."""
    trigger, observation, retry = record.trigger, record.observation, decision.retry_seconds
    match decision.reason:
        case HoldReason.HISTORICAL if trigger.message_kind is not None:
            return _historical(record, _MESSAGES[trigger.message_kind])
        case HoldReason.LIMIT_RAISED | HoldReason.LIMIT_LOWERED | HoldReason.BUCKETS_CHANGED if trigger.was is not None:
            return _foreign_write(record, trigger.was, policy)
        case HoldReason.RELOADED if observation.limit is not None:
            was = "" if trigger.was is None else f" instead of {trigger.was:,}"
            return f"{decision.reason.sentence} The limit is now {observation.limit:,}{was}. No program set it."
        case HoldReason.COOLDOWN if retry is not None:
            return f"Waiting up to {_wait(record, retry)} after the last raise before the next."
        case HoldReason.UNSAMPLED if retry is not None:
            return f"{decision.reason.sentence} Next try in {_wait(record, retry)}."
        case HoldReason.RATE_LIMITED:
            window = format_duration(tuning.MAX_RAISES_WINDOW_SECONDS)
            return f"Rate limit reached: {tuning.MAX_RAISES} raises within {window}."
        case HoldReason.PAUSED if observation.pause is not None:
            return _paused(record, observation.pause)
        case HoldReason.WRITE_REFUSED if (refusal := record.state.refusal) is not None:
            tries = "once" if refusal.count == 1 else f"{refusal.count} times"
            wait = _wait(record, refusal.until_seconds)
            return f"The kernel refused the write {tries} (errno {refusal.errno}). Next try in {wait}."
        case HoldReason.IMPOSSIBLE_COUNT if observation.impossible:
            named = [one for one in observation.impossible if one.namespace == trigger.namespace]
            return f"{impossible_text((named or observation.impossible)[0])}."
        case HoldReason.UNLIMITED if observation.limit is not None and is_unlimited(observation.limit):
            return f"The limit is {format_limit(observation.limit)} and stays so: any number would lower it."
        case HoldReason.SET_ELSEWHERE if observation.limit is not None and trigger.persisted is not None:
            return _set_elsewhere(record, observation.limit, trigger.persisted.limit)
        case HoldReason.RESOLVED if trigger.judged and decision.corroboration is Corroboration.UNKNOWN:
            return "The table that explained the message is gone. Nothing to do."
        case HoldReason.RESOLVED if observation.limit and (table := concerned(record)) is not None:
            name, use = table_name(table), f"{table.count:,} of {observation.limit:,}"
            return f"{capitalized(name)}: the condition is over ({use}). Nothing to do."
        case HoldReason.CHAIN_DROPS | HoldReason.LONG_CHAINS:
            return _long_chains(record) or decision.reason.sentence
        case HoldReason.BUCKETS_LOST if trigger.persisted is not None and trigger.persisted.buckets is not None:
            limit, buckets = (
                trigger.persisted.limit,
                f"{observation.buckets or 0:,} of the {trigger.persisted.buckets:,}",
            )
            return (
                f"The persisted limit ({limit:,}) is in force, but with {buckets} hash buckets that were raised for it."
            )
        case HoldReason.MEMORY_UNKNOWN if unknown := observation.memory_unknown:
            return f"The memory of this host can't be read ({unknown}), so no raise can be calculated."
        case HoldReason.RESERVE_BROKEN if decision.arithmetic is not None:
            return _broken(decision.arithmetic) or decision.reason.sentence
        case reason:
            return reason.sentence


def _historical(record: Record, kind: str) -> str:
    """Return how many messages there are from before the start, of which namespaces, and whether a table is full now."""
    trigger, observation = record.trigger, record.observation
    found = f'{trigger.message_count:,} "{kind}" message{"s" * (trigger.message_count != 1)} from before this start'
    last = "" if trigger.message_wall_seconds is None else f", the last at {utc(trigger.message_wall_seconds)}"
    where, (first, *others) = "", trigger.namespaces or ((0, 0),)
    more = len(others) + trigger.more_namespaces
    if first[0]:
        count = f" ({first[1]:,})" if more else ""
        where = f", in netns {first[0]}{count}" + (f" and {more:,} other{'s' * (more > 1)}" if more else "")
    fullest = max((table.count for table in observation.tables), default=0)
    full = observation.limit and fullest >= CONFIRM_USE * observation.limit
    now = "a full table is decided about by itself" if full else "no table is full now"
    return f"Found {found}{last}{where}. Not acted on; {now}."


def _foreign_write(record: Record, was: int, policy: Policy) -> str:
    """Return what another program did to the limit, and after how many lowerings the guard stops raising."""
    detail, now = record.outcome.detail.removeprefix("by "), record.observation.boottime_seconds
    who = f"probable cause: {detail}" if detail and record.outcome.detail != UNKNOWN_WRITER else "not known what"
    limit, buckets, changes = record.observation.kernel_limit or 0, record.observation.buckets or 0, list[str]()
    if limit != was:
        changes.append(f"nf_conntrack_max from {format_limit(was)} to {format_limit(limit)}")
    if record.trigger.was_buckets is not None:
        changes.append(f"nf_conntrack_buckets from {record.trigger.was_buckets:,} to {buckets:,}")
    change = f"set {' and '.join(changes)}"
    text = f"Something else {change} ({who})."
    if detail.startswith(ACTING_GUARD):
        text = f"T{detail[1:]} {change}."
    if record.trigger.was_buckets is not None and buckets and limit:
        text += f" A full table now means chains of {2 * limit / buckets:.1f} entries on average."
    state = advance(record.state, record)
    after = state.conflict_seconds
    if record.state.replaced_limit is not None and state.set_limit == limit:
        return f"{text} The guard had set this limit itself: what stood in between was passing, and no conflict."
    if record.trigger.restarted:
        return f"{text} A restart, and no conflict: the next need raises the limit again."
    if len(after) <= len(record.state.conflict_seconds) or not policy.conflict_limit:
        return text
    window, most = tuning.CONFLICT_WINDOW_SECONDS, policy.conflict_limit
    count = conflicts(state, now)
    stops = "the guard has stopped raising" if count >= most else f"at {most} the guard stops raising"
    return f"{text} {count} of {most} in {window / 3600:.0f} h: {stops}."


def _long_chains(record: Record) -> str:
    """Return the packets lost, the table that lost most of them, and the average chain; "" without such figures."""
    seen, entries = record.observation, chains.alive(record.observation)
    chain = chains.average(entries, seen.buckets)
    average = (
        "" if chain is None else f" Average chain: 2 × {entries:,} ÷ {seen.buckets:,} buckets = {chain:.1f} entries."
    )
    losing = [table for table in seen.tables if table.lost_to_chains]
    if not losing:
        drops = f"From {chains.CHAIN_HOLD} on the kernel drops new connections, without a message."
        return f"Hash chains are long.{average} {drops}" if average else ""
    most, lost = max(losing, key=lambda table: table.lost_to_chains or 0), sum(t.lost_to_chains or 0 for t in losing)
    since, now = record.trigger.since_seconds, seen.boottime_seconds
    within = "" if since is None else f" within {format_span(max(0.0, now - since))}"
    packets = f"{lost:,} packet{'' if lost == 1 else 's'}"
    which = f" of {table_name(most)}{within}" if len(losing) == 1 else f"{within}, most of {table_name(most)},"
    return f"The kernel dropped {packets}{which} without a message: hash chains are too long.{average}"


def _set_elsewhere(record: Record, limit: int, persisted: int) -> str:
    """Return why the limit found at start is somebody's: the line that sets it, or the kernel's default beside it."""
    load, seen, detail = record.trigger.load or LoadFacts(), record.observation, record.outcome.detail
    text = f"The limit ({limit:,}) is lower than the {persisted:,} saved for this boot"
    if limit == load.final_limit:
        return f"{text}: {load.final_line} sets it at boot, so it stays."
    cause = "" if detail in {"", UNKNOWN_WRITER} else f" Probable cause: {detail.removeprefix('by ')}."
    if limit == record.state.others_limit:
        return f"{text}, and was set in this boot, so it stays.{cause}"
    default = default_limit(load, seen.buckets or 0, seen.memory_total_bytes)
    text += " and isn't the kernel's default"
    if seen.buckets:
        text += f" with {seen.buckets:,} buckets" + (f" ({default:,})" if default else "")
    return f"{text}. Someone set it on purpose, so it stays.{cause}"


def _paused(record: Record, pause: Pause) -> str:
    if pause.by.startswith("/"):
        return f"Raising is paused: {pause.by} exists. Remove it to resume."
    why = f' ("{pause.reason}")' if pause.reason else ""
    until = "" if pause.until_seconds is None else f" for another {_wait(record, pause.until_seconds)}"
    return f"Raising is paused by `{pause.by}`{why}{until}. End it: `guard resume`."


def _broken(arithmetic: Arithmetic) -> str:
    """Return which is broken: the budget, by the tables, or `min_available`, by whoever took the memory."""
    used = f"{arithmetic.in_use:,} entries take {format_bytes(arithmetic.cost_bytes)}"
    budget, least = format_bytes(arithmetic.budget_bytes), format_bytes(arithmetic.min_available_bytes)
    over = arithmetic.cost_bytes > arithmetic.budget_bytes
    parts = [f"The tables exceed the memory budget: {used} of {budget}."] if over else []
    if arithmetic.memory_available_bytes < arithmetic.min_available_bytes:
        tables = "" if over else f" The tables' {used} of a budget of {budget}."
        available = _available(arithmetic)
        parts.append(f"Too little memory is available: {available}, less than `min_available` ({least}).{tables}")
    return " ".join(parts)


def bounds(arithmetic: Arithmetic) -> str:
    """Return the figures of the bound that held the step back."""
    bound = _BOUNDS[arithmetic.bound].format(
        budget=format_bytes(arithmetic.budget_bytes),
        least=format_bytes(arithmetic.min_available_bytes),
        available=_available(arithmetic),
        buckets=arithmetic.buckets or 0,
    )
    return f"Wanted {arithmetic.wanted:,}; {bound} {arithmetic.target:,}."


def _available(arithmetic: Arithmetic) -> str:
    """Return the available memory: `400 MiB`, `7.7 GiB with 7.3 GiB of ZFS' cache`, `80 MiB of low memory`."""
    low = " of low memory" if arithmetic.memory_is_low else ""
    zfs = f" with {format_bytes(arithmetic.memory_zfs_bytes)} of ZFS' cache" if arithmetic.memory_zfs_bytes else ""
    return f"{format_bytes(arithmetic.memory_available_bytes)}{low}{zfs}"


def _wait(record: Record, until_seconds: float) -> str:
    """Return the time from a record until then (CLOCK_BOOTTIME)."""
    return format_span(max(0.0, until_seconds - record.observation.boottime_seconds))

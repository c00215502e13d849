"""A record as the rows of a history, and back."""

import hashlib
import json
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from operator import contains
from typing import Any, Final, TypeVar

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import decode, decode_decision, encode, hold_reason, verdict
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import Hold, Observation, Outcome, OutcomeKind, Override, Raise, Record, State, Trigger
from conntrackd_guard.core.records import fingerprint, reason
from conntrackd_guard.core.units import YEAR_10000, rfc3339
from conntrackd_guard.core.verification import Verification

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far the guard has read the kernel's messages."""

    cursor: str | None = None
    """The journal's cursor."""
    boot_id: str | None = None
    stamp_us: int | None = None
    """The newest kernel timestamp read, of that boot."""


@dataclass(frozen=True, slots=True)
class Row:
    """One decision as a list shows it. `at` and `last_at` are RFC 3339, UTC; the seconds are wall time."""

    id: int
    at: str
    trigger: str
    verdict: str
    reason: str
    """A hold's code; a raise's trigger and corroboration; an override's kind."""
    from_limit: int | None
    to_limit: int | None
    outcome: str
    limit_after: int | None
    errno: int | None
    detail: str
    mode: str
    namespace: int | None
    message: str
    repeats: int
    """Kernel messages with this result, and decisions without a new message; 1 where it did not come again.

    0 while messages of before the start are read, and if the guard was killed meanwhile: the next start counts it.
    """
    last_at: str
    sentence: str
    boot_id: str
    uid: int | None
    login_uid: int | None
    policy_hash: str
    guard_version: str
    kernel_release: str
    key: str
    at_seconds: float
    boottime_seconds: float
    last_seconds: float
    fingerprint: str
    arithmetic: dict[str, Any] | None = None
    verification: Verification | None = None
    """Raises only."""

    @property
    def text(self) -> str:
        """The sentence, and the further namespaces that a row about those of users names."""
        return f"{self.sentence} A{self.detail[1:]}." if self.detail.startswith("also ") else self.sentence


COLUMNS: Final = tuple(field.name for field in fields(Row) if field.default is MISSING)
"""Those of the table `decisions`."""
_KINDS: Final[dict[str, frozenset[type]]] = {
    "int": frozenset({int}), "str": frozenset({str}), "float": frozenset({int, float}),
    "int | None": frozenset({int, type(None)}),
}  # fmt: skip
_TYPES: Final = tuple(
    _KINDS[str(getattr(field.type, "__name__", field.type))] for field in fields(Row) if field.default is MISSING
)
"""What SQLite may return for each of them: it stores any type in any column."""
_MOST_SECONDS: Final = YEAR_10000 - 86_400
"""The last day of year 9999: later times can't be printed in every zone."""

_NO_STATE: Final = State()
_NO_OUTCOME: Final = Outcome(kind=OutcomeKind.NONE)


def first_row(record: Record, row_id: int, *, policy: Policy, sentence: str, kernel_release: str) -> Row:
    """Return the row that a record becomes, with its arithmetic."""
    observation, decision, outcome = record.observation, record.decision, record.outcome
    by = decision if isinstance(decision, Override) else None
    return Row(
        id=row_id,
        at=rfc3339(observation.wall_seconds),
        trigger=record.trigger.kind.value,
        verdict=verdict(decision),
        reason=reason(record),
        from_limit=observation.limit,
        to_limit=decision.target if isinstance(decision, Raise | Override) else None,
        outcome=outcome.kind.value,
        limit_after=outcome.limit_after,
        errno=outcome.errno,
        detail=storable(outcome.detail),
        mode=record.mode.value,
        namespace=record.trigger.namespace,
        message=storable(record.trigger.message),
        repeats=1,
        last_at=rfc3339(observation.wall_seconds),
        sentence=storable(sentence),
        boot_id=observation.boot_id,
        uid=by.uid if by else None,
        login_uid=by.login_uid if by else None,
        policy_hash=hashed(policy)[0],
        guard_version=__version__,
        kernel_release=kernel_release,
        key=record.key,
        at_seconds=observation.wall_seconds,
        boottime_seconds=observation.boottime_seconds,
        last_seconds=observation.wall_seconds,
        fingerprint=storable(fingerprint(record)),
        arithmetic=encode(getattr(decision, "arithmetic", None)),
    )


def hashed(policy: Policy) -> tuple[str, str]:
    """Return the short hash that names a policy, and the policy as JSON."""
    text = compact(encode(policy))
    return hashlib.sha256(text.encode()).hexdigest()[:16], text


def evidence(record: Record) -> tuple[str | None, ...]:
    """Return trigger, observation, state, decision and arithmetic as JSON; the arithmetic separately."""
    decision = encode(record.decision)
    arithmetic = decision.pop("arithmetic", None)
    parts = (encode(record.trigger), encode(record.observation), encode(record.state), decision)
    return (*map(compact, parts), None if arithmetic is None else compact(arithmetic))


def record_of(row: Row, *texts: str | None) -> Record:
    """Return the record that `first_row` and `evidence` made a row of; ValueError where it is damaged."""
    trigger, observation, state, decision, arithmetic = texts
    found = parse(decision)
    outcome = Outcome(kind=OutcomeKind(row.outcome), limit_after=row.limit_after, errno=row.errno, detail=row.detail)
    return Record(
        key=row.key,
        mode=Mode(row.mode),
        trigger=_decoded(Trigger, trigger),
        observation=decode(Observation, parse(observation)),
        state=_decoded(State, state),
        decision=decode_decision(found if arithmetic is None else found | {"arithmetic": parse(arithmetic)}),
        outcome=outcome,
    )


def change_of(  # noqa: PLR0913, PLR0917 - columns
    boot_id: str, key: object, at: object, limit: object, reason: object, trigger: str | None
) -> Record | None:
    """Return another program's change from columns of its row, with what `core.state.advance` reads; None if one is damaged.

    `at` is CLOCK_BOOTTIME in seconds. The other fields have values without meaning.
    """
    if not (isinstance(key, str) and isinstance(at, (int, float)) and (limit is None or isinstance(limit, int))):
        return None
    try:
        decision, cause = _hold(reason), _decoded(Trigger, trigger)
    except ValueError:
        return None
    seen = Observation(boottime_seconds=at, wall_seconds=0.0, boot_id=boot_id, limit=limit, kernel_limit=None)
    return Record(
        key=key, mode=Mode.ACT, trigger=cause, observation=seen, state=_NO_STATE, decision=decision, outcome=_NO_OUTCOME
    )


def row_of(columns: tuple[Any, ...]) -> Row | None:
    """Return a row from its columns and, as JSON, its arithmetic and its verification; None if a column is damaged.

    A damaged arithmetic or verification is left out.
    """
    *summary, arithmetic, verification = columns
    if not all(map(contains, _TYPES, map(type, summary))):
        return None
    row = Row(*summary)
    if not (0 <= row.at_seconds < _MOST_SECONDS and 0 <= row.last_seconds < _MOST_SECONDS and row.repeats >= 0):
        return None
    if arithmetic:
        with suppress(ValueError):
            sums = parse(arithmetic)
            row = replace(row, arithmetic=sums if isinstance(sums, dict) else None)
    if verification:
        with suppress(ValueError):
            row = replace(row, verification=decode(Verification, parse(verification)))
    return row


@lru_cache(maxsize=8)
def _hold(reason: object) -> Hold:
    return Hold(reason=hold_reason(reason))


@lru_cache(maxsize=4)  # decisions in a row often have the same trigger and state
def _decoded(kind: type[T], text: str | None) -> T:
    return decode(kind, parse(text))


def parse(text: object) -> Any:
    """Return the value of a column with JSON. Raises ValueError for anything else, also for NaN and deep nesting."""
    try:
        return _JSON.decode(text)  # type: ignore[arg-type] # a damaged column may be anything
    except (RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


_JSON: Final = json.JSONDecoder(parse_constant=_no_number)
"""`json.loads` makes one for each call: a twentieth of deciding a history again."""


def compact(data: object) -> str:
    """Return compact ASCII JSON with a stable order of keys."""
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def storable(text: str) -> str:
    """Return text as SQLite takes it: bytes that were no UTF-8 in the journal become visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode()

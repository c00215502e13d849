"""A record as the rows of a history, and back; and a row as the JSON that `--json` and `notify` show."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import decode, decode_decision, encode, verdict
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import Observation, Outcome, OutcomeKind, Override, Raise, Record, State, Trigger
from conntrackd_guard.core.records import fingerprint, reason
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.core.verification import Verification

VERSION = 1
"""Of every JSON document."""


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
    key: str
    at: str
    at_seconds: float
    boottime_seconds: float
    boot_id: str
    mode: str
    trigger: str
    namespace: int | None
    message: str
    verdict: str
    reason: str
    from_limit: int | None
    to_limit: int | None
    outcome: str
    limit_after: int | None
    errno: int | None
    detail: str
    sentence: str
    fingerprint: str
    policy_hash: str
    guard_version: str
    kernel_release: str
    uid: int | None
    login_uid: int | None
    repeats: int
    """Kernel messages with this result, and decisions without a new message; 1 where it did not come again."""
    last_at: str
    last_seconds: float
    arithmetic: dict[str, Any] | None = None
    verification: Verification | None = None
    """Raises only."""


def columns(record: Record, *, policy_hash: str, sentence: str, kernel_release: str) -> dict[str, Any]:
    """Return the columns of `decisions` for a record."""
    observation, decision, outcome = record.observation, record.decision, record.outcome
    return {
        "key": record.key,
        "at": rfc3339(observation.wall_seconds),
        "at_seconds": observation.wall_seconds,
        "boottime_seconds": observation.boottime_seconds,
        "boot_id": observation.boot_id,
        "mode": record.mode.value,
        "trigger": record.trigger.kind.value,
        "namespace": record.trigger.namespace,
        "message": record.trigger.message,
        "verdict": verdict(decision),
        "reason": reason(record),
        "from_limit": observation.limit,
        "to_limit": decision.target if isinstance(decision, Raise | Override) else None,
        "outcome": outcome.kind.value,
        "limit_after": outcome.limit_after,
        "errno": outcome.errno,
        "detail": outcome.detail,
        "fingerprint": fingerprint(record),
        "uid": decision.uid if isinstance(decision, Override) else None,
        "login_uid": decision.login_uid if isinstance(decision, Override) else None,
        "last_at": rfc3339(observation.wall_seconds),
        "last_seconds": observation.wall_seconds,
        "sentence": sentence,
        "policy_hash": policy_hash,
        "guard_version": __version__,
        "kernel_release": kernel_release,
    }


def first_row(record: Record, row_id: int, *, policy: Policy, sentence: str, kernel_release: str) -> Row:
    """Return the row that a record becomes, with its arithmetic."""
    found = columns(record, policy_hash=hashed(policy)[0], sentence=sentence, kernel_release=kernel_release)
    values: dict[str, Any] = {name: storable(value) for name, value in found.items()}
    return Row(id=row_id, **values, repeats=1, arithmetic=encode(getattr(record.decision, "arithmetic", None)))


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
    """Return the record that `columns` and `evidence` made a row of; ValueError where it is damaged."""
    parts: list[Any] = [None if text is None else json.loads(text) for text in texts]
    trigger, observation, state, decision, arithmetic = parts
    outcome = Outcome(kind=OutcomeKind(row.outcome), limit_after=row.limit_after, errno=row.errno, detail=row.detail)
    return Record(
        key=row.key,
        mode=Mode(row.mode),
        trigger=decode(Trigger, trigger),
        observation=decode(Observation, observation),
        state=decode(State, state),
        decision=decode_decision(decision if arithmetic is None else decision | {"arithmetic": arithmetic}),
        outcome=outcome,
    )


def verification_of(text: str | None) -> Verification | None:
    """Return a raise's verification; None without one, or where it is damaged."""
    with suppress(ValueError):
        return None if text is None else decode(Verification, json.loads(text))
    return None


def compact(data: object) -> str:
    """Return compact ASCII JSON with a stable order of keys."""
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def storable(value: object) -> object:
    """Return text as SQLite takes it: bytes that were no UTF-8 in the journal become visible escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def decision_document(row: Row) -> dict[str, Any]:
    """Return one decision as JSON shows it.

    `reason`: a hold's code; a raise's trigger and corroboration; an override's kind.
    """
    return {
        "id": row.id,
        "at": row.at,
        "trigger": row.trigger,
        "verdict": row.verdict,
        "reason": row.reason,
        "from": row.from_limit,
        "to": row.to_limit,
        "outcome": row.outcome,
        "limit_after": row.limit_after,
        "errno": row.errno,
        "detail": row.detail,
        "mode": row.mode,
        "namespace": row.namespace,
        "message": row.message,
        "repeats": row.repeats,
        "last_at": row.last_at,
        "sentence": row.sentence,
        "arithmetic": row.arithmetic,
        "verification": encode(row.verification),
        "boot_id": row.boot_id,
        "uid": row.uid,
        "login_uid": row.login_uid,
        "policy_hash": row.policy_hash,
        "guard_version": row.guard_version,
        "kernel_release": row.kernel_release,
    }


def notify_document(row: Row) -> str:
    """Return one decision as a document for the `notify` command; an id of 0 (not in history yet) becomes null."""
    return document({"decision": decision_document(row) | {"id": row.id or None}})


def document(content: dict[str, Any]) -> str:
    """Return `content` as one versioned document, indented for people. ASCII, so that no terminal can be fooled."""
    return json.dumps({"version": VERSION, **content}, indent=2, ensure_ascii=True) + "\n"

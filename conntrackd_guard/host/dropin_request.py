"""A request for the drop-in: what the next boot is to start with, and when that was decided.

The daemon and `guard revert` leave one under /run, and whoever may write the drop-in carries it out, as root with the right
to write sysctl settings. A daemon that was taken over may leave anything: a request has numbers in their ranges and one
key, and everything else is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from conntrackd_guard.core.limits import MODULUS
from conntrackd_guard.core.model import INT_MAX, Raise, Record
from conntrackd_guard.core.units import MOST_BYTES, MOST_SECONDS

_KEY = re.compile(r"[0-9a-z-]{1,64}")
"""Key of a record: boot, time, process and a counter, or a kind of override."""
_MOST_BUCKETS = (1 << 32) // 8
"""What the kernel takes at most: list heads of 8 bytes in less than 4 GiB."""
_RANGES = {
    "decided_us": (0, int(MOST_SECONDS * 1e6)),
    "limit": (1, INT_MAX),
    "limit_before": (0, MODULUS - 1),
    "buckets": (1, _MOST_BUCKETS),
    "keeps_buckets": (0, MODULUS - 1),
    "lower_than": (0, MODULUS - 1),
    "wall_seconds": (0, 100_000_000_000),  # the year 5138
    "memory_total_bytes": (0, MOST_BYTES),
    "budget_bytes": (0, MOST_BYTES),
}
_OPTIONAL = frozenset({"buckets", "keeps_buckets", "lower_than"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """Content of the drop-in."""

    limit: int
    limit_before: int
    buckets: int | None = None
    """Hash buckets that the guard raised; None: it raised none with this decision."""
    keeps_buckets: int | None = None
    """Without `buckets`: those in the file stay if they are at least this many. None: they go."""
    wall_seconds: int
    decision: str
    memory_total_bytes: int
    budget_bytes: int

    @classmethod
    def from_record(cls, record: Record, limit: int) -> Self:
        """Return the content for the record that set `limit`."""
        decision, observation = record.decision, record.observation
        return cls(
            limit=limit,
            limit_before=observation.limit or 0,
            buckets=decision.buckets_target if isinstance(decision, Raise) else None,
            wall_seconds=int(observation.wall_seconds),
            decision=record.key,
            memory_total_bytes=observation.memory_total_bytes,
            budget_bytes=decision.arithmetic.budget_bytes if isinstance(decision, Raise) else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropInRequest:
    """A wanted drop-in."""

    boot_id: str
    decided_us: int
    """CLOCK_BOOTTIME."""
    content: Persisted | None
    """None: no drop-in."""
    lower_than: int | None = None
    """Without content: remove only a limit lower than this one."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any], boot_id: str) -> Self:
        """Return the request of this boot in a document. ValueError names what is not expected of one."""
        found = dict(_checked(cls, document))
        if found["boot_id"] != boot_id:
            raise ValueError("it is of another boot")
        if (content := found.get("content")) is not None:
            found["content"] = Persisted(**_checked(Persisted, content))
        return cls(**found)


def _checked(kind: type[Any], found: Any) -> Mapping[str, Any]:
    """Return the fields of a `kind`: all that it needs, no others, each in its range."""
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {found!r:.80}")  # noqa: TRY004 - a fault of the content
    names = {field.name for field in fields(kind)}
    if unknown := sorted(found.keys() - names):
        raise ValueError(f"unknown key {unknown[0]!r:.80}")
    if missing := sorted(names - found.keys() - _OPTIONAL):
        raise ValueError(f"no {missing[0]}")
    for name, value in found.items():
        if name in {"boot_id", "content"} or (value is None and name in _OPTIONAL):
            continue
        if name == "decision":
            if not isinstance(value, str) or not _KEY.fullmatch(value):
                raise ValueError(f"decision is {value!r:.80}, which is no key")
            continue
        least, most = _RANGES[name]
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is {value!r:.80}, expected a whole number from {least} to {most}")
    return found

"""The values that an operator can set and that decisions and records depend on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

LOOPBACK = "127.0.0.1"


class Mode(StrEnum):
    """Whether decisions reach the kernel."""

    ACT = "act"
    DRY_RUN = "dry-run"


class Addresses(StrEnum):
    """The addresses in a stored sample: all, networks or none."""

    FULL = "full"
    PREFIX = "prefix"
    OFF = "off"


class Buckets(StrEnum):
    """Response to hash chains that grow with the limit."""

    KEEP = "keep"
    MATCH = "match"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """An amount of memory: a number of bytes, or a fraction of a total."""

    bytes: int | None = None
    fraction: float | None = None


class Listen(NamedTuple):
    """An IPv4 or IPv6 address to listen on, and a port."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return self.address.startswith("127.") or self.address == "::1"

    def __str__(self) -> str:
        """Return it as an operator would write it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class FloodAction(StrEnum):
    """What a flood gets."""

    RAISE = "raise"
    HOLD = "hold"
    RAISE_TO = "raise_to"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodResponse:
    """What `on_flood` allows for a table that a flood fills."""

    action: FloodAction = FloodAction.RAISE
    limit: int | None = None
    """With `raise_to`: the highest limit."""

    @property
    def restricts(self) -> bool:
        """Whether a flood is treated unlike any other demand, so that it has to be recognised."""
        return self.action is not FloodAction.RAISE

    def allows(self, target: int) -> bool:
        """Return whether the limit may be raised to `target` for a flood."""
        return self.action is FloodAction.RAISE or (self.limit is not None and target <= self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that affect decisions, with their defaults."""

    raise_early: bool = True
    threshold: float = 0.80
    growth_factor: float = 1.5
    budget: Share = Share(fraction=0.10)
    min_available: Share | None = None
    """None: the larger of 5 % of memory and min(512 MiB, 10 % of memory)."""
    min_limit: int | None = None
    max_limit: int | None = None
    on_flood: FloodResponse = FloodResponse()
    cooldown_seconds: float = 2.0
    conflict_limit: int = 3
    buckets: Buckets = Buckets.KEEP
    trust_user_namespaces: bool = False

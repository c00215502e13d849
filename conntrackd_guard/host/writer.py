"""A program that may write the limit, and what it sets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A program that may write the limit."""

    evidence: str
    next_step: str
    sets: tuple[int, ...] = ()
    """The value it sets; several where its version decides, none if unknown."""
    buckets: tuple[int, ...] = ()
    """The number of hash buckets that it sets with each of them."""
    is_final: bool = False
    """Whether it sets that after the sysctl files, and again and again."""
    lowers: bool = True
    """Whether it sets that over a higher limit too."""
    pid: int | None = None
    """None while it doesn't run."""
    period_seconds: float | None = None
    """How often it sets that while it runs; None: at its start."""
    is_process: bool = True
    """Whether it runs on; a command that sets its value whenever it is called leaves no time as evidence."""
    is_kube_proxy: bool = False
    """Whether it sets that at each start and never else, so that a lowering by it is no fight."""

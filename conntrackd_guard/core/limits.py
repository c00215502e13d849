"""The limit as the kernel reads it: an unsigned number of entries, where 0 is no limit. Pure.

`nf_conntrack_max` is an unsigned int that kernels before the fix of 2025 let anyone set, and show, as a signed one: -1 is
4,294,967,295 (measured on 5.10.223). The guard keeps the unsigned value everywhere; only texts for people have the sign.
"""

from conntrackd_guard.core.model import INT_MAX

MODULUS = 1 << 32
"""Of an unsigned int."""


def unsigned(shown: int) -> int:
    """Return a number that sysctl shows as the kernel reads it: -1 as 4,294,967,295. Raises ValueError beyond 32 bits."""
    if not -MODULUS // 2 <= shown < MODULUS:
        raise ValueError(f"{shown} has more than 32 bits")
    return shown % MODULUS


def is_unlimited(limit: int) -> bool:
    """Return whether a limit in force is none: 0, or more entries than any kernel lets a raise reach."""
    return not 0 < limit <= INT_MAX


def is_lower(limit: int, than: int) -> bool:
    """Return whether `limit` lets a table hold fewer entries than `than` does."""
    return limit != 0 and (than == 0 or limit < than)


def signed(limit: int) -> int:
    """Return a limit as sysctl shows it."""
    return limit - MODULUS if limit > INT_MAX else limit


def format_limit(limit: int) -> str:
    """Return a limit for people: `65,536`, `0 (unlimited)`, `-1 (unlimited)`."""
    return f"{signed(limit)} (unlimited)" if is_unlimited(limit) else f"{limit:,}"


def lowest_accepted(release: str, limit: int | None) -> int:
    """Return the lowest value that this kernel's sysctl takes; `limit` is the one in force.

    5.10.223 takes any int, 6.1.176 to 6.18.15 from 0 on, 7.2 and later from 1 on (measured). Stable updates have moved
    these bounds between releases: a limit in force proves what its own kernel takes.
    """
    numbers = [int(part) if part.isdecimal() else 0 for part in release.split("-", maxsplit=1)[0].split(".")[:2]]
    version = tuple(numbers)
    lowest = 1 if version >= (7, 2) else 0 if version >= (6, 1) else -INT_MAX - 1
    if limit is None:
        return lowest
    return min(lowest, -INT_MAX - 1 if limit > INT_MAX else limit)

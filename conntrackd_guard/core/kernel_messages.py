"""Which kernel lines concern the guard. Pure: the text of one message in, a `KernelLine` or None out.

A message is matched whole: a firewall's LOG prefix may begin like the line and is the kernel's own
too. Whether the kernel wrote it (`_TRANSPORT=kernel` and facility 0) is for the sources to check.
"""

from __future__ import annotations

import re

from conntrackd_guard.core.model import KernelLine, LineKind

_U32_MAX = 2**32 - 1

_WORDINGS: tuple[tuple[LineKind, re.Pattern[str]], ...] = (
    # 2.4 to 2.6 with `ip_` and a period; to 4.5 with one prefix; since then with two; since 6.17 with the namespace.
    (
        LineKind.TABLE_FULL,
        re.compile(r"(?:(?:nf|ip)_conntrack: ){1,2}table full(?: in netns ([0-9]{1,10}))?, dropping packet\.?"),
    ),
    (
        LineKind.EXPECTATION_FULL,
        re.compile(r"(?:(?:nf|ip)_conntrack: ){1,2}expectation table full(?: in netns ([0-9]{1,10}))?\.?"),
    ),
    (
        LineKind.NEIGHBOUR_FULL,
        re.compile(r"(?:neighbour: (?:arp|ndisc)_cache: neighbor|[Nn]eighbour) table overflow[!.]?()"),
    ),
    (LineKind.SUPPRESSED, re.compile(r"net_ratelimit: [0-9]{1,10} callbacks suppressed()")),
)
_HINTS = (b"table full", b"table overflow", b"callbacks suppressed")


def worth_reading(raw: bytes) -> bool:
    """Return whether a message may concern the guard; cheap, for thousands of lines a second."""
    return any(hint in raw for hint in _HINTS)


def recognise(message: str) -> KernelLine | None:
    """Return what a kernel message tells the guard, None for any other message."""
    for kind, wording in _WORDINGS:
        found = wording.fullmatch(message)
        if found is not None:
            number = int(found[1]) if found[1] else None
            if number is not None and number > _U32_MAX:
                return None  # no inode of a namespace: not the kernel's wording
            return KernelLine(kind=kind, namespace=number, message=message)
    return None

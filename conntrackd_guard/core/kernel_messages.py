"""Recognize the kernel messages that concern the guard, and reject text that only looks like them.

The whole message has to match: a firewall's log prefix can begin with the same words, and has the kernel's own facility,
too. /dev/kmsg escapes no character of these wordings, so a raw record need not be unescaped first.
"""

import re
from dataclasses import dataclass

from conntrackd_guard.core.model import MessageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelMessage:
    """A kernel message that concerns the guard."""

    kind: MessageKind
    namespace: int | None
    """Inode of the network namespace that the message names, None if it names none."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """A recognised kernel message as a source delivered it. `core.dedup` decides whether it is new."""

    message: KernelMessage
    stamp_us: int | None
    """The kernel's own timestamp (printk's local clock). Compare only with kernel timestamps of the same boot."""
    boot_id: str
    source: str
    """`ring buffer` or `journal`."""
    cursor: str | None = None
    """The journal's cursor after this entry; None for the ring buffer."""
    wall_seconds: float | None = None
    """When the journal received it; None for the ring buffer, whose stamps are no wall time."""
    held_at_start: bool = False
    """The source contained it before the guard started to read."""


_UNSIGNED_INT_MAX = 2**32 - 1
"""A namespace's inode number is an unsigned int (`ns_common.inum`)."""

_PREFIX = r"(?:(?:nf|ip)_conntrack: ){1,2}"
"""Doubled since 4.5–4.9: `pr_fmt` puts the module's name before a literal that has it already."""

_TABLE_FULL = re.compile(
    _PREFIX + r"(?:VPS [0-9]{1,10} )?table full(?: in netns ([1-9][0-9]{0,9}))?, dropping packet\.?"
)
"""OpenVZ's kernels name the container (`VPS 101`), which is no network namespace's number."""
_SIBLINGS = (
    (MessageKind.EXPECTATION_FULL, re.compile(_PREFIX + r"expectation table full")),
    (
        MessageKind.NEIGHBOUR_FULL,
        re.compile(
            r"(?:neighbour: )?[a-z_]{1,24}_cache: neighbor table overflow!"
            r"|(?:(?:ipv|IPv)[46]: )?Neighbour table overflow\.?"  # the wording before 3.14
        ),
    ),
    # The second prefix, from 2.6.2x and 2.6.3x, may be about another rate limit than the network's.
    (MessageKind.SUPPRESSED, re.compile(r"(?:net_|__)ratelimit: [1-9][0-9]{0,9} callbacks suppressed")),
)


def recognise(message: str) -> KernelMessage | None:
    """Return the message if it concerns the guard, else None."""
    match = _TABLE_FULL.fullmatch(message)
    if match is not None:
        namespace = int(match[1]) if match[1] else None
        if namespace is not None and namespace > _UNSIGNED_INT_MAX:
            return None
        return KernelMessage(kind=MessageKind.TABLE_FULL, namespace=namespace, text=message)
    for kind, pattern in _SIBLINGS:
        if pattern.fullmatch(message):
            return KernelMessage(kind=kind, namespace=None, text=message)
    return None


MARKS = (b"table full", b" callbacks suppressed", b"table overflow")
"""Every message that is recognised contains one of these. Readers search for them first: 0.2 µs for a firewall's message."""

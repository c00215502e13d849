"""What kernel messages of the past show about one host, whatever file or stream they come from.

They are a floor: the kernel logs at most 10 in 5 s. Of the host they show memory, CPUs and the kernel's release; not how
large a table was, nor the limit in force, nor the memory available at that moment.
"""

import re
from collections import Counter

from conntrackd_guard.core.kernel_messages import recognise
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.core.units import YEAR_10000
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Message, Span

MOST_MOMENTS = 500_000
"""Seconds with messages that are kept a host: 60 MiB. The kernel's rate limit makes that 29 days without a pause."""

_RELEASE = re.compile(r"Linux version ([!-~]{1,128}) ")
_MEMORY = re.compile(r"Memory: [0-9]{1,15}K/([0-9]{1,12})K available")
_CPUS = re.compile(r"(?:smp: )?Brought up (?:[0-9]{1,5} (?:NUMA )?nodes?, )?([0-9]{1,5}) CPUs?")
_BOOT = (_MEMORY, _CPUS, _RELEASE)
_KIB = 1024


class KernelLines:
    """Collects a host's kernel messages, in any order."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._counts: Counter[tuple[int, MessageKind, int | None]] = Counter()
        self._boot: dict[re.Pattern[str], tuple[float, str]] = {}
        """By the message that shows it: when it was logged, and what it shows."""
        self._oom_kills = self._not_kept = self._impossible = 0

    def add(self, wall_seconds: float, message: bytes) -> None:
        """Count a message about conntrack within the span; take what a boot message shows, of the newest boot in it."""
        if not 0 <= wall_seconds < YEAR_10000:
            self._impossible += 1
            return
        if self._span.until is not None and wall_seconds > self._span.until:
            return
        text = message[:1024].decode("utf-8", "replace")
        if (recognised := recognise(text)) is None:
            self._describe(wall_seconds, text)
        elif self._span.has(wall_seconds):
            moment = int(wall_seconds), recognised.kind, recognised.namespace
            if len(self._counts) < MOST_MOMENTS or moment in self._counts:
                self._counts[moment] += 1
            else:
                self._not_kept += 1

    def host(self, name: str, boots: int | None, notes: tuple[str, ...]) -> HostInput:
        """Return the evidence, oldest first. Equal messages of one second are one."""
        own = []
        if self._oom_kills:
            own.append(f"out-of-memory kills: {self._oom_kills}")
        if self._not_kept:
            own.append(f"too many messages: the last {self._not_kept} are not replayed")
        if self._impossible:
            own.append(f"kernel messages with an impossible time, left out: {self._impossible}")
        memory, cpus, kernel = (self._boot[shown][1] if shown in self._boot else None for shown in _BOOT)
        ordered = sorted(self._counts.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0))
        return HostInput(
            name=name,
            grade=Grade.ASKED_ONLY,
            facts=HostFacts(
                total_bytes=None if memory is None else int(memory) * _KIB,
                cpus=None if cpus is None else int(cpus),
                kernel=kernel,
                boots=boots,
            ),
            messages=tuple(Message(float(second), kind, namespace, n) for (second, kind, namespace), n in ordered),
            notes=(*notes, *own),
        )

    def _describe(self, wall_seconds: float, text: str) -> None:
        if text.startswith("Out of memory: "):
            self._oom_kills += self._span.has(wall_seconds)
            return
        for shown in _BOOT:
            found = shown.match(text)
            if found is not None and wall_seconds >= self._boot.get(shown, (0.0, ""))[0]:
                self._boot[shown] = wall_seconds, found[1]

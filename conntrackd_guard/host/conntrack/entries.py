"""The entries of one namespace's table, as far as a bound in number and time allows.

/proc/PID/net/nf_conntrack shows those of the process's namespace to root without any capability. Where it tells
nothing (a kernel without it, a namespace without a process), root may enter the namespace, and ask over netlink.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from socket import AF_INET, inet_pton
from types import TracebackType
from typing import Self

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.traffic.entry import Batch, Entry, state_by_flags
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of, run_in_netns
from conntrackd_guard.host.paths import Paths

_LISTING = "net/nf_conntrack"
_CHUNK_BYTES = 16 * 1024
"""The kernel fills one page a read (20 entries), but a line of more than a page is given whole."""
_LONGEST_LINE_BYTES = 4096
_LINE = re.compile(
    rb"^ipv([46]) +\d+ \S+ +(\d{1,3}) "
    rb"(?:(\d{1,10}) )?"  # not of an offloaded flow
    rb"(?:([A-Z][A-Z0-9_]{1,30}) )?(?:timeout=\d+, stream_timeout=\d+ )?"  # TCP, SCTP and DCCP; GRE
    rb"src=([0-9a-f.:]{7,39}) dst=([0-9a-f.:]{7,39}) (?:sport=(\d{1,5}) dport=(\d{1,5}) )?"
    rb"(?:(?!src=)[a-z-]+=\S+ )*(\[UNREPLIED\] )?"  # of ICMP and GRE; zones and accounting
    rb"src=([0-9a-f.:]{7,39}) dst=([0-9a-f.:]{7,39}) (?:sport=(\d{1,5}) dport=(\d{1,5}) )?"
    rb"(?:[a-z-]+=\S+ )*?(?:\[(ASSURED|OFFLOAD|HW_OFFLOAD)\] |(?=mark=|use=))",
    re.MULTILINE,
)
"""A line of the listing, net/netfilter/nf_conntrack_standalone.c; the same from 2.6.28 to 6.18."""


class Listing:
    """An opened listing of one table. Iterate `entries` once, then close."""

    def __init__(self, source: str, batches: Iterator[Batch], close: Callable[[], object]) -> None:
        self.source = source
        self.skipped = 0
        """What could not be understood so far."""
        self._batches = batches
        self._close = close

    def entries(self, *, most: int, seconds: float) -> Iterator[Entry]:
        """Yield at most so many entries, and begin no read after so many seconds. Ends early rather than fails."""
        deadline = time.monotonic() + seconds
        left = most
        try:
            for entries, odd in self._batches:
                self.skipped += odd
                yield from entries[:left]
                left -= len(entries)
                if left <= 0 or time.monotonic() >= deadline:
                    return
        except OSError:  # the namespace ended, or netlink lost its place: what was read stands
            return

    def close(self) -> None:
        """Give the descriptor back."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class EntryReader:
    """Opens the listings of places found by `host.namespaces`.

    `enter` allows to enter a namespace and to use netlink (CAP_SYS_ADMIN, CAP_NET_ADMIN) where /proc tells nothing.
    """

    def __init__(self, paths: Paths, *, enter: bool) -> None:
        self._proc = str(paths.proc)
        self._may_enter = enter

    def open(self, place: NetNamespace) -> Listing:
        """Return the listing of a table. Raises HostError."""
        why = OSError(errno.ESRCH, "no process leads to it")
        for pid in ("self",) if place.initial else place.pids:
            try:
                with process_of(place, self._proc, pid) as folder:
                    return _text_listing(
                        os.open(_LISTING, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "listing in /proc"
                    )
            except OSError as error:
                why = error
        if self._may_enter:
            try:
                return self._entered(place)
            except OSError as error:
                why = error
        path = f"{self._proc}/{place.pids[0] if place.pids else 'PID'}/{_LISTING}"
        step = "Root can read it." if os.geteuid() != 0 else "`guard top` can enter it." if not self._may_enter else ""
        raise HostError(f"reading the entries of {place.label} in", path, why, step) from why

    @staticmethod
    def _entered(place: NetNamespace) -> Listing:
        """Open the listing from inside: what is opened there stays of that namespace outside."""

        def listing() -> Listing:
            try:
                descriptor = os.open(f"/proc/thread-self/{_LISTING}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                from conntrackd_guard.host.conntrack import entries_netlink  # noqa: PLC0415 - hardly a host needs it

                return Listing("netlink", *entries_netlink.listing())
            return _text_listing(descriptor, "listing in /proc, entered")

        return listing() if place.initial else run_in_netns(place, listing)


def _text_listing(descriptor: int, source: str) -> Listing:
    return Listing(source, _batches(descriptor), lambda: os.close(descriptor))


def _batches(descriptor: int) -> Iterator[Batch]:
    """Yield what each read gives; a line is understood whole or counted as odd. Raises OSError."""
    begun = b""
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        whole, newline, begun = (begun + chunk).rpartition(b"\n")
        yield parse(whole + newline)
        if len(begun) > _LONGEST_LINE_BYTES:
            begun = b""
            yield [], 1


def parse(lines: bytes) -> Batch:
    """Return the entries of whole lines, and how many lines are none."""
    entries = []
    for match in _LINE.finditer(lines):
        try:
            entries.append(_entry(*match.groups()))
        except (ValueError, OSError):  # an address that is none
            continue
    return entries, lines.count(b"\n") - len(entries)


def _entry(  # noqa: PLR0913, PLR0917 - the fields of a line
    version: bytes,
    number: bytes,
    remaining: bytes | None,
    state: bytes | None,
    source: bytes,
    destination: bytes,
    source_port: bytes | None,
    destination_port: bytes | None,
    unreplied: bytes | None,
    reply_source: bytes,
    reply_destination: bytes,
    reply_source_port: bytes | None,
    reply_destination_port: bytes | None,
    mark: bytes | None,
) -> Entry:
    address = _ipv4 if version == b"4" else _ipv6
    offloaded, assured, replied = mark is not None and mark != b"ASSURED", mark is not None, unreplied is None
    return Entry(
        int(number),
        state.decode() if state else state_by_flags(offloaded=offloaded, assured=assured, replied=replied),
        assured,
        replied,
        address(source),
        address(destination),
        int(source_port or 0),
        int(destination_port or 0),
        address(reply_source),
        address(reply_destination),
        int(reply_source_port or 0),
        int(reply_destination_port or 0),
        None if remaining is None else int(remaining),
    )


def _ipv4(text: bytes) -> bytes:
    return inet_pton(AF_INET, text.decode())


def _ipv6(text: bytes) -> bytes:
    """The kernel prints all eight groups with all their zeros."""
    packed = bytes.fromhex(text.replace(b":", b"").decode())
    if len(packed) != 16:  # noqa: PLR2004 - bytes of an IPv6 address
        raise ValueError("no IPv6 address")
    return packed

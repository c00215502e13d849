"""The limit that the kernel sets itself when connection tracking is loaded. Pure.

From nf_conntrack_init_start() in net/netfilter/nf_conntrack_core.c; d532bcd0b269 changed the figures in 5.15.
"""

import re

from conntrackd_guard.core.chains import BUCKETS_ROUNDED_TO
from conntrackd_guard.core.model import LoadFacts

GIB = 1 << 30
_HASHSIZE_FACTOR, _FACTOR_BEFORE = 8, 4
"""Limit over buckets: with `hashsize=` given at load, and without it before 5.15. Since then it is 1."""
_MOST_BUCKETS = 262_144
"""The kernel chooses no more by itself."""
_BYTES_PER_BUCKET = 16_384 * 8
"""Up to 1 GiB the buckets take a 16,384th of memory, at 8 bytes each."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")


def default_limit(load: LoadFacts, buckets: int, memory_total_bytes: int) -> int | None:
    """Return the limit that the kernel sets with this number of buckets; None if it doesn't choose that number itself.

    Before 5.15 the number has to be the one for this memory: kube-proxy keeps limit and buckets at that same 4 : 1.
    """
    if load.hashsize is not None and buckets == load.hashsize:
        return _HASHSIZE_FACTOR * buckets
    found = _VERSION.match(load.kernel_release)
    version = (int(found[1]), int(found[2])) if found else (5, 15)
    if version >= (5, 15):
        return buckets if 0 < buckets <= _MOST_BUCKETS else None
    if memory_total_bytes and abs(buckets - _buckets_before(memory_total_bytes)) <= BUCKETS_ROUNDED_TO:
        return _FACTOR_BEFORE * buckets
    return buckets if version == (5, 14) and buckets in {65_536, _MOST_BUCKETS} else None  # RHEL 9: later netfilter


def default_buckets(load: LoadFacts, memory_total_bytes: int) -> int:
    """Return the buckets that a 64-bit kernel from 5.15 on chooses, or those that `hashsize=` gives."""
    if load.hashsize is not None:
        return load.hashsize
    if memory_total_bytes > 4 * GIB:
        return _MOST_BUCKETS
    return 65_536 if memory_total_bytes > GIB else max(1024, memory_total_bytes // _BYTES_PER_BUCKET)


def _buckets_before(memory_total_bytes: int) -> int:
    """Return the buckets that a kernel before 5.15 chooses."""
    if memory_total_bytes > 4 * GIB:
        return 65_536
    return 16_384 if memory_total_bytes > GIB else max(32, memory_total_bytes // _BYTES_PER_BUCKET)

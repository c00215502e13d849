"""The files that the guard reads in /proc, /sys, /etc and /run: a healthy text of each, and what reads it.

A file that the guard opens and that is missing here fails a test: it has no fuzz table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.doctor import module_loading
from conntrackd_guard.doctor.place import find_place
from conntrackd_guard.host import conf_dirs, files
from conntrackd_guard.host.conntrack.addresses import own_addresses
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.conntrack.owners import find_owner, oldest_first
from conntrackd_guard.host.conntrack.stat import MemoryReader, TableReader, read_statistics
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.load_facts import load_facts
from conntrackd_guard.host.notify_spool import NoDecision, NotifySpool
from conntrackd_guard.host.other_writers import attribute_change, other_writers
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.settings.files import load_settings

BOOT_ID = b"f2a6c0de-0000-4000-8000-000000000000\n"
MEMINFO = b"""\
MemTotal:       24684092 kB
MemFree:        23389436 kB
MemAvailable:   24192740 kB
Active(file):     510160 kB
Inactive(file):   420556 kB
SReclaimable:     177264 kB
HugePages_Total:       0
Hugetlb:               0 kB
DirectMap1G:    25165824 kB
"""
ZONEINFO = b"""\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 16740
  pages free     3840
        boost    0
        min      32
        low      40
        high     48
        promo    56
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 3019, 7755, 7755, 7755)
  pagesets
    cpu: 0
              count:    0
              high:     0
Node 0, zone    DMA32
  pages free     772000
        min      6565
        low      8206
        high     9847
        managed  772917
        protection: (0, 0, 4736, 4736, 4736)
Node 0, zone   Normal
  pages free     1200000
        min      10298
        low      12872
        high     15446
        managed  1212416
        protection: (0, 0, 0, 0, 0)
"""
"""Both as Linux 6.18 showed them at one moment, a host of 24 GiB; most rows are left out."""
STATISTICS = b"""\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop
0000ea60  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000007 00000000
0000ea60  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000002 00000000
"""
LISTING = (
    b"ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=443 "
    b"src=10.0.0.2 dst=10.0.0.1 sport=443 dport=40000 [ASSURED] mark=0 zone=0 use=2\n"
)
MOUNTINFO = b"""\
22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
96 24 0:4 net:[4026532316] /run/netns/web rw shared:1 - nsfs nsfs rw
97 24 0:4 net:[4026532317] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw
"""
STATUS = {
    "version": 1, "pid": os.getpid(), "since": 1.0, "at": 2.0, "boottime_seconds": 3.0, "mode": "act", "limit": 65536,
    "policy": encode(Policy()), "paused": None, "conflict": False, "over_budget": False, "episodes": 0,
    "recorder": {"trouble": [], "stuck_seconds": 0.0, "lost_lines": 0, "lost_holds": 0}, "memory_total_bytes": 1 << 34,
    "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
}  # fmt: skip
PAUSE = {"version": 1, "by": "guard pause", "reason": "drill", "until_seconds": 2000.0}
OVERRIDE = {"boot_id": "unknown", "decided_us": 5, "content": None}
DROP_IN = b"""\
# Written by conntrackd-guard.
# When: 2026-11-29T20:00:00.000Z. Decision: `guard show boot-1-5-1`.
# boot_id=f2a6c0de-0000-4000-8000-000000000000 machine_id=0123
# memory_total_bytes=25276510208 budget_bytes=2527651020
net.netfilter.nf_conntrack_max = 98304
"""


class ReadFile(NamedTuple):
    """One file, or several of one form (`*` in the path; the first is `at`)."""

    path: str
    healthy: bytes
    read: Callable[[Path], object]
    """Reads it below a root. Raises GuardError at most."""
    at: str = ""

    @property
    def place(self) -> str:
        """The path of the file to mutate."""
        return self.at or self.path

    def matches(self, path: str) -> bool:
        """Return whether this is the file's fuzz table."""
        return fnmatch(path, self.path)


def _memory(root: Path) -> object:
    return MemoryReader(Paths(root), RuntimeDir(Paths(root))).read()


def _initial(root: Path) -> NetNamespace:
    return NetNamespace(key=(root / "proc/1/net/stat").stat().st_ino, namespace=None, label="initial", initial=True)


def _container(root: Path) -> NetNamespace:
    return NetNamespace(key=(root / "proc/200/net/stat").stat().st_ino, namespace=None, label="web", pids=(200,))


def _used(root: Path) -> object:
    return MemoryReader(Paths(root), RuntimeDir(Paths(root))).used_entries()


def _entries(root: Path) -> object:
    with EntryReader(Paths(root), enter=False).open(_initial(root)) as listing:
        return list(listing.entries(most=100, seconds=1.0)), listing.skipped


def _writers(root: Path) -> object:
    return [writer.evidence for writer in other_writers(root, 2)], attribute_change(root, 131_072, 100.0)


def _sysctl_files(root: Path) -> object:
    return conf_dirs.sysctl_files(root), conf_dirs.assignments(root)


def _served(root: Path) -> None:
    with suppress(GuardError):
        SysctlDropIn(Paths(root)).serve()


def _notices(root: Path) -> object:
    spool = NotifySpool(Paths(root).notices)
    try:
        return [spool.read(file) for file in spool.files()]
    except NoDecision as error:
        return str(error)


def _settings(root: Path) -> object:
    paths = Paths(root)
    return load_settings(paths.settings_file, paths.settings_folder, owner=os.geteuid())


def _json(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"


READ_FILES = (
    ReadFile("proc/meminfo", MEMINFO, _memory),
    ReadFile("proc/zoneinfo", ZONEINFO, _memory),
    ReadFile("sys/kernel/slab/nf_conntrack/slab_size", b"256\n", _memory),
    ReadFile("sys/kernel/slab/nf_conntrack/total_objects", b"60000 N0=60000\n", _memory),
    ReadFile("proc/sys/net/netfilter/nf_conntrack_max", b"65536\n", lambda root: LiveKernel(Paths(root)).limit()),
    ReadFile("proc/sys/net/nf_conntrack_max", b"65536\n", lambda root: LiveKernel(Paths(root)).limit()),
    ReadFile("proc/sys/net/netfilter/nf_conntrack_buckets", b"65536\n", lambda root: LiveKernel(Paths(root)).buckets()),
    ReadFile(
        "sys/module/nf_conntrack/parameters/hashsize",
        b"65536\n",
        lambda root: LiveKernel(Paths(root)).buckets(),
    ),
    ReadFile(
        "proc/sys/net/netfilter/nf_conntrack_count",
        b"60000\n",
        lambda root: TableReader(Paths(root)).read_without_process(_initial(root)),
    ),
    ReadFile(
        "proc/sys/net/netfilter/nf_conntrack_*_timeout*",
        b"432000\n",
        lambda root: TableReader(Paths(root)).timeouts(_initial(root), ["nf_conntrack_tcp_timeout_established"]),
        at="proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established",
    ),
    ReadFile(
        "proc/*/net/fib_trie",
        b"Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.1\n        /32 host LOCAL\n",
        lambda root: own_addresses(_initial(root), Paths(root)),
        at="proc/1/net/fib_trie",
    ),
    ReadFile(
        "proc/*/net/if_inet6",
        b"00000000000000000000000000000001 01 80 10 80       lo\n",
        lambda root: own_addresses(_initial(root), Paths(root)),
        at="proc/1/net/if_inet6",
    ),
    ReadFile(
        "proc/*/net/stat/nf_conntrack",
        STATISTICS,
        lambda root: read_statistics((f"{root}/proc/1/",), None),
        at="proc/1/net/stat/nf_conntrack",
    ),
    ReadFile("proc/*/net/nf_conntrack", LISTING, _entries, at="proc/1/net/nf_conntrack"),
    ReadFile(
        "proc/sys/kernel/random/boot_id",
        BOOT_ID,
        lambda root: files.read_id(Paths(root).boot_id),
    ),
    ReadFile("proc/locks", b"1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF\n", lambda root: RuntimeDir(Paths(root)).holder()),
    ReadFile(
        "proc/*/mountinfo",
        MOUNTINFO,
        lambda root: NamespaceScanner(Paths(root)).scan(),
        at="proc/1/mountinfo",
    ),
    ReadFile(
        "proc/*/uid_map",
        b"         0          0 4294967295\n",
        lambda root: NamespaceScanner(Paths(root)).scan(),
        at="proc/200/uid_map",
    ),
    ReadFile("proc/*/comm", b"nginx\n", lambda root: find_owner(_container(root), Paths(root)), at="proc/200/comm"),
    ReadFile(
        "proc/*/cgroup",
        b"0::/system.slice/nginx.service\n",
        lambda root: find_owner(_container(root), Paths(root)),
        at="proc/200/cgroup",
    ),
    ReadFile("proc/*/cmdline", b"kube-proxy\0--config=/var/lib/kube-proxy/config.conf\0", _writers, at="proc/300/cmdline"),
    ReadFile("proc/*/status", b"Name:\tkube-proxy\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n", _writers, at="proc/300/status"),
    ReadFile(
        "proc/*/stat",
        b"300 (kube-proxy) S 1 300 300 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 9000 1 1\n",
        lambda root: (_writers(root), oldest_first(_container(root), Paths(root))),
        at="proc/300/stat",
    ),
    ReadFile("etc/machine-id", b"0123456789abcdef0123456789abcdef\n", lambda root: files.read_id(Paths(root).machine_id)),
    ReadFile("etc/conntrackd-guard/guard.yaml", b"growth_factor: 1.5\nmax_limit: 1_000_000\n", _settings),
    ReadFile(
        "etc/conntrackd-guard/guard.d/*.yaml",
        b"growth_factor: 2\n",
        _settings,
        at="etc/conntrackd-guard/guard.d/50-x.yaml",
    ),
    ReadFile(
        "etc/sysctl.d/99-zz-conntrackd-guard.conf",
        DROP_IN,
        lambda root: SysctlDropIn(Paths(root)).persisted(),
    ),
    ReadFile(
        "*/sysctl.d/*.conf",
        b"# comment\nnet.netfilter.nf_conntrack_max = 131072\n-net.nf_conntrack_max=5\n",
        _sysctl_files,
        at="etc/sysctl.d/50-x.conf",
    ),
    ReadFile("etc/sysctl.conf", b"net.ipv4.ip_forward = 1\n", _sysctl_files),
    ReadFile("proc/sys/kernel/osrelease", b"6.12.0-amd64\n", lambda root: load_facts(Paths(root))),
    ReadFile("proc/cmdline", b"quiet nf_conntrack.hashsize=65536\n", lambda root: load_facts(Paths(root))),
    ReadFile(
        "*/modprobe.d/*.conf",
        b"options nf_conntrack hashsize=65536\n",
        lambda root: (load_facts(Paths(root)), _writers(root)),
        at="etc/modprobe.d/x.conf",
    ),
    ReadFile(
        "proc/spl/kstat/zfs/arcstats",
        b"13 1 0x01 123 33456 5000 6000\nname type data\nc_min 4 522915\nsize 4 8413251\n",
        _memory,
    ),
    ReadFile("sys/kernel/slab/nf_conntrack/objects", b"60000 N0=60000\n", _used),
    ReadFile("sys/kernel/slab/nf_conntrack/sheaf_capacity", b"28\n", _used),
    ReadFile("sys/kernel/slab/nf_conntrack/objs_per_slab", b"16\n", _used),
    ReadFile("sys/kernel/slab/nf_conntrack/slabs_cpu_partial", b"56(7) C0=32(4) C1=24(3)\n", _used),
    ReadFile("run/systemd/container", b"lxc\n", lambda root: find_place(Paths(root))),
    ReadFile("etc/pve/firewall/cluster.fw", b"[OPTIONS]\nenable: 1\n", _writers),
    ReadFile("etc/pve/local/host.fw", b"[OPTIONS]\nnf_conntrack_max: 196608\n", _writers),
    ReadFile("etc/rancher/k3s/config.yaml", b"kube-proxy-arg:\n  - conntrack-min=131072\n", _writers),
    ReadFile(
        "etc/rancher/k3s/config.yaml.d/*.yaml",
        b"kube-proxy-arg: [conntrack-max-per-core=0]\n",
        _writers,
        at="etc/rancher/k3s/config.yaml.d/x.yaml",
    ),
    ReadFile(
        "run/*/config.json",
        b'{"annotations": {"io.kubernetes.cri.image-name": "registry.k8s.io/kube-proxy:v1.31.2"}}\n',
        _writers,
        at=f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{'a' * 64}/config.json",
    ),
    ReadFile("proc/*/root/*", b"conntrack:\n  maxPerCore: 32768\n", _writers, at="proc/300/root/var/lib/kube-proxy/config.conf"),
    ReadFile("etc/tuned/active_profile", b"virtual-guest\n", _writers),
    ReadFile("etc/tuned/tuned-main.conf", b"reapply_sysctl = 1\n", _writers),
    ReadFile(
        "*/tuned/*/tuned.conf",
        b"[main]\ninclude=a, b\n[sysctl]\nnet.netfilter.nf_conntrack_max = 131072\n",
        _writers,
        at="etc/tuned/virtual-guest/tuned.conf",
    ),
    ReadFile("etc/ufw/ufw.conf", b"ENABLED=yes\nLOGLEVEL=low\n", _writers),
    ReadFile("etc/default/ufw", b"IPT_SYSCTL=/etc/ufw/sysctl.conf\n", _writers),
    ReadFile("etc/ufw/sysctl.conf", b"net/netfilter/nf_conntrack_max=131072\n", _writers),
    *(
        ReadFile(path, b"sysctl -w net.netfilter.nf_conntrack_max=131072\n", _writers, at=path.replace("*", "x"))
        for path in (
            "etc/rc.local", "etc/crontab", "etc/cron.d/*", "etc/network/interfaces", "etc/network/interfaces.d/*",
            "etc/network/if-pre-up.d/*", "etc/network/if-up.d/*", "etc/systemd/system/*.service",
        )
    ),
    ReadFile(
        "*/udev/rules.d/*.rules",
        b'ACTION=="add", SUBSYSTEM=="module", KERNEL=="nf_conntrack", RUN+="/sbin/sysctl -p"\n',
        lambda root: (module_loading.udev_rule(root), _writers(root)),
        at="etc/udev/rules.d/50-x.rules",
    ),
    ReadFile("*/modules-load.d/*.conf", b"nf_conntrack\n", module_loading.listed, at="etc/modules-load.d/x.conf"),
    ReadFile("run/conntrackd-guard/pause", _json(PAUSE), lambda root: RuntimeDir(Paths(root)).pause(1000.0)),
    ReadFile("run/conntrackd-guard/status.json", _json(STATUS), lambda root: RuntimeDir(Paths(root)).status()),
    ReadFile("run/conntrackd-guard/lock", b"4711\n", lambda root: files.read_id(Paths(root).lock)),
    ReadFile(
        "run/conntrackd-guard/intents/*.json",
        _json(STATUS),
        lambda root: RuntimeDir(Paths(root)).intents.all(),
        at="run/conntrackd-guard/intents/x.json",
    ),
    ReadFile(
        "run/conntrackd-guard/overrides/*.json",
        _json(STATUS),
        lambda root: RuntimeDir(Paths(root)).overrides.all(),
        at="run/conntrackd-guard/overrides/x.json",
    ),
    ReadFile("run/conntrackd-guard/drop-in.lock", b"4711 boot-1 5\n", lambda root: DropInLock(Paths(root)).followed_us()),
    ReadFile(
        "run/conntrackd-guard/drop-in.override",
        _json(OVERRIDE),
        lambda root: SysctlDropIn(Paths(root)).persisted(),
    ),
    ReadFile(
        "run/conntrackd-guard/drop-in.request",
        _json(OVERRIDE),
        _served,
    ),
    ReadFile(
        "run/conntrackd-guard/drop-in.answer",
        _json({"decided_us": 5, "error": "Can't write it."}),
        lambda root: DropInLock(Paths(root)).answer(5),
    ),
    ReadFile(
        "run/conntrackd-guard/notices/*",
        _json({"decision": {"id": 12, "sentence": "Held."}}),
        _notices,
        at="run/conntrackd-guard/notices/x.json",
    ),
)  # fmt: skip


def put_all(root: Path) -> None:
    """Write every file as it is on a healthy host; 1 and 200 are processes in two namespaces."""
    for file in READ_FILES:
        put(root, file.place, file.healthy)
    put(root, "proc/200/net/stat/nf_conntrack", STATISTICS)
    for pid, name in ((300, "kube-proxy"), (301, "k3s-server"), (302, "pve-firewall")):
        put(root, f"proc/{pid}/comm", f"{name}\n".encode())
        put(root, f"proc/{pid}/status", b"Uid:\t0\t0\t0\t0\n")
        put(root, f"proc/{pid}/cgroup", f"0::/kubepods.slice/cri-containerd-{'a' * 64}.scope\n".encode())
        (root / f"proc/{pid}/net").symlink_to("../1/net")
    if not (root / "proc/self").exists():
        (root / "proc/self").symlink_to("1")


def put(root: Path, path: str, content: bytes) -> None:
    """Write a file and its folders."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def fuzz_table(path: str) -> ReadFile | None:
    """Return the fuzz table of a path below the root, None if there is none."""
    return next((file for file in READ_FILES if file.matches(path)), None)


__all__ = ["READ_FILES", "GuardError", "ReadFile", "fuzz_table", "put", "put_all"]

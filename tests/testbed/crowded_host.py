"""A host made of files whose namespaces hold entries, for what takes portraits of tables."""

from __future__ import annotations

from pathlib import Path

from conntrackd_guard.host.paths import Paths

HEADER = "entries  clashres insert_failed drop early_drop chainlength\n"
CLIENT = "10.9.0.7"


def listing(number: int, *, answered: bool = False) -> str:
    """Return so many lines of UDP flows, half of them from one client."""
    mark = "" if answered else "[UNREPLIED] "
    tail = "[ASSURED] mark=0 use=1" if answered else "mark=0 use=1"
    lines = []
    for n in range(number):
        source = CLIENT if n % 2 else f"10.{n // 250 % 250}.1.{n % 250}"
        there = f"src={source} dst=10.200.0.1 sport={1024 + n} dport=4433"
        back = f"src=10.200.0.1 dst={source} sport=4433 dport={1024 + n}"
        lines.append(f"ipv4     2 udp      17 29 {there} {mark}{back} {tail}\n")
    return "".join(lines)


class CrowdedHost:
    """The initial namespace, empty, and others as they are put there; a limit of 65,536."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(root)
        self._put("sys/net/netfilter/nf_conntrack_max", "65536\n")
        self._put("sys/net/netfilter/nf_conntrack_buckets", "16384\n")
        self.namespace(1, "systemd", 0, "")
        (root / "proc/self").symlink_to("1")

    def namespace(self, pid: int, name: str, count: int, entries: str | None) -> int:
        """Make a process in a namespace of its own, its table with that count and listing; return its number."""
        self._put(f"{pid}/comm", f"{name}\n")
        self._put(f"{pid}/cgroup", f"0::/system.slice/{name}.service\n")
        self._put(f"{pid}/ns/net", "")
        self._put(f"{pid}/stat", f"{pid} ({name}) S " + "0 " * 18 + f"{1000 + pid} 0\n")
        self._put(f"{pid}/net/fib_trie", f"Main:\n     |-- 192.0.2.{pid}\n        /32 host LOCAL\n")
        self._put(f"{pid}/net/if_inet6", "00000000000000000000000000000001 01 80 10 80       lo\n")
        self.count(pid, count)
        if entries is not None:
            self._put(f"{pid}/net/nf_conntrack", entries)
        return (self.root / f"proc/{pid}/ns/net").stat().st_ino

    def count(self, pid: int, count: int, *, insert_failed: int = 0, chain_too_long: int = 0) -> None:
        """Set a table's counters, on the first of two CPUs."""
        rows = f"{count:08x} 0 {insert_failed:08x} 0 0 {chain_too_long:08x}\n{count:08x} 0 0 0 0 0\n"
        self._put(f"{pid}/net/stat/nf_conntrack", HEADER + rows)

    def _put(self, path: str, content: str) -> None:
        file = self.root / "proc" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

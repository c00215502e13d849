"""Tables of known composition on the real kernel: shares of the sample, diagnosis, and commands that run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from testbed.flow_tables import NEEDS_TABLES, flow, netns_of, table_of

from conntrackd_guard.core import tuning
from conntrackd_guard.core.traffic.diagnosis import Cause, Evidence
from conntrackd_guard.core.traffic.remedies import diagnose
from conntrackd_guard.core.traffic.sample import Sample, count_entries
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.paths import Paths

pytestmark = NEEDS_TABLES

FLOWS = 20_000
GOOD = 0.03
"""Accepted error of a share."""
ASSURED = "-u SEEN_REPLY,ASSURED"


def client(number: int) -> tuple[str, int]:
    """Return an address and a port unique to the number."""
    return f"10.{number // 50_000}.0.{number % 250 + 1}", 1024 + number % 50_000


def handshake(number: int) -> str:
    """Return an unanswered SYN; a tenth are IPv6, a fifth have one source."""
    address, port = client(number)
    if number % 10 == 9:
        return flow("tcp", f"2001:db8::{number:x}", "2001:db8:1::1", (port, 80), 900, "--state SYN_SENT")
    source = "198.51.100.7" if number % 5 == 1 else address
    return flow("tcp", source, "10.200.0.2", (port, 80), 900, "--state SYN_SENT")


def stream(number: int, seconds: int = 900) -> str:
    """Return a live connection."""
    address, port = client(number)
    if number % 2:
        return flow("udp", address, "10.200.0.3", (port, 4433), seconds, ASSURED)
    return flow("tcp", address, "10.200.0.1", (port, 443), seconds, "--state ESTABLISHED", ASSURED)


def idle(number: int) -> str:
    """Return a connection idle for days."""
    address, port = client(number)
    return flow("tcp", address, "10.200.0.1", (port, 5432), 100_000 + number, "--state ESTABLISHED", ASSURED)


def question(number: int) -> str:
    """Return an answered DNS query that NAT sent to a pod."""
    address, port = client(number)
    return flow("udp", address, "10.96.0.10", (port, 53), 900, "-u SEEN_REPLY", answered_by=("10.244.1.5", 5353))


def mixed(number: int) -> str:
    """Return 40 % live connections, 30 % DNS queries, 30 % handshakes."""
    return (stream if number % 10 < 4 else question if number % 10 < 7 else handshake)(number)


@pytest.fixture(scope="module")
def samples() -> Iterator[dict[str, tuple[Sample, str]]]:
    """Return the sample of each table, and the prefix that runs a command in its namespace."""
    kinds = {
        "flood": lambda n: handshake(n) if n % 5 else stream(n),
        "dns": lambda n: question(n) if n % 5 else stream(n),
        "leak": lambda n: idle(n) if n % 5 else stream(n, 432_000),
        "grow": lambda n: stream(n) if n % 5 else handshake(n),
        "unclear": mixed,
    }
    found = {}
    for name, kind in kinds.items():
        with table_of(kind(number) for number in range(FLOWS)) as namespace:
            with EntryReader(Paths(), enter=False).open(netns_of(namespace)) as listing:
                sample = count_entries(
                    listing.entries(most=tuning.SAMPLE_ENTRIES, seconds=10), table_entries=namespace.count()
                )
                assert listing.skipped == 0
            found[name] = sample
    with table_of([]) as namespace:
        yield {name: (sample, f"nsenter -t {namespace.pid} -n ") for name, sample in found.items()}


def test_shares_match_the_table(samples: dict[str, tuple[Sample, str]]) -> None:
    """A sample of 5,000 of 20,000 entries has the table's shares of protocols, states, NAT and IPv6."""
    mix, _ = samples["unclear"]
    assert (mix.seen, mix.table_entries) == (tuning.SAMPLE_ENTRIES, FLOWS)
    shares = {group.name: mix.share(group.entries) for group in (*mix.states.top, *mix.destinations.top)}
    shares |= {"ipv6": mix.share(mix.ipv6), "translated": mix.share(mix.destination_translated)}
    for name, true in {
        "tcp SYN_SENT": 0.3,
        "udp REPLIED": 0.3,
        "tcp ESTABLISHED": 0.2,
        "udp ASSURED": 0.2,
        "udp 10.96.0.10:53": 0.3,
        "tcp 10.200.0.1:443": 0.2,
        "translated": 0.3,
        "ipv6": 0.1,
    }.items():
        assert shares.get(name, 0.0) == pytest.approx(true, abs=GOOD), name
    flood, _ = samples["flood"]
    assert flood.share(flood.ipv6) == pytest.approx(0.1, abs=GOOD)
    assert flood.share(flood.sources.top[0].entries) == pytest.approx(0.2, abs=GOOD)


@pytest.mark.parametrize("name", ["flood", "dns", "leak", "grow", "unclear"])
def test_each_table_has_its_diagnosis(name: str, samples: dict[str, tuple[Sample, str]]) -> None:
    """The diagnosis has the cause that the table was built with, and no other; its commands run, and so do their undos."""
    sample, inside = samples[name]
    own = frozenset({"127.0.0.1"})
    (finding,) = diagnose(Evidence(sample=sample, inside=inside, own_sources=own))
    assert finding.cause is Cause(name)
    before = configuration(inside)
    steps = [step for step in finding.steps if step.undo]
    for step in steps:
        subprocess.run(["sh", "-c", step.command], check=True, stdout=subprocess.DEVNULL)
    assert (configuration(inside) != before) == bool(steps)
    for step in steps:
        subprocess.run(["sh", "-c", step.undo], check=True, stdout=subprocess.DEVNULL)
    assert configuration(inside) == before


def configuration(inside: str) -> str:
    """Return the timeouts and the firewall's rules of a namespace."""
    command = f"{inside}sysctl -a --pattern 'nf_conntrack_.*timeout' && {inside}nft list ruleset"
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


def test_dns_that_is_not_translated_can_go_untracked(samples: dict[str, tuple[Sample, str]]) -> None:
    """The command for hosts without NAT runs."""
    _, inside = samples["dns"]
    plain = Sample(table_entries=200, seen=200, dns=200)
    (finding,) = diagnose(Evidence(sample=plain, inside=inside))
    (step,) = finding.steps
    subprocess.run(["sh", "-c", step.command], check=True)
    rules = subprocess.run([*inside.split(), "nft", "list", "ruleset"], check=True, capture_output=True, text=True)
    assert rules.stdout.count("notrack") == 4

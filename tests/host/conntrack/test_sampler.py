"""Analysis of tables: choice of the table, sample and loss counters."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.crowded_host import CrowdedHost, listing

from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.traffic.diagnosis import Cause
from conntrackd_guard.core.traffic.entry import Batch
from conntrackd_guard.host.conntrack import sampler
from conntrackd_guard.host.conntrack.entries import Listing
from conntrackd_guard.host.conntrack.sampler import Sampler, choose
from conntrackd_guard.host.conntrack.stat import Counters, read_statistics


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrowdedHost:
    """A host with two namespaces beside the initial one."""
    monkeypatch.setattr(sampler, "LONGEST_SECONDS", 60.0)  # however slow the machine, samples are whole
    host = CrowdedHost(tmp_path)
    host.namespace(200, "nginx", 300, listing(300))
    host.namespace(201, "quic", 9000, listing(9000, answered=True))
    return host


def test_the_fullest_table_is_the_default(host: CrowdedHost) -> None:
    """Others are chosen by number, by name, or as `initial`."""
    found = Sampler(host.paths).find()
    assert [(one.table.label, one.table.count) for one in found] == [
        ("process 201", 9000),
        ("process 200", 300),
        ("initial", 0),
    ]
    assert choose(found, None).table.label == "process 201"
    assert choose(found, "initial").table.initial
    assert choose(found, "process 200") == choose(found, str(found[1].table.namespace)) == found[1]
    with pytest.raises(AnswerIsNo, match="namespace 4711"):
        choose(found, "4711")
    with pytest.raises(AnswerIsNo, match="No table can be read"):
        choose([], None)


def test_an_analysis_has_owner_sample_and_diagnosis(host: CrowdedHost) -> None:
    """The sample of a large table is bounded."""
    taker = Sampler(host.paths, entries=1000, addresses=Addresses.OFF)
    found = taker.find()
    grown = taker.analyze(found[0], found)
    assert (grown.limit, grown.owner.unit, grown.owner.process) == (65536, "quic.service", "quic")
    assert (grown.sample.seen, grown.sample.table_entries, grown.sample.sources.top) == (1000, 9000, ())
    assert [finding.cause for finding in grown.findings] == [Cause.GROW]
    flooded = taker.analyze(found[1], found)
    assert [finding.cause for finding in flooded.findings] == [Cause.FLOOD]
    (why, *_) = flooded.findings[0].steps
    assert why.command.startswith(f"nsenter --net={host.root}/proc/200/ns/net sysctl -w ")


def test_a_leak_is_found_by_the_timeout_of_the_namespace(host: CrowdedHost) -> None:
    """400 connections idle for two days are a leak; the timeout of the initial namespace is readable."""
    flow = "src=10.9.0.{n} dst=10.2.0.1 sport=4000 dport=443"
    back = "src=10.2.0.1 dst=10.9.0.{n} sport=443 dport=4000"
    line = f"ipv4     2 tcp      6 259200 ESTABLISHED {flow} {back} [ASSURED] mark=0 use=1\n"
    host.namespace(1, "systemd", 400, "".join(line.format(n=n % 250) for n in range(400)))
    taker = Sampler(host.paths)
    found = taker.find()
    initial = choose(found, "initial")
    assert [finding.cause for finding in taker.analyze(initial, found).findings] == [Cause.GROW]  # it can't be read
    (host.paths.sysctl / "nf_conntrack_tcp_timeout_established").write_text("432000\n")
    assert [finding.cause for finding in taker.analyze(initial, found).findings] == [Cause.LEAK]


def test_losses_are_counted_from_the_first_reading(host: CrowdedHost) -> None:
    """Losses before the first reading don't count, a later increase does."""
    taker = Sampler(host.paths)
    host.count(201, 9000, insert_failed=5, chain_too_long=9)
    found = taker.find()
    assert [finding.cause for finding in taker.analyze(found[0], found).findings] == [Cause.GROW]
    host.count(201, 9000, insert_failed=99_999, chain_too_long=10)
    causes = [finding.cause for finding in taker.analyze(found[0], found).findings]
    assert causes == [Cause.CHAINS, Cause.RACES, Cause.GROW]


def test_chains_contain_the_entries_of_all_tables(host: CrowdedHost) -> None:
    """All namespaces share one hash table: 16,384 buckets are enough for 196,608 entries."""
    host.namespace(202, "more", 190_000, listing(1, answered=True))
    taker = Sampler(host.paths)
    found = taker.find()
    quic = choose(found, "process 201")
    assert Cause.CHAINS in [finding.cause for finding in taker.analyze(quic, found).findings]
    assert Cause.CHAINS not in [finding.cause for finding in taker.analyze(quic, [quic]).findings]


def test_an_unreadable_table_is_an_error(host: CrowdedHost) -> None:
    """A namespace that has ended, and a kernel without connection tracking."""
    host.namespace(203, "hidden", 99_999, None)
    taker = Sampler(host.paths)
    found = taker.find()
    with pytest.raises(HostError, match="read the entries of process 203"):
        taker.analyze(found[0], found)
    host.paths.limit.unlink()
    with pytest.raises(HostError, match="no connection tracking"):
        taker.analyze(found[1], found)


@pytest.mark.parametrize(
    ("content", "insert_failed", "chain_too_long"),
    [
        ("entries drop early_drop insert_failed chainlength\n5 0 0 2 1\n5 0 0 a 0\n", 11, 1),
        ("entries chaintoolong drop early_drop insert_failed\n5 3 0 0 2\n", 0, 3),
        ("entries searched insert_failed drop early_drop\n5 3 2 0 0\n", 2, None),
    ],
)
def test_loss_counters_by_their_header(
    tmp_path: Path, content: str, insert_failed: int, chain_too_long: int | None
) -> None:
    """Columns differ by kernel; a packet lost to a long chain is in two of them and counts once."""
    found = counters(tmp_path, content)
    assert found is not None
    assert (found.insert_failed, found.chain_too_long) == (insert_failed, chain_too_long)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "entries drop early_drop insert_failed\n",
        "entries drop\n5 2\n",
        "entries insert_failed\n5\n",
        "insert_failed\nzebra\n",
        "entries drop early_drop insert_failed\n5 2 0\n",
        "entries drop early_drop insert_failed\n5 2 0 zebra\n",
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: str) -> None:
    """Content without the columns is no statistics file."""
    assert counters(tmp_path, content) is None


def counters(root: Path, content: str) -> Counters | None:
    """Return the counters of a statistics file."""
    (root / "net/stat").mkdir(parents=True)
    (root / "net/stat/nf_conntrack").write_text(content)
    return read_statistics((f"{root}/",), (root / "net/stat").stat().st_ino)


@pytest.mark.parametrize("whole", [True, False])
def test_a_listing_read_to_its_end(host: CrowdedHost, *, whole: bool) -> None:
    """Its entries are counted; after a short sample only if that is asked for."""
    host.namespace(200, "nginx", 9000, listing(300))
    taker = Sampler(host.paths, entries=1000, whole=whole)
    found = taker.find()
    assert taker.analyze(choose(found, "process 200"), found).sample.listed == 300
    assert taker.analyze(choose(found, "process 201"), found).sample.listed == (9000 if whole else None)
    assert taker.listed(choose(found, "process 201")) == (9000, 9000)


def test_a_listing_that_takes_too_long_is_not_counted(host: CrowdedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read until then says nothing about the rest."""
    monkeypatch.setattr(sampler, "WHOLE_SECONDS", 0.0)
    taker = Sampler(host.paths)
    found = taker.find()
    assert taker.listed(choose(found, "process 201")) == (9000, None)


def test_a_listing_that_breaks_off_is_not_counted() -> None:
    """The namespace ended meanwhile."""

    def broken() -> Iterator[Batch]:
        yield [], 3
        raise OSError(errno.EINVAL, "gone")

    listing_ = Listing("listing in /proc", broken(), lambda: None)
    assert list(listing_.entries(most=10, seconds=60.0)) == []
    assert (listing_.skipped, listing_.count(seconds=60.0)) == (3, None)


def test_expired_entries_that_a_listing_frees_are_no_leak(host: CrowdedHost) -> None:
    """The kernel removes them as they are listed: the count after that is compared."""
    host.namespace(200, "nginx", 9000, listing(300, answered=True))
    taker = Sampler(host.paths, whole=True)
    found = taker.find()
    host.count(200, 300)
    analysis = taker.analyze(choose(found, "process 200"), found)
    assert Cause.UNLISTED not in [finding.cause for finding in analysis.findings]
    assert taker.listed(choose(found, "process 200")) == (300, 300)


def test_impossible_counts_are_no_part_of_the_hash_table(host: CrowdedHost) -> None:
    """Chains are those of the tables whose count can be true."""
    host.count(201, -5 % 2**32)
    taker = Sampler(host.paths)
    found = taker.find()
    assert found[0].impossible.startswith("the count of process 201 can't be true: -5 entries")
    causes = [finding.cause for finding in taker.analyze(found[0], found).findings]
    assert causes[0] is Cause.UNLISTED
    assert Cause.CHAINS not in causes

"""The rules of the diagnosis: examples, and properties that hold for any table."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from testbed.flows import an_entry, dns, established, half_open

from conntrackd_guard.core.traffic.diagnosis import (
    MEANINGS,
    NO_LOSSES,
    NO_SAMPLE,
    Cause,
    Evidence,
    Losses,
    causes,
)
from conntrackd_guard.core.traffic.entry import Entry
from conntrackd_guard.core.traffic.remedies import diagnose
from conntrackd_guard.core.traffic.sample import Sample, count_entries

LIVE = [established(431_999 - n) for n in range(10)]
IDLE = [established(100_000 + n) for n in range(10)]
STREAM = an_entry(17, "ASSURED", to=4433, flags="ar")
SHORT = an_entry(17, "REPLIED", to=123, flags="r")
UNANSWERED_DNS = an_entry(17, "UNREPLIED", to=53)


def seen(*parts: tuple[int, Entry], table: int = 1_000_000) -> Sample:
    """Return the sample of a number of each entry."""
    return count_entries([entry for number, entry in parts for _ in range(number)], table_entries=table)


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        # 5,000 of a million: a margin of 1.38 points, so 51.4 % is certainly more than half, and 51.3 % is not
        (seen((2570, half_open()), (2430, STREAM)), [Cause.FLOOD]),
        (seen((2565, half_open()), (2435, STREAM)), [Cause.UNCLEAR]),
        (seen((2570, UNANSWERED_DNS), (2430, STREAM)), [Cause.FLOOD, Cause.DNS]),
        (seen((2570, dns()), (2430, STREAM)), [Cause.DNS]),
        (seen((2565, dns()), (2435, STREAM)), [Cause.UNCLEAR]),
        (seen((2570, STREAM), (2430, SHORT)), [Cause.GROW]),
        (seen((2565, STREAM), (2435, SHORT)), [Cause.UNCLEAR]),
        (seen((2430, LIVE[0]), (2570, IDLE[0])), [Cause.LEAK]),
        (seen((2570, LIVE[0]), (2430, IDLE[0])), [Cause.GROW]),
        (seen((1, LIVE[0]), (4999, established(290))), [Cause.GROW]),  # data in flight: a timeout of 300 s
        (seen((4000, an_entry(6, "TIME_WAIT", flags="ar")), (1000, SHORT)), [Cause.GROW]),
        (seen((5000, SHORT)), [Cause.UNCLEAR]),
        # the whole table was read: the margin is 0
        (seen((50, half_open()), (50, STREAM), table=100), [Cause.FLOOD, Cause.GROW]),
        (seen((99, half_open()), table=99), [Cause.UNCLEAR]),
        (seen(table=0), [Cause.UNCLEAR]),
        (NO_SAMPLE, [Cause.UNCLEAR]),
    ],
)
def test_causes_from_a_sample(sample: Sample, found: list[Cause]) -> None:
    """A cause is found if its share is more than half even at the lower end of the margin."""
    assert list(causes(Evidence(sample=sample))) == found


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        ({"losses": Losses(seconds=60.0, chain_too_long=1)}, Cause.CHAINS),
        ({"losses": Losses(seconds=60.0), "in_use": 12 * 1024, "buckets": 1024}, Cause.CHAINS),  # an average of 24
        ({"losses": Losses(seconds=60.0), "in_use": 12 * 1024 - 1, "buckets": 1024}, Cause.UNCLEAR),
        ({"in_use": 12 * 1024, "buckets": 1024}, Cause.CHAINS),
        ({"losses": Losses(seconds=60.0, insert_failed=60)}, Cause.RACES),
        ({"losses": Losses(seconds=60.0, insert_failed=59)}, Cause.UNCLEAR),
        ({"losses": Losses(seconds=0.0, insert_failed=59)}, Cause.UNCLEAR),
    ],
)
def test_causes_from_counters(evidence: dict[str, Any], found: Cause) -> None:
    """Lost packets are diagnosed without a sample."""
    assert causes(Evidence(**evidence)) == (found,)


def test_causes_against_raising_come_first() -> None:
    """Several causes may be found at once; a flood of DNS queries is a flood first."""
    losses = Losses(seconds=1.0, insert_failed=5, chain_too_long=5)
    sample = seen((4000, UNANSWERED_DNS), (1000, STREAM))
    assert causes(Evidence(sample=sample, losses=losses)) == (Cause.FLOOD, Cause.CHAINS, Cause.DNS, Cause.RACES)


@pytest.mark.parametrize(
    ("counted", "unlisted", "found"),
    [
        (100_000, 99_880, [Cause.UNLISTED]),
        (100_000, 51_000, [Cause.UNLISTED]),
        (100_000, 45_000, [Cause.UNLISTED, Cause.GROW]),  # the listed ones alone are more than half of the table
        (100_000, 25_000, [Cause.UNLISTED, Cause.GROW]),
        (100_000, 24_999, [Cause.GROW]),
        (263, 259, [Cause.UNLISTED]),
        (150, 99, [Cause.UNCLEAR]),  # in flight
    ],
)
def test_unlisted_entries_are_no_part_of_a_share(counted: int, unlisted: int, found: list[Cause]) -> None:
    """A share of the listed entries is one of the table only as far as these are the table."""
    listed = counted - unlisted
    sample = replace(seen((min(5000, listed), STREAM), table=counted), listed=listed)
    assert list(causes(Evidence(sample=sample, unlisted=unlisted))) == found


def test_a_count_that_can_not_be_true_is_a_cause() -> None:
    """Whatever the sample shows."""
    (found, *_) = diagnose(Evidence(sample=seen((9, SHORT), table=9), impossible="the count can't be true"))
    assert (found.cause, found.figures) == (Cause.UNLISTED, ("the count can't be true",))


def test_findings_have_figures() -> None:
    """Each finding has the figures that led to it."""
    sample = seen((3000, half_open()), (2000, STREAM))
    (flood,) = diagnose(Evidence(sample=sample, in_use=1000, buckets=1000))
    assert flood.meaning == MEANINGS[Cause.FLOOD]
    assert flood.figures == ("60.0 % (± 1.4 points) of the entries are unanswered or half-open",)
    (unclear,) = diagnose(Evidence(sample=seen((5000, SHORT))))
    assert len(unclear.figures) == 4
    (few,) = diagnose(Evidence(sample=seen((9, SHORT), table=9)))
    assert few.figures == ("9 entries are too few (100 needed)",)
    (chains, races) = diagnose(
        Evidence(losses=Losses(seconds=10.0, insert_failed=2000, chain_too_long=3), in_use=6, buckets=3)
    )
    assert chains.figures == (
        "3 packets lost to long chains between two readings; average chain 4.0 (drops begin at 24)",
    )
    assert races.figures == ("insert_failed rose by 2,000 within 10s",)


def commands(evidence: Evidence) -> list[str]:
    """Return the commands of the first finding."""
    return [step.command for step in diagnose(evidence)[0].steps if step.command]


def test_a_flood_from_one_source_is_dropped_early() -> None:
    """Its commands run in the table's namespace and name the source; a flood from everywhere has no such command."""
    one = seen((600, half_open(source=bytes((198, 51, 100, 7)))), (4000, half_open()), (400, STREAM))
    inside = Evidence(sample=one, inside="ip netns exec web ", namespace="web", own_sources=frozenset())
    drop, timeout = commands(inside)
    assert "ip saddr 10.0.0.1 drop" in drop
    assert timeout == "ip netns exec web sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_sent=30"
    six = seen((5000, UNANSWERED_DNS._replace(source=b"\x20\x01" + bytes(13) + b"\x01")))
    assert "ip6 saddr 2001::1 drop" in commands(Evidence(sample=six, own_sources=frozenset()))[0]
    many = seen(*[(50, half_open(source=bytes((198, 51, 100, n)))) for n in range(100)])
    timeout, where = commands(replace(inside, sample=many))
    assert where == "guard top --namespace web --by destination"
    assert timeout.endswith("syn_sent=30")


def test_an_answered_source_is_not_dropped() -> None:
    """A busy gateway is not dropped because of a flood from other sources."""
    everywhere = [(1, half_open(source=bytes((198, 51, n >> 8, n & 255)))) for n in range(3000)]
    assert not [c for c in commands(Evidence(sample=seen(*everywhere, (2000, STREAM)))) if "drop" in c]
    one = half_open(source=bytes((203, 0, 113, 9)))
    sample = seen(*everywhere, (1200, STREAM), (800, one))
    drop, *_ = commands(Evidence(sample=sample, own_sources=frozenset()))
    assert "ip saddr 203.0.113.9 drop" in drop


@pytest.mark.parametrize(
    ("own", "shown"), [(frozenset({"10.0.0.1"}), "an address of this host"), (None, "addresses can't be read")]
)
def test_an_address_of_this_host_is_never_dropped(own: frozenset[str] | None, shown: str) -> None:
    """Nor is anything where the host's addresses are unknown; the next largest stranger is."""
    whole = seen((5000, half_open()))
    steps = diagnose(Evidence(sample=whole, own_sources=own))[0].steps
    assert not [step for step in steps if "drop" in step.command]
    assert shown in steps[-1].why
    other = seen((3000, half_open()), (2000, half_open(source=bytes((198, 51, 100, 7)))))
    found = commands(Evidence(sample=other, own_sources=frozenset({"10.0.0.1"})))
    assert ["198.51.100.7" in command for command in found if "drop" in command] == [True]


def test_each_command_has_its_undo() -> None:
    """A timeout goes back to what it was read as, or to the kernel's default; a shorter one is left alone."""
    name = "nf_conntrack_tcp_timeout_syn_sent"
    sample = seen((5000, half_open()))
    (step, *_), (default, *_) = (
        [step for step in diagnose(Evidence(sample=sample, timeouts=timeouts))[0].steps if name in step.command]
        for timeouts in ({name: 90}, {})
    )
    assert (step.command, step.undo) == (f"sysctl -w net.netfilter.{name}=30", f"sysctl -w net.netfilter.{name}=90")
    assert "90 s now" in step.why
    assert default.undo == f"sysctl -w net.netfilter.{name}=120"
    assert "default 120 s, not read here" in default.why
    assert not [
        step for step in diagnose(Evidence(sample=sample, timeouts={name: 30}))[0].steps if name in step.command
    ]


def test_dns_behind_nat_stays_tracked() -> None:
    """NAT needs tracking: `notrack` is suggested only if no query is translated."""
    plain = commands(Evidence(sample=seen((5000, dns()))))
    behind = commands(Evidence(sample=seen((4999, dns()), (1, dns(reply_source_port=5353)))))
    assert ["notrack" in command for command in plain] == [True]
    assert behind == ["guard top --by destination"]


def test_closed_connections_expire_sooner() -> None:
    """Growth of TIME_WAIT has a remedy that costs no memory."""
    closing = an_entry(6, "TIME_WAIT", flags="ar")
    assert commands(Evidence(sample=seen((4000, closing), (1000, STREAM))))[1:] == [
        "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=30"
    ]
    assert commands(Evidence(sample=seen((2000, closing), (3000, STREAM)))) == ["guard status"]


@pytest.mark.parametrize(("in_use", "buckets", "wanted"), [(40_000, 2048, 10_240), (9, 4096, 8192), (0, None, 512)])
def test_more_buckets(in_use: int, buckets: int | None, wanted: int) -> None:
    """Enough for an average chain of 8, in steps of 512; at least twice the present number."""
    evidence = Evidence(losses=Losses(seconds=1.0, chain_too_long=1), in_use=in_use, buckets=buckets, inside="x ")
    assert commands(evidence) == [f"sysctl -w net.netfilter.nf_conntrack_buckets={wanted}"]


ENTRIES = st.sampled_from([half_open(), UNANSWERED_DNS, dns(), STREAM, SHORT, LIVE[0], IDLE[0], established(290)])
MIXES = st.lists(st.tuples(st.integers(0, 3000), ENTRIES), max_size=6)
TABLES = st.sampled_from([0, 20_000, 1_000_000])
LOSSES = st.just(NO_LOSSES) | st.builds(
    Losses,
    seconds=st.sampled_from([0.0, 0.05, 60.0]),
    insert_failed=st.integers(0, 100),
    chain_too_long=st.integers(0, 2),
)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """Return any sample with any counters."""
    sample = seen(*draw(MIXES), table=draw(TABLES))
    return Evidence(
        sample=draw(st.sampled_from([sample, NO_SAMPLE])),
        losses=draw(LOSSES),
        in_use=draw(st.integers(0, 1 << 20)),
        buckets=draw(st.sampled_from([None, 512, 262_144])),
        inside=draw(st.sampled_from(["", "nsenter -t 42 -n "])),
    )


@given(evidences())
def test_every_table_has_a_diagnosis(evidence: Evidence) -> None:
    """Causes are unique and in order, `unclear` is alone, and findings have figures and commands that a shell can parse."""
    findings = diagnose(evidence)
    found = [finding.cause for finding in findings]
    assert len(found) == len(set(found)) >= 1
    assert found == [cause for cause in Cause if cause in found]
    assert Cause.UNCLEAR not in found or len(found) == 1
    for finding in findings:
        assert finding.figures
        assert finding.steps
        for step in finding.steps:
            assert shlex.split(step.command) or not step.command
            is_change = any(word in step.command for word in ("sysctl -w", "nft "))
            assert bool(step.undo) == (is_change and not ("buckets" in step.command and evidence.buckets is None))


def holds(cause: Cause, sample: Sample) -> bool:
    """Return whether a sample alone has that cause."""
    return cause in causes(Evidence(sample=sample))


@pytest.mark.parametrize(
    ("cause", "its_own", "others"),
    [
        (Cause.FLOOD, [half_open(), UNANSWERED_DNS], [dns(), STREAM, SHORT, *LIVE, *IDLE]),
        (Cause.DNS, [dns(), UNANSWERED_DNS], [half_open(), STREAM, SHORT, *LIVE, *IDLE]),
        (Cause.GROW, [STREAM, *LIVE], [half_open(), UNANSWERED_DNS, dns(), SHORT]),
        (Cause.LEAK, IDLE, [half_open(), UNANSWERED_DNS, dns(), SHORT, STREAM]),
    ],
)
@given(data=st.data())
def test_a_share_is_never_overstated(
    cause: Cause, its_own: list[Entry], others: list[Entry], data: st.DataObject
) -> None:
    """A cause needs more than half of the table, and is always found at 53 % of a sample of 5,000."""
    share = data.draw(st.integers(0, 5000))
    mine = [data.draw(st.sampled_from(its_own)) for _ in range(5)]
    rest = [data.draw(st.sampled_from(others)) for _ in range(5)]
    first = [LIVE[0]] if cause is Cause.LEAK else []  # a connection that is not idle reveals the timeout
    sample = count_entries(
        first + [mine[n % 5] for n in range(share)] + [rest[n % 5] for n in range(5000 - share)],
        table_entries=1_000_000,
    )
    event(f"{holds(cause, sample)}")
    assert holds(cause, sample) <= (share > 2500)
    assert holds(cause, sample) >= (share >= 2650)


@given(st.integers(0, 1 << 22), st.integers(512, 1 << 22), st.integers(0, 3))
def test_chains_by_any_loss_or_by_their_length(in_use: int, buckets: int, lost: int) -> None:
    """Any packet lost to a chain counts, and so do average chains of 24 before one is lost."""
    found = causes(Evidence(losses=Losses(seconds=1.0, chain_too_long=lost), in_use=in_use, buckets=buckets))
    assert (Cause.CHAINS in found) == (lost > 0 or in_use >= 12 * buckets)


@given(st.floats(0.001, 1e6), st.integers(0, 1_000_000))
def test_races_by_their_rate(seconds: float, failed: int) -> None:
    """The threshold is one failed insert per second."""
    found = causes(Evidence(losses=Losses(seconds=seconds, insert_failed=failed)))
    assert (Cause.RACES in found) == (failed / seconds >= 1)

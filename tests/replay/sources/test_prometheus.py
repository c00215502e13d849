"""A made fleet of known truth, read back from a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from testbed import prometheus as testbed
from testbed.prometheus import Past

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostInput, Sample, Skipped, Span
from conntrackd_guard.replay.sources import prometheus
from conntrackd_guard.replay.sources.prometheus_api import Api, Server, ServerError, TooLargeError

START = 1_700_000_000
HOURS = 48
END = START + HOURS * 3600
SPAN = Span(since=START, until=END)
LIMIT = 262_144
HOSTILE = 'a"}\n\\ or up{x="\x1b[2J\u202e'


def at(second: float, entries: int, *, drops: int = 0, limit: int = LIMIT) -> Sample:
    """Return a sample of a host with 4 GiB available."""
    return Sample(START + second, min(entries, limit), limit, 4 << 30, drops)


def past() -> Past:
    """Return the fleet's past: what each host's series are, by its instance."""
    end = HOURS * 3600
    minutes = range(60, end, 60)
    ramp = [at(second, 20_000 + second * 2) for second in minutes]
    leak = [at(second, 100_000 + second) for second in range(15, end, 15)]
    return {
        "steady:9100": [at(second, 50_000 + second % 700) for second in minutes],
        "ramp:9100": ramp,
        "burst:9100": [at(second, 250_000 if 90_000 < second < 91_000 else 30_000) for second in minutes],
        "flood:9100": [
            at(second, 10_000 if second < 5_000 else LIMIT, drops=max(0, second - 5_000)) for second in minutes
        ],
        "leak:9100": leak,
        "restart:9100": [at(second, 40_000, drops=second % 50_000) for second in minutes],
        "gap:9100": [at(second, 60_000) for second in minutes if not 30_000 < second < 60_000],
        "slow:9100": [at(second, 70_000) for second in range(300, end, 300)],
        "changed:9100": [at(second, 5_000) for second in (*range(300, 80_000, 300), *range(80_000, end, 5))],
        "new:9100": [at(second, 80_000) for second in range(end - 1800, end, 60)],
        "half:9100": [replace_field(sample, second) for second, sample in zip(minutes, ramp, strict=True)],
        HOSTILE: [at(second, 90_000) for second in minutes],
    }


def replace_field(sample: Sample, second: int) -> Sample:
    """Return a sample without the limit, and without entries now and then."""
    return sample._replace(limit=None, entries=None if second % 600 == 0 else sample.entries)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prometheus with the fleet's past."""
    folder = tmp_path_factory.mktemp("prometheus") / "data"
    testbed.fill(folder, testbed.lines(past()))
    with testbed.running(folder) as url:
        yield Server(url=url)


def units(server: Server, match: str = 'job="node"', span: Span = SPAN) -> dict[str, prometheus.PrometheusHost]:
    """Return the hosts that the server has, by their names."""
    found = list(prometheus.find(server, match, span))
    assert all(isinstance(one, prometheus.PrometheusHost) for one in found), found
    return {one.name: one for one in found if isinstance(one, prometheus.PrometheusHost)}


def host(unit: prometheus.PrometheusHost, span: Span = SPAN) -> HostInput:
    """Return what reading a host yields."""
    (found,) = unit.read(span)
    assert isinstance(found, HostInput), found
    return found


@pytest.mark.parametrize("instance", past())
def test_the_samples_are_those_that_were_scraped(server: Server, instance: str) -> None:
    """Any interval, gaps, restarts, missing series and hostile labels: the truth comes back, nothing more or less."""
    found = host(units(server)[instance])
    assert (found.name, found.grade, found.facts.total_bytes) == (instance, Grade.SIMULATED, 8 << 30)
    assert list(found.samples) == past()[instance]


@pytest.mark.parametrize(
    ("instance", "notes"),
    [
        ("steady:9100", ("scraped every 1min",)),
        ("leak:9100", ("scraped every 15s",)),
        ("slow:9100", ("scraped every 5min",)),
        ("half:9100", ("scraped every 1min", "no series node_nf_conntrack_entries_limit")),
    ],
)
def test_a_reader_learns_what_is_odd_about_the_samples(server: Server, instance: str, notes: tuple[str, ...]) -> None:
    """A result that rests on holes must show them."""
    assert host(units(server)[instance]).notes == notes


def test_the_span_bounds_the_samples(server: Server) -> None:
    """Both ends are within."""
    span = Span(since=START + 600, until=START + 1200)
    found = host(units(server, span=span)["steady:9100"], span)
    assert [sample.wall_seconds - START for sample in found.samples] == list(range(600, 1260, 60))


def test_a_sample_between_two_pages_comes_once(server: Server) -> None:
    """Before Prometheus 3 a range has both its ends: the first page here ends at a scrape."""
    span = Span(since=START + 0.001, until=END)
    assert list(host(units(server)["steady:9100"], span).samples) == past()["steady:9100"]


def test_matchers_choose_the_hosts(server: Server) -> None:
    """They go into the query as they are."""
    assert list(units(server, 'instance=~"(ramp|leak):.*"')) == ["leak:9100", "ramp:9100"]


def test_no_host_is_a_line_of_its_own(server: Server) -> None:
    """A typing error in the matchers must not look like a fleet without trouble."""
    (found,) = prometheus.find(server, 'job="nodes"', SPAN)
    assert isinstance(found, Skipped)
    assert (
        found.why
        == 'No series node_nf_conntrack_entries{job="nodes"} in that time. Check --match, --since and --until.'
    )


def test_matchers_that_are_none_are_shown_with_the_servers_reason(server: Server) -> None:
    """The server knows best what is wrong with them."""
    with pytest.raises(ServerError, match=r"refuses the query \(HTTP 400\): .*parse error"):
        list(prometheus.find(server, "job=", SPAN))


def test_pages_get_smaller_until_the_server_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may refuse what this host's scrape interval makes of a page; no sample is lost or read twice."""
    unit = units(server)["changed:9100"]
    asked: list[str] = []
    ask = Api.ask

    def refusing(self: Api, path: str, parameters: dict[str, str]) -> object:
        answer = ask(self, path, parameters)
        asked.append(parameters["query"])
        if sum(len(result.get("values", ())) for result in answer["result"]) > 4000:
            raise TooLargeError
        return answer

    monkeypatch.setattr(Api, "ask", refusing)
    assert list(host(unit).samples) == past()["changed:9100"]
    assert len(asked) > 10


def test_too_many_samples_skip_the_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever the scrape interval is."""
    monkeypatch.setattr(prometheus, "MOST_SAMPLES", 1000)
    (found,) = units(server)["leak:9100"].read(SPAN)
    assert found == Skipped(name="leak:9100", why="More than 1000 samples. Narrow --since or --until.")


def test_targets_with_one_instance_are_named_by_the_labels_that_differ(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas of Prometheus, or two jobs, scrape the same host."""
    sets = [{"__name__": prometheus.ENTRIES, "instance": "web1", "job": "node", "replica": name} for name in "ab"]
    monkeypatch.setattr(Api, "ask", lambda *_: [*sets, sets[0], {"job": "x"}])
    assert list(units(server)) == ['{job="x"}', 'web1 {replica="a"}', 'web1 {replica="b"}']


def test_a_unit_is_known_by_server_and_labels(server: Server) -> None:
    """What was done before an interruption is found again."""
    unit = units(server)["ramp:9100"]
    assert unit.key == f'{server.url} {{instance="ramp:9100",job="node"}}'
    assert replace(unit, now=0.0).key == unit.key


@pytest.mark.parametrize(
    ("instance", "raises"),
    [
        ("steady:9100", False),
        ("ramp:9100", True),
        ("burst:9100", True),
        ("flood:9100", True),
        ("leak:9100", True),
        ("restart:9100", False),
        ("gap:9100", False),
        ("slow:9100", False),
        (HOSTILE, False),
    ],
)
def test_the_policy_raises_where_the_made_past_needs_it(server: Server, instance: str, *, raises: bool) -> None:
    """From the server to the row: drops are known, and a table that is full for a day leaves a floor."""
    row = replay(host(units(server)[instance]), Policy())
    assert (row.grade, row.name, row.since) == (Grade.SIMULATED, instance, past()[instance][0].wall_seconds)
    assert bool(row.raises) == raises
    assert bool(row.dropped) == (instance == "flood:9100")
    assert row.saved_at_least == (instance == "flood:9100")


def test_labels_of_unusual_length_skip_their_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are part of each line about it, and of each query."""
    sets = [{"__name__": prometheus.ENTRIES, "instance": name} for name in ("a" * 9000, "web1")]
    monkeypatch.setattr(Api, "ask", lambda *_: sets)
    skipped, found = prometheus.find(server, "", SPAN)
    assert skipped == Skipped(name="a" * 63 + "…", why="Its labels have 9,013 characters, more than 8,192.")
    assert isinstance(found, prometheus.PrometheusHost)
    assert found.name == "web1"

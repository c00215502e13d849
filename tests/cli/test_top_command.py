"""`guard top`: options, text and JSON."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from testbed.crowded_host import CLIENT, CrowdedHost, listing

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.console import redraw
from conntrackd_guard.cli.render.top_text import print_analysis
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.conntrack import sampler
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.sampler import Sampler


@pytest.fixture(autouse=True)
def a_patient_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are complete however slow the machine is."""
    monkeypatch.setattr(sampler, "LONGEST_SECONDS", 60.0)
    monkeypatch.setattr(sampler, "WHOLE_SECONDS", 60.0)


@pytest.fixture
def host(tmp_path: Path) -> CrowdedHost:
    """A flood from one client in one namespace, little in another."""
    host = CrowdedHost(tmp_path)
    host.namespace(200, "nginx", 60_000, listing(60_000))
    host.namespace(201, "quic", 40, listing(40, answered=True))
    return host


def test_the_text_has_owner_diagnosis_steps_and_rankings(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """The fullest table: its use, owner, sample, diagnosis and steps; then the rankings."""
    assert main(["top"], host.paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "60,000 of 65,536 entries (92 %)" in out
    assert "nginx.service, process nginx (200)" in out
    assert "5,000 entries, each share ± 1.3 points" in out
    assert "flood: Most connections are unanswered" in out
    assert f"ip saddr {CLIENT} drop" in out
    assert "100.0 %               60,000  udp UNREPLIED" in out
    assert "100.0 %               60,000  udp 10.200.0.1:4433" in out
    assert f" 50.0 %               30,000  {CLIENT}" in out


@pytest.mark.parametrize(
    ("by", "heading", "row"),
    [
        ("source", "By source, the largest of 2,501", CLIENT),
        ("destination", "By destination", "udp 10.200.0.1:4433"),
        ("port", "By port", "udp 4433"),
        ("state", "By protocol and state", "udp UNREPLIED"),
    ],
)
def test_one_kind_alone(by: str, heading: str, row: str, host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """`--by` shows its ten largest and no other kind."""
    main(["top", "--by", by], host.paths)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("By ")] == [heading]
    assert row in out.partition(heading)[2]


def test_sources_that_do_not_stand_out_are_only_counted(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """If the largest is within the margin, naming it would accuse somebody by chance."""
    lines = [line for line in listing(60_000).splitlines(keepends=True) if CLIENT not in line]
    host.namespace(200, "nginx", len(lines), "".join(lines))
    main(["top", "--by", "source"], host.paths)
    assert "5,000 seen, and none of them stands out" in capsys.readouterr().out


def test_ranks_that_are_chance_are_not_named(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """One source has half of the entries; which of the others come next differs from sample to sample."""
    main(["top", "--by", "source"], host.paths)
    rows = capsys.readouterr().out.partition("By source")[2].splitlines()[1:]
    assert [row.split()[-1] for row in rows] == [CLIENT, "out"]
    assert rows[1].strip() == "none of the others stands out"


def test_a_named_namespace(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """A small table is read completely; an unknown namespace ends with exit code 3."""
    assert main(["top", "--namespace", "process 201"], host.paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "40 entries, all that are listed" in out
    assert "40 entries are too few" in out
    assert main(["top", "--namespace", "web"], host.paths) is Exit.NO
    assert "No table of namespace web can be read" in capsys.readouterr().err


def test_an_empty_table(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """A table without entries is no error, has no cause and nothing to do."""
    assert main(["top", "--namespace", "initial"], host.paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "the initial namespace: 0 of 65,536 entries (0 %)" in out
    assert out.splitlines()[-1].split(maxsplit=1) == ["sample", "the table is empty: nothing to rank"]


def test_a_count_without_a_listed_entry(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """No share was measured, so none has a margin."""
    host.namespace(202, "leak", 263, "")
    assert main(["top", "--namespace", "process 202"], host.paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "sample           no entry is listed\n" in out
    assert "points" not in out


def test_the_document_is_complete(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` has counts and shares, the margin, the owner, figures and steps."""
    assert main(["top", "--json"], host.paths) is Exit.DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["limit"], document["table"]["count"]) == (1, 65536, 60_000)
    assert document["owner"]["text"] == "nginx.service, process nginx (200)"
    sample = document["sample"]
    assert (sample["seen"], sample["margin"]) == (5000, 0.0133)
    assert sample["sources"]["top"][0] == {
        "name": CLIENT,
        "entries": 2500,
        "translated": 0,
        "unanswered": 2500,
        "share": 0.5,
    }
    (finding,) = document["findings"]
    assert (finding["cause"], len(finding["figures"])) == ("flood", 1)
    assert all(step["why"] for step in finding["steps"])


def test_watching_is_a_stream_of_documents(
    host: CrowdedHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a line with `--json`, until Ctrl-C, which ends `--watch` with exit code 0."""
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        host.namespace(200, "nginx", 61_000, listing(100))
        if len(naps) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    assert main(["top", "--watch", "--json"], host.paths) is Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["table"]["count"] for line in lines] == [60_000, 61_000]
    monkeypatch.setattr(EntryReader, "open", lambda *_: nap(0))
    with pytest.raises(KeyboardInterrupt):
        main(["top"], host.paths)


def test_without_permission_it_ends_with_77(
    host: CrowdedHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows entries to root only."""

    def refuse(_: EntryReader, place: NetNamespace) -> None:
        raise HostError("read the entries of", place.label, PermissionError(13, "Permission denied"), "As root.")

    monkeypatch.setattr(EntryReader, "open", refuse)
    assert main(["top"], host.paths) is Exit.NOT_PERMITTED
    assert "guard: `guard top` needs root (reads " in (err := capsys.readouterr().err)
    assert err.endswith(": Permission denied).\n")


def test_a_redrawn_screen_fits_and_keeps_nothing_old() -> None:
    """Each line is erased to its end, and lines that don't fit are cut, so that nothing scrolls."""
    drawn = io.StringIO()
    redraw(Console(file=drawn, force_terminal=True, width=80, height=4), "\none\ntwo\nthree\nfour\n")
    assert drawn.getvalue() == "\x1b[Hone\x1b[K\ntwo\x1b[K\nthree\x1b[K\n\x1b[J"


def on_a_terminal(host: CrowdedHost, *, steps: bool) -> tuple[list[str], list[str]]:
    """Return the lines that a terminal of 80 columns shows of the fullest table, and the commands among them."""
    taker = Sampler(host.paths)
    found = taker.find()
    portrait = taker.analyze(found[0], found)
    shown = io.StringIO()
    print_analysis(Console(file=shown, force_terminal=True, width=80, height=40), portrait, None, steps=steps)
    commands = [step.command for finding in portrait.findings for step in finding.steps if step.command]
    return Text.from_ansi(shown.getvalue()).plain.splitlines(), commands


def test_commands_can_be_pasted_from_a_terminal_of_80_columns(host: CrowdedHost) -> None:
    """Only their lines are wider: wrapped commands could not be pasted."""
    lines, commands = on_a_terminal(host, steps=True)
    assert len(commands) == 2
    assert [line.removeprefix("  run").strip() for line in lines if line.startswith("  run")] == commands
    assert max(cell_len(line) for line in lines if not line.startswith(("  run", "  undo"))) <= 80
    assert any(line.startswith("  diagnosis") for line in lines)


def test_a_redrawn_picture_has_room_for_the_rankings(host: CrowdedHost) -> None:
    """`--watch` leaves the steps out: nobody pastes from a changing picture, and the rest would not fit."""
    lines, commands = on_a_terminal(host, steps=False)
    assert not [line for line in lines if any(command in line for command in commands)]
    assert max(map(cell_len, lines)) <= 80
    assert next(number for number, line in enumerate(lines) if line.startswith("By source")) < 24


@pytest.mark.parametrize(("counted", "listed"), [(60_000, 120), (60_000, 4), (263, 4), (60_000, 20_000)])
def test_entries_that_no_listing_shows(
    counted: int, listed: int, host: CrowdedHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """A leak in a driver: the few live entries don't speak for the table, and raising is not called right."""
    host.namespace(200, "nginx", counted, listing(listed, answered=True))
    assert main(["top", "--namespace", "process 200"], host.paths) is Exit.DONE
    out = " ".join(capsys.readouterr().out.split())
    assert "diagnosis unlisted: Entries are counted that no listing shows" in out
    assert f"{counted - listed:,} of {counted:,} counted entries are not listed" in out
    assert "conntrack -L dying" in out
    assert "Raising the limit helps" not in out
    assert "too few" not in out


def test_a_count_that_can_not_be_true(host: CrowdedHost, capsys: pytest.CaptureFixture[str]) -> None:
    """The default table, its count with the sign; the hash chains are those of the others."""
    host.count(200, -5 % 2**32)
    assert main(["top"], host.paths) is Exit.DONE
    out = " ".join(capsys.readouterr().out.split())
    assert "process 200 (netns" in out
    assert ": -5 of 65,536 entries" in out
    assert "the count of process 200 can't be true: -5 entries" in out
    assert "average chain" not in out

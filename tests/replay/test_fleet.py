"""Many hosts: one answer for any number of workers, after an interruption, and from many machines."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.replay import lines as line_format
from conntrackd_guard.replay.fleet import Fleet, local
from conntrackd_guard.replay.lines import Job
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Skipped, Span

JOB = Job(policy=Policy(), span=Span())


@dataclass(frozen=True, slots=True)
class Made:
    """A unit without a file. `fails` and `kills` are what goes wrong in its worker."""

    key: str
    named: str = ""
    fails: bool = False
    kills: bool = False

    def read(self, _: Span) -> Iterator[HostInput | Skipped]:
        """Yield a host without evidence, and one that is skipped."""
        if self.kills:
            os._exit(9)
        name = self.named or self.key
        yield HostInput(name=name, grade=Grade.EXACT, facts=HostFacts())
        yield Skipped(name=name, why="half of it is damaged")
        if self.fails:
            raise ZeroDivisionError(self.key)


UNITS = [Made(f"host-{number}", fails=number % 7 == 0) for number in range(40)]


def lines(units: list[Made], jobs: int, resume: Path | None = None) -> list[str]:
    """Return the lines of a run."""
    with local(jobs) as executor:
        return list(Fleet(units, JOB, resume).run(executor))


def test_any_number_of_workers_gives_the_same_bytes() -> None:
    """One process, two and three."""
    alone = lines(UNITS, 1)
    assert alone == lines(UNITS, 2) == lines(UNITS, 3)
    assert len(alone) == 1 + len(UNITS)


def test_a_fault_in_one_host_skips_that_host() -> None:
    """Its line names the fault and its place; the hosts beside it have their rows."""
    found = [json.loads(line) for text in lines(UNITS[:2], 1) for line in text.splitlines()]
    why = [one["skipped"]["why"] for one in found if "skipped" in one]
    assert "Unexpected ZeroDivisionError: host-0 in " in why[1]
    assert why[2] == "half of it is damaged"


def test_a_line_that_no_reader_takes_skips_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of results stays readable for the other hosts."""
    monkeypatch.setattr(line_format, "MOST_LINE_BYTES", 2000)
    found = line_format.read("".join(lines([Made("a"), Made("b", named="x" * 3000)], 1)).splitlines(), "results")
    _, _, _, _, one, other, _ = found
    for line in (one, other):
        assert line["skipped"]["name"] == "x" * 63 + "…"
        assert line["skipped"]["why"].startswith("Its result has 3,")


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Half a line at the end is dropped; what is done is not done again, and the answer is the same."""
    file = tmp_path / "done.jsonl"
    lines(UNITS[:10], 1, file)
    whole = file.read_text("ascii")
    file.write_text(whole[:-30], "ascii")
    fleet = Fleet(UNITS, JOB, file)
    assert fleet.done == 9
    assert list(fleet.run(None)) == lines(UNITS, 1)
    assert Fleet(UNITS, JOB, file).done == len(UNITS)


def test_a_file_that_cannot_be_written_ends_in_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves what an earlier run finished."""
    file = tmp_path / "done.jsonl"
    lines(UNITS[:3], 1, file)
    whole = file.read_bytes()

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        patched.setattr(Path, "write_text", full)
        with pytest.raises(GuardError, match=r"Can't write .*done.jsonl: No space left on device"):
            Fleet(UNITS, JOB, file)
    assert file.read_bytes() == whole
    with pytest.raises(GuardError, match=r"Can't (read|write) .*: Not a directory"):
        Fleet(UNITS, JOB, file / "below")


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, policy=Policy(threshold=0.5)),
        replace(JOB, span=Span(since=1.0)),
        replace(JOB, limit=65536),
        replace(JOB, available_bytes=4 << 30),
    ],
)
def test_results_of_another_replay_are_refused(tmp_path: Path, other: Job) -> None:
    """They would be added up with those of this one."""
    file = tmp_path / "done.jsonl"
    lines(UNITS[:2], 1, file)
    with pytest.raises(GuardError, match="from another replay"):
        Fleet(UNITS, other, file)


def test_a_worker_that_is_killed_ends_in_a_clear_line() -> None:
    """As by the OOM killer."""
    with pytest.raises(GuardError, match="worker process was killed"):
        lines([*UNITS[:2], Made("bad", kills=True)], 2)

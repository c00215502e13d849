"""Samples of tables: taken after a raise, stored beside it, and no error if one can't be taken."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testbed.crowded_host import listing
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Addresses, Policy
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.core.traffic.diagnosis import Cause
from conntrackd_guard.daemon.loop import PAST_SECONDS
from conntrackd_guard.history.details import detail
from conntrackd_guard.host.conntrack import sampler
from conntrackd_guard.recording.samples import Sampling
from conntrackd_guard.settings import files


class Sampled(Guarded):
    """A guard that takes samples of 500 entries."""

    sampling = Sampling(entries=500, retention_seconds=86400.0)


@pytest.fixture(autouse=True)
def a_patient_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, samples are whole."""
    monkeypatch.setattr(sampler, "LONGEST_SECONDS", 60.0)


@pytest.fixture
def flooded(host: Host) -> Host:
    """The container's table is full of unanswered flows."""
    host.table(LIMIT, pid="200")
    put(host, listing(2000))
    return host


def put(host: Host, entries: str) -> None:
    """Have the container's table list these entries."""
    (host.root / "proc/200/net/nf_conntrack").write_text(entries)
    (host.root / "proc/200/comm").write_text("nginx\n")


def sample_of(guarded: Guarded, row_id: int) -> TableAnalysis | None:
    """Return the analysis of a decision's table."""
    with guarded.history() as history:
        found = detail(history, row_id)
    assert found is not None
    return found.analysis


def test_a_raise_has_a_sample_of_its_table(flooded: Host) -> None:
    """The table that the message names, its owner, the sample and the diagnosis stand beside the raise, and in the log."""
    flooded.table(LIMIT)  # another one is as full
    guarded = Sampled(flooded)
    guarded.message(flooded.container)
    guarded.turn()
    assert guarded.reasons() == ["raise kernel_message confirmed applied"]
    found = sample_of(guarded, 1)
    assert found is not None
    assert (found.table.namespace, found.owner.process) == (flooded.container, "nginx")
    assert (found.sample.seen, found.sample.table_entries, found.limit) == (500, LIMIT, flooded.limit)
    assert [finding.cause for finding in found.findings] == [Cause.FLOOD]
    (logged,) = guarded.logged("guard.sample")
    assert (logged["cause"], logged["seen"]) == ("flood", 500)
    number = f"process 200 (netns {flooded.container})" if "process 200" in logged["message"] else ""
    assert logged["message"].startswith(f"The table of {number} is filling with unanswered connections: 100.0 %")
    assert logged["message"].endswith(" Raising the limit feeds it.")
    assert logged["message"].count("unanswered") == 2
    guarded.stop()


def test_without_a_message_the_fullest_table_is_sampled(flooded: Host) -> None:
    """Filling up is enough."""
    guarded = Sampled(flooded)
    guarded.turn()
    assert [row.verdict for row in guarded.rows()] == ["raise"]
    found = sample_of(guarded, 1)
    assert found is not None
    assert found.table.namespace == flooded.container
    guarded.stop()


def test_a_hold_that_only_an_operator_can_end_is_sampled_once(flooded: Host) -> None:
    """At `max_limit` an operator needs to know what fills the table; repeats are not sampled again."""
    guarded = Sampled(flooded, Policy(max_limit=LIMIT))
    guarded.turn()
    guarded.turn(6.0)
    guarded.turn(6.0)
    assert [row.reason for row in guarded.rows()] == ["at_ceiling"]
    assert sample_of(guarded, 1) is not None
    assert len(guarded.logged("guard.sample")) == 1
    guarded.stop()


def test_other_holds_are_not_sampled(flooded: Host) -> None:
    """Time ends them."""
    guarded = Sampled(flooded, Policy(trust_user_namespaces=False))
    guarded.message(live=False)
    flooded.table(0, pid="200")
    guarded.turn()
    guarded.turn(PAST_SECONDS)
    assert [row.verdict for row in guarded.rows()] == ["hold"]
    assert sample_of(guarded, 1) is None
    guarded.stop()


def test_without_a_sample_the_raise_stands(flooded: Host) -> None:
    """Entries that can't be read are logged, once for each raise, and are no error."""
    (flooded.root / "proc/200/net/nf_conntrack").unlink()
    guarded = Sampled(flooded)
    guarded.turn()
    assert [row.verdict for row in guarded.rows()] == ["raise"]
    assert sample_of(guarded, 1) is None
    (line,) = guarded.logged("guard.info")
    assert "No sample of" in str(line)
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_nothing_is_sampled_if_disabled(flooded: Host) -> None:
    """`sample_entries: 0`."""
    guarded = Guarded(flooded)
    guarded.turn()
    assert sample_of(guarded, 1) is None
    assert guarded.logged("guard.sample") == guarded.logged("guard.info") == []
    guarded.stop()


def test_addresses_are_stored_as_the_setting_says(flooded: Host) -> None:
    """With `off` no address reaches the history or the log."""

    class Discreet(Guarded):
        sampling = Sampling(entries=500, addresses=Addresses.OFF)

    guarded = Discreet(flooded)
    guarded.turn()
    guarded.written()
    found = sample_of(guarded, 1)
    assert found is not None
    assert (found.sample.sources.top, found.sample.destinations.top) == ((), ())
    guarded.stop()
    stored = guarded.paths.history.read_bytes()
    assert b"udp 4433" in stored
    assert b"10.200.0.1" not in stored
    assert "10.200.0.1" not in guarded.log.getvalue()


@pytest.mark.parametrize(("kept_seconds", "is_left"), [(3600.0, True), (0.0, False)])
def test_samples_are_deleted_after_their_retention_and_decisions_stay(
    flooded: Host, kept_seconds: float, *, is_left: bool
) -> None:
    """Samples have a retention of their own."""
    guarded = Sampled(flooded)
    guarded.turn()
    guarded.written()
    sampling = Sampling(retention_seconds=kept_seconds)
    guarded.recorder.call(lambda worker: worker._sampler.prune(sampling)).result(10.0)
    assert (sample_of(guarded, 1) is not None) is is_left
    assert len(guarded.rows()) == 1
    guarded.stop()


def test_show_has_the_sample(
    flooded: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """People get owner, diagnosis, steps and the largest groups, programs all of it."""
    monkeypatch.setattr(files, "_ROOT", tmp_path.stat().st_uid)
    guarded = Sampled(flooded)
    guarded.turn()
    guarded.written()
    guarded.stop()
    assert main(["show", "1"], guarded.paths) is Exit.DONE
    out = capsys.readouterr().out
    assert out.index("Calculation") < out.index("What filled it") < out.index("\nResult")
    for text in ("process nginx (200)", "flood: Most connections are unanswered", "udp 10.200.0.1:4433", "sysctl -w"):
        assert text in out
    assert main(["show", "1", "--json"], guarded.paths) is Exit.DONE
    sample: dict[str, Any] = json.loads(capsys.readouterr().out)["decision"]["sample"]
    assert (sample["sample"]["seen"], sample["findings"][0]["cause"]) == (500, "flood")


def test_a_quiet_guard_does_not_import_the_sampler() -> None:
    """Its memory is taken when a table fills, not before."""
    code = (
        "import conntrackd_guard.daemon.import_stubs, conntrackd_guard.daemon.loop, conntrackd_guard.recording.worker, sys; "
        "print([name for name in sys.modules if name.endswith(('.sampler', '.remedies'))])"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(["/usr/bin/python3", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

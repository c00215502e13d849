"""The message catalog: `journalctl -x` explains every kind of line, with figures and not with the names of fields."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testbed.records import RAISE, SUM, a_record

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.log_fields import _ERRORS, _WARNINGS, event_of, fields_of
from conntrackd_guard.core.model import Hold, OutcomeKind, Override, OverrideKind, Record
from conntrackd_guard.core.traffic.diagnosis import Cause
from conntrackd_guard.core.verification import Drops, End, Verification
from conntrackd_guard.host.log import MESSAGE_IDS

ROOT = Path(__file__).resolve().parents[2]
CATALOG = ROOT / "share/catalog/conntrackd-guard.catalog"
LONGEST_BYTES = 256
"""`REPLACE_VAR_MAX` of systemd's catalog.c: a longer field (its name and `=` included) is shown by its name."""
RECORDS = [
    *(a_record("1", RAISE, outcome) for outcome in OutcomeKind),
    *(a_record("1", Hold(reason=reason, arithmetic=SUM)) for reason in HoldReason),
    a_record("1", Hold(reason=HoldReason.NO_CONNTRACK), limit=None, kernel_limit=None, tables=()),
    *(a_record("1", Override(kind=kind)) for kind in OverrideKind),
]


def entries() -> dict[str, str]:
    """Return each entry by its id."""
    text = "".join(f"{line}\n" for line in CATALOG.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    parts = re.split(r"(?m)^-- ([0-9a-f]{32})\n", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def used(event: str) -> set[str]:
    """Return the fields that the entry of this event shows."""
    return set(re.findall(r"@(\w+)@", entries()[MESSAGE_IDS[event]]))


def test_systemd_reads_it(tmp_path: Path) -> None:
    """The real compiler takes every entry."""
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (folder / CATALOG.name).write_bytes(CATALOG.read_bytes())
    subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], check=True)
    command = ["journalctl", f"--root={tmp_path}", "--list-catalog"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(MESSAGE_IDS.values())


def test_every_kind_of_line_has_an_entry() -> None:
    """And none that the guard does not log."""
    assert entries().keys() == set(MESSAGE_IDS.values())


def test_every_event_has_an_entry_of_its_own() -> None:
    """A warning is not explained as a change of settings."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "conntrackd_guard").rglob("*.py"))
    events = {event for source in sources for event in re.findall(r'"(guard\.[a-z_]+)"', source)}
    assert events == MESSAGE_IDS.keys()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{event_of(record)}-{fields_of(record)['reason']}")
def test_fields_shown_are_there_and_short(record: Record) -> None:
    """Whatever was decided, no field's name stands where its value should."""
    fields = {f"GUARD_{name.upper()}": str(value) for name, value in fields_of(record).items()}
    assert used(event_of(record)) <= fields.keys()
    assert all(len(f"{name}={fields[name]}".encode()) < LONGEST_BYTES for name in used(event_of(record)))


def test_other_lines_show_only_what_they_always_have() -> None:
    """A notice, an error and the end have no figures; the start has version and mode, what came of a raise its figures."""
    assert used("guard.ready") == {"GUARD_VERSION", "GUARD_MODE"}
    found = encode(Verification(key="", limit=1, seconds=10.0, end=End.WATCHED, drops=Drops.CONTINUING, dropped=1,
        last_drop_seconds=9.0, growth_per_second=None, seconds_to_full=None))  # fmt: skip
    assert used("guard.drops_continue") <= {
        f"GUARD_{name.upper()}" for name, value in found.items() if value is not None
    }
    assert used("guard.sample") == {"GUARD_CAUSE"}
    assert [cause for cause in Cause if cause not in entries()[MESSAGE_IDS["guard.sample"]]] == []
    assert used("guard.info") == used("guard.error") == used("guard.stopped") == set()


def test_every_hold_that_needs_a_person_has_its_next_step() -> None:
    """The loud ones; the quiet ones need no action."""
    text = entries()[MESSAGE_IDS["guard.hold"]]
    told = {word for line in re.findall(r"(?m)^ ([a-z_, ]+):", text) for word in line.split(", ")}
    loud = {reason.code for reason in _ERRORS | _WARNINGS}
    assert told == loud - {HoldReason.INT_MAX.code}  # its sentence says all there is to say


def test_every_outcome_of_a_raise_is_explained() -> None:
    """What triggered it; applied or not, and what that means for the packets."""
    text = entries()[MESSAGE_IDS["guard.raise"]].partition("What came of it")
    triggers, outcomes = (
        {word for line in re.findall(r"(?m)^ ([a-z_, ]+):", part) for word in line.split(", ")} for part in text[::2]
    )
    assert triggers == {"kernel_message", "filling_up", "start"}
    assert outcomes == {str(kind) for kind in OutcomeKind} - {OutcomeKind.NONE}

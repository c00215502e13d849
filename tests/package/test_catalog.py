"""The message catalog: `journalctl -x` explains every event and hold reason, and its fields are filled in."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testbed.records import RAISE, SUM, a_record

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.log_events import MESSAGE_IDS, message_id
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import Hold, OutcomeKind, Override, OverrideKind, Record
from conntrackd_guard.core.traffic.diagnosis import Cause
from conntrackd_guard.core.verification import Drops, End, Verification

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


def entry(kind: str) -> str:
    """Return the entry of an event, or of an event and reason."""
    return entries()[MESSAGE_IDS[kind]]


def used(text: str) -> set[str]:
    """Return the fields that an entry shows."""
    return set(re.findall(r"@(\w+)@", text))


def test_systemd_compiles_the_catalog(tmp_path: Path) -> None:
    """The real compiler accepts every entry."""
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (folder / CATALOG.name).write_bytes(CATALOG.read_bytes())
    subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], check=True)
    command = ["journalctl", f"--root={tmp_path}", "--list-catalog"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(MESSAGE_IDS.values())


def test_every_event_and_hold_reason_has_one_entry() -> None:
    """Each is headed by its name, `guard.hold paused`; none is left over."""
    found = re.findall(r"(?m)^# (guard\..+)\n-- ([0-9a-f]{32})\nSubject: ", CATALOG.read_text(encoding="utf-8"))
    assert len(found) == len(entries())
    assert dict(found) == MESSAGE_IDS


def test_every_event_in_the_code_has_an_entry() -> None:
    """A warning is not explained as a change of settings."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "conntrackd_guard").rglob("*.py"))
    events = {event for source in sources for event in re.findall(r'"(guard\.[a-z_]+)"', source)}
    assert events == {kind.split()[0] for kind in MESSAGE_IDS} - {"guard.hold"}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{event_of(record)}-{fields_of(record)['reason']}")
def test_fields_shown_are_there_and_short(record: Record) -> None:
    """For every decision, each field has a value, short enough for systemd to show."""
    fields = {f"GUARD_{name.upper()}": str(value) for name, value in fields_of(record).items()}
    shown = used(entries()[message_id(event_of(record), fields["GUARD_REASON"])])
    assert shown <= fields.keys()
    assert all(len(f"{name}={fields[name]}".encode()) < LONGEST_BYTES for name in shown)


def test_other_events_show_only_fields_that_they_always_have() -> None:
    """The start has version and mode, a sample its cause, continuing drops their figures, the others nothing."""
    assert used(entry("guard.ready")) == {"GUARD_VERSION", "GUARD_MODE"}
    found = encode(Verification(key="", limit=1, seconds=10.0, end=End.WATCHED, drops=Drops.CONTINUING, dropped=1,
        last_drop_seconds=9.0, growth_per_second=None, seconds_to_full=None))  # fmt: skip
    assert used(entry("guard.drops_continue")) <= {
        f"GUARD_{name.upper()}" for name, value in found.items() if value is not None
    }
    assert used(entry("guard.sample")) == {"GUARD_CAUSE"}
    assert [cause for cause in Cause if cause not in entry("guard.sample")] == []
    assert used(entry("guard.info")) == used(entry("guard.error")) == used(entry("guard.stopped")) == set()
    assert used(entry("guard.incident_over")) == set()


@pytest.mark.parametrize("reason", HoldReason, ids=lambda reason: reason.code)
def test_a_hold_has_its_explanation_and_its_next_step(reason: HoldReason) -> None:
    """The first paragraph is the sentence of the log, the second the next step; only quiet holds need none."""
    _, meaning, action = entry(f"guard.hold {reason.code}").strip().split("\n\n")
    assert " ".join(meaning.split()) == reason.sentence
    loud = level_of(a_record("1", Hold(reason=reason, arithmetic=SUM))) in {"warning", "error"}
    assert not (loud and action.startswith("No action"))


def test_every_outcome_of_a_raise_is_explained() -> None:
    """Applied or not, and its meaning for the packets."""
    outcomes = {word for line in re.findall(r"(?m)^ ([a-z_, ]+):", entry("guard.raise")) for word in line.split(", ")}
    assert outcomes == {str(kind) for kind in OutcomeKind} - {OutcomeKind.NONE}


@pytest.mark.parametrize("reason", [HoldReason.COOLDOWN, HoldReason.STABLE, HoldReason.RESOLVED, HoldReason.SUPERSEDED])
def test_a_hold_that_passes_without_action_is_logged_at_debug(reason: HoldReason) -> None:
    """The journal of an incident has raises, holds that last, and results."""
    assert level_of(a_record("1", Hold(reason=reason))) == "debug"

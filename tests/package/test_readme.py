"""The README against the program: what it shows is what the guard prints, decides and reads.

A block under `<!-- checked: NAME -->` is compared with what `produce(NAME)` makes; a changed program fails here
until the README says the same. The failure shows the text to put in.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import pytest
from testbed.command_line import exit_texts

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import _MODULES, _parser, _parts, main
from conntrackd_guard.core import budget
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.kernel_messages import recognise
from conntrackd_guard.core.model import (
    INT_MAX,
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.core.verification import Drops, End, Verification
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import entries
from conntrackd_guard.settings.keys import KEYS
from conntrackd_guard.settings.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = {
    match[1]: match[2] if match[2] is not None else match[3].rstrip("\n")
    for match in re.finditer(r"<!-- checked: (.+?) -->\n+(?:```\w*\n(.*?)\n```|((?:\|[^\n]*\n)+))", README, re.DOTALL)
}
GIB = 1 << 30
OBSERVED = Observation(
    boottime_seconds=5000.0,
    wall_seconds=1798167720.0,
    boot_id="f2a6c0de",
    limit=262144,
    kernel_limit=262144,
    tables=(
        Table(namespace=4026532316, label="web", count=262144, drop=7, dropped=7, demand_per_second=400.0),
        Table(namespace=4026531840, label="initial", initial=True, count=10000),
    ),
    buckets=262144,
    entry_slab_bytes=256,
    memory_total_bytes=8 * GIB,
    memory_available_bytes=5 * GIB,
)
"""The host of the worked sum: 8 GiB, one full table, one other."""


@pytest.fixture(autouse=True)
def reader() -> Iterator[None]:
    """Print as for a reader in UTC with a terminal of 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TZ": "UTC"}.items():
            patch.setenv(name, value)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_shows_what_the_program_makes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Help, output, sums, settings and exit codes in the README are today's."""
    made, shown = produce(name, tmp_path, capsys), BLOCKS[name]
    if name.endswith("--help"):
        made, shown = as_any_python(made), as_any_python(shown)
    assert made == shown


def as_any_python(text: str) -> str:
    """Return a help without what differs: before Python 3.13 an option of two names says twice what it takes."""
    return re.sub(r"(-\w)(?: [A-Z]+)?, (--[\w-]+ [A-Z]+)\s+", r"\1, \2  ", text)


def test_nothing_is_left_unshown() -> None:
    """Every command's help is in the README, and so are the tables; no marker lost its block."""
    helps = {f"guard {command} --help" for command in _MODULES} | {"guard --help"}
    tables = {"kernel lines", "guard history", "guard show 1", "how far", "settings", "exit codes"}
    assert helps | tables == BLOCKS.keys()
    assert README.count("<!-- checked:") == len(BLOCKS)


def test_every_command_shown_is_understood() -> None:
    """A reader can paste any line of the README that calls the guard, or a script that is there."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines]
    plain = [words[1:] if words[0] == "sudo" else words for words in calls if words]
    parser = _parser(_parts(""))
    guards = [words[1:] for words in plain if words[0] == "guard"]
    for words in guards:
        parser.parse_args(words)
    scripts = dict.fromkeys(words[0] for words in plain if words[0].startswith("scripts/"))
    assert guards
    assert [*scripts] == ["scripts/run", "scripts/test", "scripts/demo", "scripts/package"]
    assert [name for name in scripts if not os.access(ROOT / name, os.X_OK)] == []


def test_every_file_touched_is_named() -> None:
    """A reader who wants to know what the guard leaves on a host finds every path."""
    paths = Paths()
    read = (paths.settings_file, paths.settings_folder / "*.yaml", paths.fleet_pause)
    written = (paths.drop_in, paths.history, paths.lock, paths.pause, paths.status_file)
    folders = (f"{paths.intents}/", f"{paths.orders}/", f"{paths.notices}/")
    assert [path for path in map(str, (*read, *written, *folders)) if f"`{path}`" not in README] == []


def test_the_settings_shown_are_valid() -> None:
    """A reader can paste any setting of the README."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        assert "README.md:1" in read_settings(entries(block.encode(), "README.md")).origins.values()


def test_what_came_of_a_raise_is_explained() -> None:
    """Every field of `verification` that a program reads, and each word it may hold."""
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| (.+) \|$", README.partition("### What came of a raise\n")[2].partition("\n#")[0]
    )
    assert [name for name, _ in rows] == [field.name for field in fields(Verification)]
    told = dict(rows)
    for name, words in (("drops", Drops), ("end", End)):
        assert re.findall(r"`(\w+)`", told[name]) == [word.value for word in words]


def test_links_lead_somewhere() -> None:
    """No link to a file of this repository is broken."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def produce(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the block `name` has to show."""
    match name:
        case "kernel lines":
            lines = BLOCKS[name].splitlines()
            found = [recognise(line) for line in lines]
            return "\n".join(line.text for line in found if line and line.kind is MessageKind.TABLE_FULL)
        case "how far":
            return how_far()
        case "settings":
            return table(("key", "default", "what it does"), [(f"`{k.name}`", f"`{k.default}`", k.does) for k in KEYS])
        case "exit codes":
            return table(("code", "meaning"), [(str(code.value), text) for code, text in exit_texts().items()])
        case "guard show 1":
            told = printed(name, with_history(folder), capsys)
            return told[told.index("The sum") : told.index("\n\nDecided")]
        case _:
            return printed(name, with_history(folder), capsys)


def printed(command: str, paths: Paths, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command prints; a help text ends its process."""
    code: int | str | None
    try:
        code = main(shlex.split(command)[1:], paths)
    except SystemExit as ended:
        code = ended.code
    assert code == Exit.DONE
    return capsys.readouterr().out.rstrip("\n")


def with_history(folder: Path) -> Paths:
    """Return a host whose history holds the worked decision."""
    paths = Paths(folder)
    paths.state_folder.mkdir(parents=True)
    message = "nf_conntrack: nf_conntrack: table full in netns 4026532316, dropping packet"
    trigger = Trigger(
        kind=TriggerKind.KERNEL_MESSAGE,
        message_kind=MessageKind.TABLE_FULL,
        namespace=4026532316,
        message=message,
        message_count=7,
    )
    decision = decide(trigger, OBSERVED, State(), Policy())
    assert isinstance(decision, Raise)
    record = Record(
        key="1",
        mode=Mode.ACT,
        trigger=trigger,
        observation=OBSERVED,
        state=State(),
        decision=decision,
        outcome=Outcome(kind=OutcomeKind.APPLIED, limit_after=decision.target),
    )
    with History(paths.history, mode="writer") as history:
        history.add(record, policy=Policy(), sentence=sentence(record), kernel_release="6.1")
    return paths


def how_far() -> str:
    """Return where raising ends by default: one full table, half of the memory available, the kernel's own buckets."""
    rows = []
    for total, buckets in ((GIB // 2, 4096), (GIB, 8192), (8 * GIB, 262144), (24 * GIB, 262144), (128 * GIB, 262144)):
        host = Observation(
            boottime_seconds=0.0,
            wall_seconds=0.0,
            boot_id="",
            limit=buckets,
            kernel_limit=buckets,
            tables=(Table(namespace=1, label="initial", initial=True, count=buckets),),
            buckets=buckets,
            entry_slab_bytes=256,
            memory_total_bytes=total,
            memory_available_bytes=total // 2,
        )
        charged = budget.charges(host, (), Policy(), unknown=False)
        a = budget.work_out(host, charged, INT_MAX, 0.0, Policy())
        rows.append((format_bytes(total), f"{buckets:,}", f"{a.target:,}", str(a.bound), format_bytes(a.cost_bytes)))
    return table(("memory", "buckets", "highest limit", "held by", "cost if full"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *rows])

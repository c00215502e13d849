"""`guard replay` on journals, stdin and Prometheus: hosts, what is skipped, and clear lines for what is no source."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from testbed.journal_files import entry, write_file
from testbed.prometheus import pretender, send

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.replay.model import Span
from conntrackd_guard.replay.sources import prometheus
from conntrackd_guard.replay.sources.named import Access, units

FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"
MEMORY = "Memory: 3218116K/25165432K available (14342K kernel code)"
START = 1_700_000_000


def kernel(second: int, message: str = FULL) -> bytes:
    """Return a kernel entry."""
    return entry(second * 1_000_000, _HOSTNAME="web1", MESSAGE=message)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Return the JSON lines that the command prints."""
    assert main(["replay", "--json", *arguments], Paths()) is Exit.DONE
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_of_journals_has_a_row_for_each_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file is named; the limit that no journal shows comes from an option."""
    write_file(tmp_path / "remote-web1.journal", kernel(0, MEMORY), kernel(1), kernel(2))
    (tmp_path / "remote-web2.journal").write_bytes(b"broken")
    arguments = ("--limit", "262144", "--memory-available", "4G", "--jobs", "2", str(tmp_path))
    _, first, second, _ = lines(capsys, *arguments)
    row = first["answer"]["host"]
    assert (row["name"], row["grade"], row["messages"], row["raises"]) == ("web1", "asked_only", 2, 0)
    assert row["allowed_limit"] > 262144
    assert second["skipped"]["name"] == f"web2: {tmp_path}/remote-web2.journal"


def test_stdin_is_read_for_any_number_of_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has no stdin of its own."""
    found = []
    for jobs in "13":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(kernel(1) + kernel(2))))
        found.append(lines(capsys, "--jobs", jobs, "-"))
    assert found[0] == found[1]
    assert found[0][1]["answer"]["host"]["messages"] == 2


@pytest.mark.parametrize("microseconds", [99_999_999_999_999_999_999, 253_402_300_800_000_000, -2 * START * 1_000_000])
def test_an_impossible_time_costs_its_message_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, microseconds: int
) -> None:
    """The text, the JSON lines and the table of all hosts are whole."""
    damaged = entry(microseconds, _HOSTNAME="web1", MESSAGE=FULL)
    for option in (["--json"], ["--csv"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(damaged + kernel(1) + kernel(2))))
        assert main(["replay", *option, "-"], Paths()) is Exit.DONE
        out = capsys.readouterr().out
        assert re.search(r'"messages":2,|asked_only,.*,2,|at least 2 \(', out)
        assert re.search("impossible time, left out: 1|asked_only,", out)


def test_a_prometheus_is_asked_with_the_matchers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its hosts are simulated; the token comes from a file."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    labels = {"__name__": prometheus.ENTRIES, "instance": "web1"}
    values = [[START + second, "5"] for second in range(60, 600, 60)]

    def answer(request: Any) -> None:
        series = [
            {"metric": labels | {"__name__": name}, "values": values, "value": [0, "1e9"]} for name in prometheus.SERIES
        ]
        data: Any = {"result": series}
        data = [labels] if "/series?" in request.path else data
        send(request, json.dumps({"status": "success", "data": data}).encode())

    with pretender(answer) as (url, requests):
        arguments = ("--match", 'job="node"', "--token-file", str(token), "--token-over-http", url)
        since = ("--since", f"@{START}", "--until", f"@{START + 600}")
        _, row, _ = lines(capsys, *arguments, *since)
    host = row["answer"]["host"]
    assert (host["name"], host["grade"], host["since"]) == ("web1", "simulated", START + 60)
    assert "match%5B%5D=node_nf_conntrack_entries%7Bjob%3D%22node%22%7D" in requests[0].path
    assert {request.headers["Authorization"] for request in requests} == {"Bearer s3cret"}


def test_hostile_names_reach_terminal_and_page_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sender chooses its host name, and so the file's name; the entries' fields, too."""
    name = "\x1b[2J<script>alert(1)<%script>\u202e"
    claims: dict[str, str | bytes | None] = {"_HOSTNAME": name, "_MACHINE_ID": name, "MESSAGE": FULL}
    write_file(tmp_path / f"remote-{name}.journal", entry(1, **claims), entry(2, **claims | {"_MACHINE_ID": "2" * 32}))
    (tmp_path / f"remote-{name}@1.journal").write_bytes(b"broken")
    page = tmp_path / "page.html"
    for arguments in ((), ("--csv",), ("-o", str(page))):
        assert main(["replay", *arguments, str(tmp_path)], Paths()) is Exit.DONE
        shown = capsys.readouterr()
        assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
    assert "alert(1)" in page.read_text("utf-8")
    assert "<script>alert" not in page.read_text("utf-8")


def test_a_folder_may_hold_histories_and_journals(tmp_path: Path) -> None:
    """Neither hides the other."""
    write_file(tmp_path / "remote-web1.journal", kernel(1))
    (tmp_path / "web2.db").write_bytes(b"SQLite format 3\0")
    found = [unit.key for unit in units([str(tmp_path)], Access(), Span())]
    assert found == [f"{tmp_path}/web2.db", "web1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("file", "/file is neither a guard's history nor a journal file. Name a history.db, journal files,"),
        ("folder", "/folder contains neither a guard's history nor journal files. Name"),
        ("pipe", "/pipe is no regular file. Name a history.db, journal files, a folder with some, `-` for stdin"),
        ("none", "/none: No such file or directory. Name"),
        ("http://127.0.0.1:1", "Can't read http://127.0.0.1:1: Connection refused. Check its address"),
    ],
)
def test_what_is_no_source_is_a_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    """What was found there, and what to name instead."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("text")
    source = name if name.startswith("http") else str(tmp_path / name)
    assert main(["replay", source], Paths()) is Exit.FAILED
    assert expected in capsys.readouterr().err

"""`guard recommend`: this host and described ones, each format, and bad combinations."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from testbed.fake_host import FakeHost
from testbed.printed_sums import false_lines, statements

from conntrackd_guard.cli import arguments as arguments_module
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.console import print_sections
from conntrackd_guard.cli.render.lines import plain
from conntrackd_guard.cli.render.recommend_text import sections
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import INT_MAX
from conntrackd_guard.core.recommendation import describe
from conntrackd_guard.history import series
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.paths import Paths

GATEWAY = ["--memory", "256GiB", "--entries", "6000000", "--cpus", "64"]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Give a host with a limit of 98,304, of 8 GiB."""
    return FakeHost(tmp_path)


def shown(paths: Paths, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what the command prints."""
    assert main(["recommend", *arguments], paths) is Exit.DONE
    return capsys.readouterr().out


def test_this_host_with_the_peak_of_its_history(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    """The peak of one table in the last month, not of all others as a sum, nor an older one."""
    now = int(Clock().wall())
    with History(host.paths.history, mode="writer") as history:
        history.add_points([Point(now - 90 * 86400, 1, "old", 10**6, 900_000)], thin=False)
        history.add_points([Point(now - 86400, 1, "initial", 10**6, 200_000)], thin=False)
        history.add_points([Point(now - 86400, *series.THE_OTHERS, limit=10**6, count=800_000)], thin=False)
    out = shown(host.paths, capsys)
    assert re.search(r"peak +200,000 entries \(history, ", out)
    assert re.search(r"limit +300,000\n", out)
    assert "sudo guard recommend --write" in out


def test_entries_outrank_the_history(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing on the host changes."""
    before = sorted(path for path in host.root.rglob("*") if "history" not in path.name)
    out = shown(host.paths, capsys, "--entries", "100000")
    assert re.search(r"limit +150,000\n", out)
    assert before == sorted(path for path in host.root.rglob("*") if "history" not in path.name)
    assert (host.root / "proc/sys/net/netfilter/nf_conntrack_max").read_text() == "98304\n"


def test_a_described_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit, buckets, memory and bounds; without a host's files."""
    out = shown(Paths(tmp_path), capsys, *GATEWAY)
    assert re.search(r"limit +9,000,000\n", out)
    assert "2,250,240 instead of 262,144" in out
    assert re.search(r"memory if full +4.9 GiB of a budget of 25.6 GiB", out)
    assert re.search(r"kube-proxy +sets 2,097,152 on 64 CPUs", out)
    assert "bounded by the length of hash chains" in out


@pytest.mark.parametrize("arguments", [["--memory", "1GiB"], ["--memory", "8GiB", "--entries", "300000"], GATEWAY])
def test_every_printed_sum_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A reader can redo each by hand."""
    rows = re.findall(r"(?m)^  (.{15})  (.*)$", shown(Paths(tmp_path), capsys, *arguments))
    lines = [(name.strip(), text.removeprefix("for the peak: ")) for name, text in rows]
    assert statements(lines) >= 12
    assert false_lines(lines) == []


def test_sysctl_lines_can_be_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Buckets first, so that no limit stands without them."""
    out = shown(Paths(tmp_path), capsys, *GATEWAY, "--format", "sysctl")
    assert [line for line in out.splitlines() if line[:1] != "#"] == [
        "net.netfilter.nf_conntrack_buckets = 2250240",
        "net.netfilter.nf_conntrack_max = 9000000",
    ]


def test_modprobe_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The module's only option for it."""
    out = shown(Paths(tmp_path), capsys, *GATEWAY, "--format", "modprobe")
    assert out.splitlines()[-1] == "options nf_conntrack hashsize=2250240"


def test_kube_proxy_leaves_the_limit_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The alternative beside it is valid too, and sets at least the limit."""
    out = shown(Paths(tmp_path), capsys, *GATEWAY, "--format", "kube-proxy")
    assert yaml.safe_load(out) == {"conntrack": {"maxPerCore": 0}}
    other = "\n".join(line[2:] for line in out.splitlines() if line.startswith(("# conntrack:", "#   ")))
    assert yaml.safe_load(other) == {"conntrack": {"maxPerCore": 140_625, "min": 9_000_000}}


def test_values_of_the_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are settings of the guard."""
    out = shown(Paths(tmp_path), capsys, *GATEWAY, "--format", "helm")
    assert yaml.safe_load(out) == {"settings": {"min_limit": 9_000_000, "buckets": "match"}}
    out = shown(Paths(tmp_path), capsys, "--memory", "8GiB", "--format", "helm")
    assert yaml.safe_load(out) == {"settings": {"min_limit": 262_144}}


def test_json_has_every_figure(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    """One document."""
    found = json.loads(shown(host.paths, capsys, "--entries", "100000", "--format", "json"))
    assert (found["version"], found["limit"], found["limit_in_force"], found["described"]) == (
        1,
        150_000,
        98_304,
        False,
    )
    assert found["memory_if_full_bytes"] == 576 * 150_000 + 16 * found["buckets"]
    assert found["sysctl"]["net.netfilter.nf_conntrack_max"] == 150_000
    assert {*found["arithmetic"]} == {"needed", "limit", "highest", "highest_with_buckets"}


def test_write_leaves_out_what_the_guard_itself_persists(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file, and how to undo the rest."""
    assert main(["recommend", "--write"], host.paths) is Exit.DONE
    err = capsys.readouterr().err
    assert "Left out:" in err
    assert "99-zz-conntrackd-guard.conf:1 sets net.netfilter.nf_conntrack_max already." in err
    assert f"To undo: rm {host.paths.recommended_sysctl}" in err
    assert "No running value was changed." in err
    assert host.paths.recommended_sysctl.read_text().splitlines()[1:] == [
        "net.netfilter.nf_conntrack_buckets = 65536",
        "net.netfilter.nf_conntrack_udp_timeout = 10",  # a sample shows why
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cpus", "4"], "--buckets and --cpus describe another host: give its --memory, too"),
        (["--memory", "8GiB", "--write"], "--write is for this host, and --memory describes another"),
        (["--write", "--format", "helm"], "--write takes --format sysctl or modprobe, not helm"),
        (["--memory", "8GB"], "GB is ambiguous: write GiB"),
        (["--memory", "1MiB"], "expected at least 64MiB, found '1MiB'"),
        (["--entries", "0"], "expected a whole number from 1 to 2,147,483,647, found '0'"),
        (["--entries", "4000000000"], "expected a whole number from 1 to 2,147,483,647"),
    ],
)
def test_a_bad_combination_is_one_line(
    host: FakeHost, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    """It says what is expected; nothing is written."""
    with pytest.raises(SystemExit) as ended:
        main(["recommend", *arguments], host.paths)
    assert ended.value.code == Exit.USAGE
    assert text in capsys.readouterr().err
    assert not host.paths.recommended_sysctl.exists()


def test_arguments_know_the_highest_limit() -> None:
    """The constant stands twice for the sake of the time that a command takes to start."""
    assert arguments_module.INT_MAX == INT_MAX


def test_a_pipe_has_what_a_wide_terminal_shows() -> None:
    """Text without rich and text by rich are the same lines."""
    found = sections(describe(Policy(), 1 << 30, None, 4, 40_000))
    stream = io.StringIO()
    print_sections(Console(file=stream, force_terminal=True, width=500, color_system=None), found)
    terminal = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert terminal == [line.rstrip() for line in plain(found).splitlines()]
    print_sections(Console(file=(piped := io.StringIO())), found)
    assert piped.getvalue() == plain(found)

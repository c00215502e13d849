"""The plugin for node-problem-detector, with statuses that a guard has published, and with others."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host, ManualClock

from conntrackd_guard.core import cluster, health
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Pause
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.host.paths import Paths

FOLDER = Path(__file__).resolve().parents[2] / "deploy/node-problem-detector"
PLUGIN = FOLDER / "conntrack-constrained.sh"
CAN = (0, "conntrackd-guard can raise nf_conntrack_max")
CUT = (2, "unknown: the status of conntrackd-guard is cut short")
NONE = (2, "unknown: not a status of conntrackd-guard")


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    """Debian's sh is dash."""
    return str(request.param)


def plugin(path: Path, shell: str = "sh") -> tuple[int, str]:
    """Run the plugin; return exit code and message. Its form is what node-problem-detector expects."""
    done = subprocess.run([shell, PLUGIN, path], capture_output=True, check=False, timeout=10)
    text = done.stdout.decode("ascii")
    assert done.stderr == b"" or shell == "bash"  # which warns of NUL bytes
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert len(text[:-1]) <= 80
    return done.returncode, text[:-1]


class Now(ManualClock):
    """A clock of this host, a few seconds late: the turns move it on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.clock_gettime(time.CLOCK_BOOTTIME) - 6.0


@pytest.fixture
def guarded(host: Host) -> Guarded:
    """A guard that may raise no further, and has published its status."""
    guarded = Guarded(host, Policy(max_limit=LIMIT), clock=Now())
    guarded.turn(2.0)
    return guarded


def test_a_guard_that_can_raise(guarded: Guarded, shell: str) -> None:
    """Exit code 0."""
    assert plugin(guarded.paths.status_file, shell) == CAN


def test_a_full_table_at_max_limit(guarded: Guarded, shell: str) -> None:
    """Exit code 1, and what blocks it."""
    guarded.host.table(LIMIT, drop=3)
    guarded.turn()
    guarded.host.table(LIMIT, drop=9)
    guarded.turn(2.5)
    assert plugin(guarded.paths.status_file, shell) == (1, "raising nf_conntrack_max is blocked: at ceiling")


def test_a_pause_whose_words_are_hostile(guarded: Guarded, shell: str) -> None:
    """They are part of the status, and could name the fields that the plugin reads."""
    words = '", "boottime_seconds": 1.0, "blocked_by": null}\n$(touch /tmp/x) \\" `id`'
    guarded.runtime_dir.put_pause(Pause(by=words, reason=words))
    guarded.turn(2.5)
    assert plugin(guarded.paths.status_file, shell) == (1, "raising nf_conntrack_max is blocked: paused")


def test_every_code_fits(guarded: Guarded) -> None:
    """With its words in 80 characters, and in the pattern of the plugin."""
    status = json.loads(guarded.paths.status_file.read_text())
    codes = {reason.code for reason in ACTIONABLE} | {reason.code for reason in HoldReason}
    for code in (*sorted(codes)[:4], max(codes, key=len), "memory_exceeded", "not_writable"):
        guarded.paths.status_file.write_text(json.dumps({**status, "blocked_by": code}))
        words = code.replace("_", " ")
        assert plugin(guarded.paths.status_file) == (1, f"raising nf_conntrack_max is blocked: {words}")


def test_a_status_that_is_stale(guarded: Guarded, shell: str) -> None:
    """As old as `guard status` takes for silence; one of another boot is none."""
    path, status = guarded.paths.status_file, json.loads(guarded.paths.status_file.read_text())
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    path.write_text(json.dumps({**status, "boottime_seconds": now - health.SILENT_SECONDS - 2}))
    code, text = plugin(path, shell)
    assert (code, text.rstrip("0123456789 s")) == (2, "unknown: conntrackd-guard has not answered for")
    path.write_text(json.dumps({**status, "boottime_seconds": now - health.SILENT_SECONDS + 2}))
    assert plugin(path, shell) == CAN
    path.write_text(json.dumps({**status, "boottime_seconds": now + 10_000}))
    assert plugin(path, shell) == (2, "unknown: the status of conntrackd-guard is of another boot")


def test_no_status(tmp_path: Path, shell: str) -> None:
    """The guard does not run, or the folder is not mounted."""
    text = "unknown: no status of conntrackd-guard. Is it running, and /run mounted?"
    assert plugin(tmp_path / "status.json", shell) == (2, text)


def test_what_is_no_file(tmp_path: Path, shell: str) -> None:
    """A FIFO would block for ever."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        assert plugin(path, shell) == (2, "unknown: the status of conntrackd-guard is no regular file")


def test_a_status_that_is_cut(guarded: Guarded) -> None:
    """At any length: never an answer."""
    path, content = guarded.paths.status_file, guarded.paths.status_file.read_bytes()
    for length in (0, 1, 2, 20, len(content) // 2, len(content) - 5, len(content) - 1):
        path.write_bytes(content[:length])
        assert plugin(path)[0] == 2
    path.write_bytes(content[:-1])
    assert plugin(path) == CUT


@pytest.mark.parametrize(
    "content",
    [
        b"{}", b"[]", b"null}", b"\x00" * 5000, b"\xff\xfe}", b"{" * 100_000 + b"}",
        b'{"version": 2, "boottime_seconds": 1.0, "blocked_by": null}',
        b'{"version": 1, "x": 1, "boottime_seconds": -1.0, "blocked_by": null}',
        b'{"version": 1, "x": 1, "boottime_seconds": 99999999999999999999.0, "blocked_by": null}',
        b'{"version": 1, "x": 1, "boottime_seconds": $(id), "blocked_by": null}',
        b'{"version": 1, "x": 1, "boottime_seconds": 1.0, "blocked_by": "$(id)"}',
        b'{"version": 1, "x": 1, "boottime_seconds": 1.0, "blocked_by": "' + b"a" * 60 + b'"}',
        b'{"version": 1, "x": 1, "boottime_seconds": 1.0, "blocked_by": 3}', b"-n", b"%s%s%n}",
    ],
)  # fmt: skip
def test_hostile_statuses(tmp_path: Path, content: bytes, shell: str) -> None:
    """Each is refused, in one clear line, and nothing of it is printed or run."""
    path = tmp_path / "status.json"
    path.write_bytes(content)
    assert plugin(path, shell) in {NONE, CUT}


def test_a_status_of_more_lines(guarded: Guarded, shell: str) -> None:
    """The guard writes one."""
    path = guarded.paths.status_file
    path.write_bytes(b"{\n" + path.read_bytes())
    assert plugin(path, shell) == NONE


def test_a_status_that_is_too_large(tmp_path: Path, shell: str) -> None:
    """No more than the limit is read of it."""
    path = tmp_path / "status.json"
    with path.open("wb") as file:
        file.write(b'{"version": 1, ' + b"x" * (1 << 20))
        file.truncate(1 << 40)
    code, text = plugin(path, shell)
    assert code == 2
    assert text in {"unknown: the status of conntrackd-guard is too large", CUT[1]}


def test_it_starts_no_interpreter(guarded: Guarded) -> None:
    """Its processor time over ten runs is a fraction of what one start of Python takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(10):
        plugin(guarded.paths.status_file)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10 * 0.020


def test_the_monitor_fits_the_plugin() -> None:
    """Its condition is the one that `guard events` sets, and it knows the state without a problem."""
    monitor = json.loads((FOLDER / "conntrack-constrained.json").read_text("utf-8"))
    (condition,), (rule,) = monitor["conditions"], monitor["rules"]
    assert condition["type"] == rule["condition"] == cluster.CONDITION
    assert condition["message"] == CAN[1]
    assert Path(rule["path"]).name == PLUGIN.name
    assert rule["type"] == "permanent"
    assert os.access(PLUGIN, os.X_OK)
    assert f"${{1:-{Paths().status_file}}}" in PLUGIN.read_text("utf-8")
    assert monitor["pluginConfig"]["max_output_length"] == 80

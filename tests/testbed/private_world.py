"""A private world to run the guard in: its own /etc, /run, /var/log and state folder, and a journald of its own.

Everything written there is gone with the process that made it; the kernel, its limit and its ring buffer are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
_INSIDE = "/run/private-world"
_SETUP = """
mount -n -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/lock /mnt/private-world/etc /mnt/private-world/repository /mnt/private-world/log /mnt/private-world/lib
cp -a /etc/. /mnt/private-world/etc/
mount -n --bind "$REPOSITORY" /mnt/private-world/repository
if [ -d /run/netns ]; then mkdir /mnt/netns && mount --rbind /run/netns /mnt/netns; fi
mount -n --move /mnt /run
mount -n --bind /run/private-world/etc /etc
mount -n --bind /run/private-world/log /var/log
mount -n --bind /run/private-world/lib /var/lib
rm -rf /etc/conntrackd-guard /etc/sysctl.d/*conntrackd-guard* /etc/systemd/journald.conf*
mkdir -p /etc/conntrackd-guard /etc/sysctl.d /etc/systemd /var/log/journal /run/systemd/journal
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
touch /run/systemd/journal/flushed
cat >/etc/systemd/journald.conf <<'CONF'
[Journal]
Audit=no
Storage=persistent
RateLimitIntervalSec=0
ForwardToWall=no
CONF
echo ready
exec cat
"""
_WITHOUT_RING_BUFFER = """
mkdir -p /run/masked
mount -n -t tmpfs -o nodev tmpfs /run/masked
mknod /run/masked/kmsg c 1 11
mount -n --bind /run/masked/kmsg /dev/kmsg
exec "$@"
"""
"""Opening /dev/kmsg gives EACCES, as a device cgroup does it."""
_JOURNALD = "/lib/systemd/systemd-journald"
_DEADLINE_SECONDS = 15.0


class Guard:
    """A guard that runs in a private world as a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def events(self) -> list[dict[str, Any]]:
        """Return its log so far (JSON lines only)."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def await_event(self, name: str) -> dict[str, Any]:
        """Return the first log record of that event. Raises AssertionError with the log on exit or timeout."""

        def found() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"the guard ended with {self.process.returncode}:\n{self.log.read_text()}")
            return next((event for event in self.events() if event.get("event") == name), None)

        event: dict[str, Any] = eventually(found, f"the event {name}", self.log)
        return event

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=_DEADLINE_SECONDS)

    def stop(self) -> int:
        """Terminate it and return its exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(timeout=_DEADLINE_SECONDS)


class PrivateWorld:
    """A mount namespace in which the guard can write anywhere. Needs root.

    `folder` (on the machine) takes the logs of what is started in it; without one they are gone with the world.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._guards: list[Guard] = []
        self._journald: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _SETUP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=os.environ | {"REPOSITORY": str(REPOSITORY)},
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.close()
            raise OSError("could not set up a private mount namespace (see the message above)")
        self.root = Path(f"/proc/{self._holder.pid}/root")
        """The world's own file tree, as seen from outside."""
        # Its root and folder as well: without them a chroot is left on the way.
        self.enter = ("nsenter", f"--target={self._holder.pid}", "--mount", "--root", "--wd")
        """Prefix of a command that runs inside."""
        self._folder = folder or self.root / "run/private-world"

    # -- journald

    def start_journald(self) -> None:
        """Start a journald here and wait until it accepts messages. It reads the machine's ring buffer from the start."""
        log = self._folder / "journald.log"
        with log.open("ab") as out:
            self._journald = self._spawn([_JOURNALD], out)
        socket = self.root / "run/systemd/journal/socket"
        journal = self.root / "var/log/journal"
        eventually(lambda: socket.exists() and any(journal.glob("*/system.journal")), "journald", log)

    def stop_journald(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End journald and remove its socket, so that the next start is detectable."""
        assert self._journald is not None, "no journald was started"
        self._journald.send_signal(number)
        self._journald.wait(timeout=_DEADLINE_SECONDS)
        (self.root / "run/systemd/journal/socket").unlink(missing_ok=True)
        self._journald = None

    def signal_journald(self, number: signal.Signals) -> None:
        """Send a signal to this world's journald: SIGUSR2 rotates, SIGSTOP freezes."""
        assert self._journald is not None, "no journald was started"
        self._journald.send_signal(number)

    # -- the guard

    def configure(self, settings: Mapping[str, object]) -> None:
        """Write the guard's settings; JSON is YAML."""
        (self.root / "etc/conntrackd-guard/guard.yaml").write_text(json.dumps(dict(settings)) + "\n", "utf-8")

    def start_guard(
        self,
        *arguments: str,
        program: str = "-m conntrackd_guard",
        ring_buffer: bool = True,
        log_format: str = "json",
    ) -> Guard:
        """Start `guard run`; with JSON, wait until it is ready. `ring_buffer` False: /dev/kmsg can't be opened."""
        log = self._folder / f"guard-{len(self._guards)}.log"
        command = [PYTHON, *program.split(), "run", "--log-format", log_format, *arguments]
        if not ring_buffer:
            command = [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                _WITHOUT_RING_BUFFER,
                "sh",
                *command,
            ]
        with log.open("wb") as out:
            guard = Guard(self._spawn(command, out), log)
        self._guards.append(guard)
        if log_format == "json":
            guard.await_event("guard.ready")
        return guard

    def guard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the guard to its end."""
        return self.run([PYTHON, "-m", "conntrackd_guard", *arguments])

    def decisions(self, *where: str) -> list[dict[str, Any]]:
        """Return the rows of `guard history --json`, oldest first; `where` is `--dry-run` for the other history."""
        answer = self.guard("history", "--json", *where)
        assert answer.returncode == 0, answer.stderr
        rows: list[dict[str, Any]] = json.loads(answer.stdout)["decisions"]
        return sorted(rows, key=lambda row: int(row["id"]))

    # -- anything else

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in this world to its end."""
        return subprocess.run(
            self._enter(command), capture_output=True, text=True, env=_environment(), cwd="/", timeout=60, check=False
        )

    def close(self) -> None:
        """End everything that was started here and discard everything that was written."""
        for guard in self._guards:
            guard.process.kill()  # all of them before the first wait; no effect on one that has ended
        for guard in self._guards:
            guard.process.wait(timeout=_DEADLINE_SECONDS)
        if self._journald is not None:
            self._journald.kill()
            self._journald.wait()
        if self._holder.stdin:
            self._holder.stdin.close()
        self._holder.wait(timeout=10)
        if self._holder.stdout:
            self._holder.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _enter(self, command: list[str]) -> list[str]:
        # A process here must not outlive this one: it could raise the limit after the restore.
        return ["setpriv", "--pdeathsig", "KILL", *self.enter, *command]

    def _spawn(self, command: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._enter(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )


def eventually(
    look: Callable[[], Any], what: str, log: Path | None = None, *, seconds: float = _DEADLINE_SECONDS
) -> Any:
    """Return the first true value of `look`; AssertionError with `log` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        if time.monotonic() > deadline:
            rest = f"; the log:\n{log.read_text('utf-8', 'replace')}" if log else ""
            raise AssertionError(f"{what} did not come within {seconds:g} s{rest}")
        time.sleep(0.02)
    return value


def _environment() -> dict[str, str]:
    """Return our environment with the repository's guard, without the variables of a unit."""
    kept = {name: value for name, value in os.environ.items() if name not in {"NOTIFY_SOCKET", "JOURNAL_STREAM"}}
    return kept | {"PYTHONPATH": f"{_INSIDE}/repository", "PYTHONDONTWRITEBYTECODE": "1"}

"""Run a follower against a journald that is killed, rotated and vacuumed. Started in a private mount namespace.

The trial writes messages with the kernel's wording to /dev/kmsg. They get facility 1, which the guard ignores and this
follower reads instead. Prints as JSON what was sent and what was taken.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conntrackd_guard.host.kernel_log import journal_reader
from conntrackd_guard.host.kernel_log.journal import JournalFollower

JOURNALD = "/lib/systemd/systemd-journald"
SOCKET = Path("/run/systemd/journal/socket")
MOST_SENT = 10_000


class Trial:
    """A journald, a follower, and what was sent and taken."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable steps, no secret
        self.sent: list[int] = []
        self.taken: list[int] = []
        self.follower = JournalFollower()
        self.start_journald()
        self.base = time.time_ns() // 10**9 % 200_000 * MOST_SENT + 1  # other than an earlier trial's

    def start_journald(self) -> None:
        """Start journald and wait for its socket."""
        SOCKET.unlink(missing_ok=True)
        self.journald = subprocess.Popen([JOURNALD], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 5
        while not SOCKET.exists() and time.monotonic() < until:
            time.sleep(0.01)

    def send(self) -> None:
        """Write a few messages, each through an open file of its own: the kernel limits the rate of each."""
        for _ in range(self.random.randrange(1, 20)):
            number = self.base + len(self.sent)
            with open("/dev/kmsg", "wb", buffering=0) as device:
                device.write(b"<12>nf_conntrack: nf_conntrack: table full in netns %d, dropping packet\n" % number)
            self.sent.append(number)

    def take(self) -> None:
        """Take what the follower has; a new journald also reads what earlier trials left in the ring buffer."""
        numbers = [event.message.namespace or 0 for event in self.follower.take()]
        self.taken += [number for number in numbers if self.base <= number < self.base + MOST_SENT]

    def rotate(self) -> None:
        """Have journald begin new files."""
        self.journald.send_signal(signal.SIGUSR2)

    def vacuum(self) -> None:
        """Remove archived files once everything in them was taken."""
        self.wait_for_all()
        subprocess.run(["journalctl", "--rotate", "--vacuum-files=1"], capture_output=True, check=False, timeout=5)

    def restart(self, number: signal.Signals) -> None:
        """End journald, log meanwhile, start it again."""
        self.journald.send_signal(number)
        self.journald.wait(timeout=5)
        self.send()
        self.start_journald()

    def reopen(self) -> None:
        """End the follower as a kill would, and begin another at the cursor of what was taken."""
        self.take()
        cursor = self.follower.newest_cursor
        self.follower.stop()
        self.follower = JournalFollower()
        self.follower.begin(cursor)

    def wait_for_all(self) -> None:
        """Take until everything sent has come, 5 s at most."""
        until = time.monotonic() + 5
        while len(self.taken) < len(self.sent) and time.monotonic() < until:
            time.sleep(0.02)
            self.take()

    def run(self, steps: int) -> None:
        """Do random steps."""
        self.follower.begin(None)
        while self.follower.state != "following":
            time.sleep(0.02)
        actions = [self.send] * 6 + [self.take] * 2 + [self.rotate, self.vacuum, self.reopen]
        actions += [lambda: self.restart(signal.SIGTERM), lambda: self.restart(signal.SIGKILL)]
        for _ in range(steps):
            self.random.choice(actions)()
            time.sleep(self.random.random() * 0.05)
        self.wait_for_all()
        time.sleep(0.5)
        self.take()


def main() -> None:
    """Run the trial and write its result out."""
    journal_reader.MATCHES = ("_TRANSPORT=kernel", "SYSLOG_FACILITY=1")
    trial = Trial(int(sys.argv[1]))
    try:
        trial.run(int(sys.argv[2]))
    finally:
        trial.journald.terminate()
    deleted = [link for link in map(os.readlink, _descriptors()) if "(deleted)" in link and ".journal" in link]
    result = {"sent": trial.sent, "taken": trial.taken, "state": trial.follower.state, "deleted_open": deleted}
    sys.stdout.write(json.dumps(result))
    trial.follower.stop()


def _descriptors() -> list[str]:
    return [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]


if __name__ == "__main__":
    main()

"""Run commands, read units and the journal, and wait, on a booted host."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

GUARD = "conntrackd-guard.service"
AUDIT = "conntrackd-guard-audit.service"
NOTIFY = "conntrackd-guard-notify.service"
PERSIST = "conntrackd-guard-persist.service"
HELPER = "conntrackd-guard-namespaces.service"
SITE = "/etc/conntrackd-guard/guard.d/10-site.yaml"
MOST_LIMIT = 1_000_000
"""Half a table above this takes more than 200 MB of kernel memory."""


def run(*command: str, fails: bool = False, stderr: int = subprocess.STDOUT) -> str:
    """Run a command without input; return stdout and, by default, stderr. It must fail if `fails`, and succeed otherwise."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
    )
    if (done.returncode != 0) is not fails:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def shown(unit: str, name: str) -> str:
    """Return a property of a unit."""
    return run("systemctl", "show", "--property", name, "--value", unit).strip()


def process() -> int:
    """Return the guard's process id. Fails where none runs."""
    if not (found := int(shown(GUARD, "MainPID"))):
        raise AssertionError("no guard runs")
    return found


def another_runs(before: int) -> bool:
    """Return whether the guard runs as another process than `before`."""
    return int(shown(GUARD, "MainPID")) not in {0, before}


def lines(unit: str | None = GUARD, **fields: str) -> list[dict[str, Any]]:
    """Return the journal's entries of a unit (None: of any) that have these fields, oldest first."""
    about = ["--unit", unit] if unit else []
    # A file that journald is just creating is reported on stderr.
    text = run("journalctl", "--quiet", "--output=json", *about, *_matches(fields), stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in text.splitlines()]


def explained(unit: str, **fields: str) -> str:
    """Return these entries with their explanations, as `journalctl -x` prints them."""
    return run("journalctl", "--quiet", "--catalog", "--unit", unit, *_matches(fields))


def newest_entries() -> str:
    """Return the newest entries of the guard's unit, including those of systemd."""
    return run("journalctl", "--quiet", "--unit", GUARD, "--lines=30")


def limit() -> int:
    """Return the current limit: the machine's; a container can only read it."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text(encoding="ascii"))


@contextlib.contextmanager
def steady_limit() -> Iterator[int]:
    """Yield the current limit. Fails if half a table is too much memory, and reports if another program changed the limit."""
    if (found := limit()) > MOST_LIMIT:
        raise AssertionError(f"the limit is {found:,} here: half a table would take more than 200 MB")
    try:
        yield found
    except AssertionError as error:
        if lines(GUARD_TRIGGER="other_writer"):
            what = "another program of this machine changed the limit meanwhile: run nothing beside this that does"
            raise AssertionError(what) from error
        raise


@contextlib.contextmanager
def settings(text: str) -> Iterator[None]:
    """Apply these settings, and restore the previous ones afterwards."""
    before = Path(SITE).read_text(encoding="ascii")
    try:
        Path(SITE).write_text(text, encoding="ascii")
        run("systemctl", "reload", GUARD, AUDIT)
        yield
    finally:
        Path(SITE).write_text(before, encoding="ascii")
        run("systemctl", "reload", GUARD, AUDIT)


@contextlib.contextmanager
def a_namespace(*owner: str) -> Iterator[tuple[int, int]]:
    """Yield a process in a network namespace of its own, and that one's number; `--user` for a user's."""
    command = ["unshare", *owner, "--net", "sh", "-c", "stat -L -c %i /proc/self/ns/net; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.pid, int(running.stdout.readline())
        finally:
            running.kill()


def grow(begin: int, end: int, steps: int = 1, enter: Sequence[str] = ()) -> None:
    """Add the flows from number `begin` to `end` to this host's table, or that of `enter`, in `steps` steps of 0.1 s.

    The guard reads the counters four times a second and needs two readings of growth to see demand.
    """
    with subprocess.Popen(
        [*enter, "conntrack", "-R", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as load:
        assert load.stdin is not None
        size = -(-(end - begin) // steps)
        for first in range(begin, end, size):
            load.stdin.writelines(map(_flow, range(first, min(first + size, end))))
            load.stdin.flush()
            time.sleep(0.1)
    equal(load.returncode, 0)


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true result of `holds`; fail with `what` if there is none within `seconds`."""
    end = time.monotonic() + seconds
    while not (answer := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return answer


def equal(found: object, expected: object) -> None:
    """Fail unless both are equal."""
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def holds(text: str, *parts: str) -> None:
    """Fail unless `text` has all these parts."""
    if missing := [part for part in parts if part not in text]:
        raise AssertionError(f"{missing} not in: {text.strip()}")


def _matches(fields: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in fields.items()]


def _flow(number: int) -> str:
    """Return one line for `conntrack -R`: a flow seen in both directions, which the kernel keeps."""
    source, port = f"10.{number // 60000}.0.1", 1024 + number % 60000
    return (
        f"-A -s {source} -d 10.200.0.1 -r 10.200.0.1 -q {source} -p udp --sport {port} --dport 53 "
        f"--reply-port-src 53 --reply-port-dst {port} -t 120 -u SEEN_REPLY,ASSURED\n"
    )

"""A command of the operator's, run without a shell, for a limited time, with its input and a bounded output."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from conntrackd_guard.core.text import printable

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that the command inherits."""
MOST_OUTPUT_BYTES = 2000
"""Of what the command printed, the end is kept: an error's last lines say most, and this fits one log line."""
_PIPE_BYTES = 64 * 1024
"""What a pipe holds (Linux's default)."""
_REAP_SECONDS = 5.0
"""A killed process ends at once, unless the kernel itself holds it (a dead network file system)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended."""

    failure: str
    """What went wrong, safe to print; empty after exit code 0."""
    output: str
    """The end of what it printed on stdout and stderr, on one line, safe to print."""


def run_command(words: Sequence[str], given: bytes, seconds: float) -> Ending:
    """Run `words` with `given` on stdin; when it ends, and after `seconds` at the latest, its process group is killed."""
    output, inlet = os.pipe()
    try:
        with open(os.memfd_create("stdin"), "w+b") as stdin:  # a file, not a pipe: a command need not read it
            stdin.write(given)
            stdin.seek(0)
            process = subprocess.Popen(
                words, stdin=stdin, stdout=inlet, stderr=inlet, env=_ENVIRONMENT, cwd="/", start_new_session=True
            )
    except OSError as error:
        os.close(output)
        return Ending(failure=printable(f"{words[0]} can't be run: {error.strerror}"), output="")
    finally:
        os.close(inlet)
    ended, tail = False, b""
    try:
        ended, tail = _follow(process.pid, output, seconds)
    finally:
        # While the process is not reaped its number is its own, and so is the group's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):  # something outside the group may still hold the pipe
            os.set_blocking(output, False)
            tail += os.read(output, _PIPE_BYTES)
        os.close(output)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_SECONDS)
    failure = _failure(process.returncode) if ended else f"it did not end within {seconds:g} s and was killed"
    text = tail[-MOST_OUTPUT_BYTES:].decode("utf-8", "replace").strip()
    return Ending(failure=failure, output=printable(text))


def _follow(pid: int, output: int, seconds: float) -> tuple[bool, bytes]:
    """Read the output until the process ends or `seconds` are over; return whether it ended, and the output's end."""
    deadline = time.monotonic() + seconds
    tail = b""
    process = os.pidfd_open(pid)
    watched = {process, output}
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select(watched, (), (), left)[0]
            if process in ready:
                return True, tail
            if output in ready:
                chunk = os.read(output, _PIPE_BYTES)
                tail = (tail + chunk)[-MOST_OUTPUT_BYTES:]
                if not chunk:  # it closed its output and goes on
                    watched.remove(output)
    finally:
        os.close(process)
    return False, tail


def _failure(code: int) -> str:
    if code < 0:
        return f"it was killed by signal {-code}"
    return f"exit code {code}" if code else ""

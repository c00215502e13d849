"""Work through many hosts: any executor of `concurrent.futures` does the units, and the answer keeps their order."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path

from conntrackd_guard.core.errors import GuardError, HostError, describe
from conntrackd_guard.core.text import printable, short
from conntrackd_guard.host import files
from conntrackd_guard.replay import lines
from conntrackd_guard.replay.engine import compare, replay
from conntrackd_guard.replay.lines import Answer, Found, Job
from conntrackd_guard.replay.model import HostResult, Skipped, Unit

_NEXT_STEP = "Free space, or name another file."

Progress = Callable[[int], None]
"""Called with the number of units that are done."""


def work(unit: Unit, job: Job) -> str:
    """Return the lines of one unit. Whatever is wrong with it becomes a host that is skipped, and why."""
    texts = []
    try:
        for found in unit.read(job.span):
            if isinstance(found, Skipped):
                texts.append(_written(unit.key, found))
                continue
            host = job.assuming(found)
            other: HostResult | None = None
            if job.against is None:
                row = replay(host, job.policy, recorded=job.recorded)
            else:
                row, other = compare(host, job.policy, job.against, recorded=job.recorded)
            texts.append(_written(unit.key, Answer(host=row, against=other)))
    except Exception as error:  # noqa: BLE001 - one host of thousands must not end the replay of the others
        texts.append(_written(unit.key, Skipped(name=unit.key, why=describe(error))))
    return "".join(texts) + lines.done(unit.key)


def _written(key: str, found: Found) -> str:
    """Return the line of one host; one that is too long to be read back becomes a host that is skipped."""
    text = lines.written(key, found)
    if len(text) <= lines.MOST_LINE_BYTES:
        return text
    name = found.name if isinstance(found, Skipped) else found.host.name
    why = (
        f"Its result has {len(text):,} bytes, more than {lines.MOST_LINE_BYTES:,}: names or advice in it are too long."
    )
    return lines.written(key, Skipped(name=short(name), why=why))


def local(jobs: int) -> AbstractContextManager[Executor | None]:
    """Return the processes of this host that do the work; None for one: then this process does it."""
    if jobs == 1:
        return nullcontext(None)
    return ProcessPoolExecutor(jobs, mp_context=get_context("fork"))


def processors() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


class Fleet:
    """The units of all sources and what is known about them. `resume`: the file that keeps what is done."""

    def __init__(self, units: Sequence[Unit], job: Job, resume: Path | None = None) -> None:
        self._units = {unit.key: unit for unit in units}
        self._job = job
        self._resume = resume
        self._done: dict[str, str] = {} if resume is None else _resumed(resume, job.head())

    def __len__(self) -> int:
        return len(self._units)

    @property
    def done(self) -> int:
        """How many of the units are done."""
        return len(self._done.keys() & self._units.keys())

    def run(self, executor: Executor | None, progress: Progress = lambda _: None) -> Iterator[str]:
        """Do what is not done, then yield all lines: the head, and the hosts in the order of the units.

        Raises GuardError if a worker was killed.
        """
        left = [unit for key, unit in self._units.items() if key not in self._done]
        if executor is None:
            for unit in left:
                self._take(unit.key, work(unit, self._job), progress)
        else:
            self._shared(executor, left, progress)
        yield self._job.head()
        for key in self._units:
            yield self._done[key]

    def _shared(self, executor: Executor, left: Sequence[Unit], progress: Progress) -> None:
        futures: dict[Future[str], str] = {}
        try:
            for unit in left:
                futures[executor.submit(work, unit, self._job)] = unit.key
            for future in as_completed(futures):
                self._take(futures.pop(future), future.result(), progress)
        except BrokenProcessPool as error:
            step = "Repeat with --resume FILE, and with fewer --jobs if memory is short."
            raise GuardError(f"A worker process was killed (the kernel's log may say why). {step}") from error
        finally:
            for future in futures:
                future.cancel()

    def _take(self, key: str, text: str, progress: Progress) -> None:
        self._done[key] = text
        if self._resume is not None:
            with (
                files.translate_errors("write", self._resume, _NEXT_STEP),
                self._resume.open("a", encoding="ascii") as file,
            ):
                file.write(text)
        progress(self.done)


def _resumed(path: Path, head: str) -> dict[str, str]:
    """Return the lines of the units that an earlier run finished; begin the file if there is none.

    What an interrupted run wrote last, and half, is dropped: that unit is done again.
    """
    try:
        if not path.exists() or not path.stat().st_size:
            path.write_text(head, encoding="ascii")
            return {}
        texts = path.read_text(encoding="ascii", errors="backslashreplace").splitlines(keepends=True)
    except OSError as error:
        raise HostError("read", path, error, "Name a file that you may read and write.") from error
    if texts[0] != head:
        text = f"{printable(str(path))} is from another replay (policy, time, assumed figures or version of the guard)."
        raise GuardError(f"{text} Name another file, or remove it.")
    if not texts[-1].endswith("\n"):
        texts.pop()
    finished: dict[str, str] = {}
    pending: dict[str, str] = {}
    for text, content in zip(texts[1:], lines.read(texts[1:], str(path)), strict=True):
        key = str(content.get("unit"))
        pending[key] = pending.get(key, "") + text
        if content.get("done"):
            finished[key] = pending.pop(key)
    with files.translate_errors("write", path, _NEXT_STEP):
        whole = (head + "".join(finished.values())).encode("ascii")
        files.replace(path.resolve(), whole, mode=path.stat().st_mode & 0o777, durable=False)
    return finished

"""A progress bar for `guard replay`, on a terminal only."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from conntrackd_guard.replay.fleet import Progress as Report

_EVERY_SECONDS = 0.1


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f}/s")


@contextmanager
def progress(total: int, done: int) -> Iterator[Report]:
    """Give a function that shows how many of `total` units are done, with rate and time left; it does nothing in a pipe.

    No thread draws it: worker processes are forked meanwhile.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    drawn = 0.0
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total, completed=done)

        def report(count: int) -> None:
            nonlocal drawn
            bar.update(task, completed=count)
            if time.monotonic() - drawn >= _EVERY_SECONDS:
                drawn = time.monotonic()
                bar.refresh()

        bar.refresh()
        yield report

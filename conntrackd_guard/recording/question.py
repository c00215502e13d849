"""Work for the recorder's thread that has an answer: it may come long after the asker went on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from conntrackd_guard.recording.worker import Worker

T = TypeVar("T")


class Question(Generic[T]):
    """Asked with `Recorder.question`. `insist`: work that the host refuses is tried until it is done."""

    def __init__(self, work: Callable[[Worker], T], *, retry: bool) -> None:
        self._work, self.retry = work, retry
        self._answers: list[T] = []
        self._tried, self._answered = threading.Event(), threading.Event()

    @property
    def answered(self) -> bool:
        """Whether `wait` returns at once."""
        return self._answered.is_set()

    def within(self, seconds: float) -> T | None:
        """Return the answer of the first try; None where that failed or takes longer."""
        self._tried.wait(seconds)
        return self._answers[0] if self._answers else None

    def wait(self) -> T:
        """Return the answer, however long it takes."""
        self._answered.wait()
        return self._answers[0]

    def put_to(self, keeper: Worker) -> None:
        """Work the answer out, on the recorder's thread. Raises what the work raises."""
        try:
            self._answers.append(self._work(keeper))
            self._answered.set()
        finally:
            self._tried.set()

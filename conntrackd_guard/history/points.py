"""Points of the time series: what one table showed in one step of time. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One table (or all `others`, as a sum) over the step that begins at `at`."""

    at: int
    """Wall time in whole seconds."""
    namespace: int
    label: str
    limit: int
    count: int
    """The most entries seen."""
    dropped: int = 0
    """The rise of the drop counter."""
    evicted: int = 0
    """The rise of the early_drop counter."""
    step: int = 1
    """Seconds: 1, 60 or 3600 as stored, more where steps were joined to be shown."""

    @property
    def name(self) -> tuple[int, str]:
        """What tells a table from others: a number is reused, and so is a label."""
        return self.namespace, self.label


OTHERS = "others"
"""The label of the sum of all tables that are not told by themselves; its namespace is 0."""
THE_OTHERS = (0, OTHERS)
"""That sum, as `Point.name` has it."""

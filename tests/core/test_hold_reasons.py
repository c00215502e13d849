"""The texts of the hold reasons: short, distinct, and one idea a sentence."""

from __future__ import annotations

import re

import pytest

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import TriggerKind

MOST_WORDS = 25
LABEL_CHARACTERS = 20
"""The width of the WHY column in `guard history`."""


@pytest.mark.parametrize("reason", HoldReason, ids=lambda reason: reason.code)
def test_a_reason_explains_itself_in_short_sentences(reason: HoldReason) -> None:
    """The member's name is its code in capitals; no sentence is longer than 25 words."""
    assert reason.code == reason.name.lower()
    assert reason.sentence.endswith(".")
    assert all(len(sentence.split()) <= MOST_WORDS for sentence in re.split(r"(?<=\.) ", reason.sentence))


@pytest.mark.parametrize("labels", [[r.label for r in HoldReason], [kind.label for kind in TriggerKind]])
def test_labels_are_short_and_distinct(labels: list[str]) -> None:
    """Each fits into a column and names one reason or trigger."""
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= LABEL_CHARACTERS

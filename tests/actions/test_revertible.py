"""What a revert can undo: the raises that led, without a break, to the limit in force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from testbed.records import BOOT, RAISE, a_record, add

from conntrackd_guard.actions.revertible import revertible_raises
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Outcome, OutcomeKind, Override, OverrideKind, Record, TriggerKind
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

Change = tuple[str, int, int]
"""The change, and the limit before and after it, in thousands."""


def host(root: Path, boot_id: str = BOOT) -> Paths:
    """Return the paths of a host in that boot."""
    paths = Paths(root)
    paths.boot_id.parent.mkdir(parents=True)
    paths.boot_id.write_text(f"{boot_id}\n")
    return paths


def record(number: int, move: Change) -> Record:
    """Return the record of a change."""
    what, before, after = move
    key = str(number)
    if what == "other":
        held = Hold(reason=HoldReason.LIMIT_RAISED if after > before else HoldReason.LIMIT_LOWERED)
        return a_record(key, held, trigger=TriggerKind.OTHER_WRITER, limit=after, kernel_limit=after)
    if what == "revert":
        plain = a_record(
            key,
            Override(kind=OverrideKind.REVERT, target=after),
            trigger=TriggerKind.OVERRIDE,
            limit=before,
            kernel_limit=before,
        )
    else:
        plain = a_record(key, replace(RAISE, target=after), limit=before, kernel_limit=before)
    kind = OutcomeKind.REJECTED if what == "refused" else OutcomeKind.APPLIED
    return replace(plain, outcome=Outcome(kind=kind, limit_after=before if what == "refused" else after))


@pytest.mark.parametrize(
    ("moves", "limit", "standing"),
    [
        ([], 1, []),
        ([("raise", 1, 2), ("raise", 2, 3)], 3, [2, 1]),
        ([("raise", 1, 2), ("refused", 2, 3)], 2, [1]),
        ([("raise", 1, 2)], 9, []),  # set while no guard ran
        ([("raise", 1, 2), ("raise", 9, 12)], 12, [2]),  # and the guard raised from there
        ([("raise", 1, 2), ("raise", 7, 8), ("raise", 2, 9)], 9, [3]),
        ([("raise", 1, 2), ("other", 2, 9), ("raise", 9, 12)], 12, [3]),
        ([("raise", 1, 2), ("other", 2, 9)], 9, []),
        ([("raise", 1, 2), ("other", 2, 1), ("other", 1, 2)], 2, []),  # another program set 2
        ([("raise", 1, 2), ("raise", 2, 3), ("revert", 3, 2)], 2, [1]),
        ([("raise", 1, 2), ("raise", 2, 3), ("revert", 3, 1)], 1, []),
        ([("raise", 1, 2), ("raise", 2, 3), ("revert", 3, 2), ("raise", 2, 4)], 4, [4, 1]),
        (
            [("raise", 1, 2), ("raise", 2, 3), ("revert", 3, 2), ("raise", 2, 4), ("revert", 4, 1), ("raise", 1, 5)],
            5,
            [6],
        ),
        ([("raise", 1, 2), ("other", 2, 9), ("raise", 9, 12), ("revert", 12, 9)], 9, []),
        ([("raise", 1, 2), ("revert", 2, 1), ("raise", 2, 3)], 1, []),  # a raise on its way was recorded after it
    ],
)
def test_revertible_raises(tmp_path: Path, moves: list[Change], limit: int, standing: list[int]) -> None:
    """Newest first, down to another program's limit, and without those that were reverted."""
    paths = host(tmp_path)
    with History(paths.history, mode="writer") as history:
        for number, move in enumerate(moves):
            add(history, record(number, move))
    assert [step.id for step in revertible_raises(paths, limit)] == standing


def test_a_boot_ends_what_other_writers_did(tmp_path: Path) -> None:
    """The persisted limit is in force again, so its raises are revertible, and another program's limit is gone."""
    paths = host(tmp_path, "a-later-boot")
    with History(paths.history, mode="writer") as history:
        for number, move in enumerate([("raise", 1, 2), ("raise", 2, 3), ("other", 3, 9)]):
            add(history, record(number, move))
    assert [step.id for step in revertible_raises(paths, 3)] == [2, 1]
    assert revertible_raises(paths, 9) == []


def test_a_raise_with_an_open_intent_is_listed_once(tmp_path: Path) -> None:
    """An intent stays until the drop-in is written; its row, if there is one, counts instead."""
    paths = host(tmp_path)
    (tmp_path / "run").mkdir()
    runtime_dir = RuntimeDir(paths)
    runtime_dir.prepare()
    with History(paths.history, mode="writer") as history:
        for number, move in enumerate([("raise", 1, 2), ("raise", 2, 3)]):
            add(history, record(number, move))
            runtime_dir.intents.put(str(number), encode(record(number, move)))
    runtime_dir.intents.put("later", encode(record(2, ("raise", 3, 4))))
    runtime_dir.intents.put("damaged", {"key": 1})
    assert [(step.id, step.before) for step in revertible_raises(paths, 4)] == [(None, 3), (2, 2), (1, 1)]
    assert [step.id for step in revertible_raises(paths, 3)] == [2, 1]

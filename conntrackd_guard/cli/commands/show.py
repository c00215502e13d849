"""`guard show`: one decision with its evidence."""

import argparse
from dataclasses import replace

from conntrackd_guard.cli.answer import Answer
from conntrackd_guard.cli.commands.history import open_history
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.history import details
from conntrackd_guard.history.database import History
from conntrackd_guard.history.details import DecisionDetail
from conntrackd_guard.host.conntrack.owners import has_ended
from conntrackd_guard.host.paths import Paths


def show(args: argparse.Namespace, paths: Paths) -> Answer | Exit:
    """Return one decision with its evidence. Raises AnswerIsNo if there is none with that number or key."""
    history = open_history(paths)
    if history is None:
        return Exit.NO
    with history:
        found = details.detail(history, _id(args.id, history))
    if found is None:
        raise AnswerIsNo(f"There is no decision {args.id}. `guard history` lists the recorded ones.")
    found = with_process(found, paths)
    return Answer(value=found, view="detail_text.print_detail", json=lambda: [details.show(found)], paged=True)


def with_process(found: DecisionDetail, paths: Paths) -> DecisionDetail:
    """Return the decision with whether the process that its analysis names has ended."""
    ended = found.analysis is not None and has_ended(found.analysis.owner, paths)
    return replace(found, process_ended=ended)


def _id(text: str, history: History) -> int:
    """Return the number of a decision; 0, which none has, if the text is neither a number nor a known key."""
    is_number = text.isascii() and text.isdigit() and len(text) < len(str(1 << 63))
    return int(text) if is_number else history.find_key(text) or 0

"""One decision with all its evidence, and its JSON document.

The analysis of tables comes with it: 0.6 MB and 12 ms that the daemon and a list of decisions do without.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.history.database import History
from conntrackd_guard.history.documents import decision_document, document
from conntrackd_guard.history.rows import Row, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDetail:
    """One decision with all its evidence: enough to decide it again."""

    row: Row
    record: Record
    policy: Policy
    analysis: TableAnalysis | None = None
    """Of the table it is about, just after it."""
    process_ended: bool = False
    """Whether the process through which its commands enter the namespace has ended since."""

    @property
    def arithmetic(self) -> Arithmetic | None:
        """The memory calculation; holds and overrides may be without one."""
        return getattr(self.record.decision, "arithmetic", None)


def detail(history: History, row_id: int) -> DecisionDetail | None:
    """Return the decision with that id and all its evidence, None where there is none. Raises HostError, or UnreadableRow."""
    row = history.row(row_id)
    if row is None:
        return None
    analysis = None
    with suppress(ValueError):  # damaged, or written by a newer guard
        sample = history.sample(row_id)
        analysis = None if sample is None else decode(TableAnalysis, parse(sample))
    return DecisionDetail(row=row, record=history.record(row), policy=history.policy(row), analysis=analysis)


def show(found: DecisionDetail) -> str:
    """Return one decision with all its evidence as a document."""
    record = found.record
    full = {
        **decision_document(found.row),
        "arithmetic": encode(found.arithmetic),
        "advice": list(getattr(record.decision, "advice", ())),
        "trigger_evidence": encode(record.trigger),
        "observation": encode(record.observation),
        "state": encode(record.state),
        "policy": encode(found.policy),
        "sample": None if found.analysis is None else analysis(found.analysis),
    }
    return document({"decision": full})


def analysis(found: TableAnalysis) -> dict[str, Any]:
    """Return a table's analysis; shares (0 to 1) stand beside counts, each within the sample's `margin`."""
    content: dict[str, Any] = encode(found)
    sample = content["sample"]
    for ranking in sample.values():
        if isinstance(ranking, dict):
            for group in ranking["top"]:
                group["share"] = round(found.sample.share(group["entries"]), 4)
    sample["margin"] = round(found.sample.margin, 4)
    content["owner"]["text"] = found.owner.text
    return content

"""The analysis of a table for people: lines of (name, text), the same in `top`, `show` and `report`."""

from collections.abc import Iterator

from conntrackd_guard.cli.render.lines import COMMAND, UNDO, Line
from conntrackd_guard.core.limits import format_limit, is_unlimited, signed
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.core.traffic.sample import Group, Ranking, Sample

_TITLES = {
    "source": "By source",
    "destination": "By destination",
    "port": "By port",
    "state": "By protocol and state",
}
_GROUPS_SHOWN = 5
"""Of each kind; all that are in the sample are in --json."""


def breakdown(sample: Sample) -> Iterator[tuple[str, list[Line]]]:
    """Yield the rankings and the totals of a sample as (heading, lines)."""
    for kind in ("state", "destination", "source"):
        title, lines = ranking_lines(sample, kind, _GROUPS_SHOWN)
        if lines:
            yield title, lines
    if sample.seen:
        there, back = (_percent(sample, moved) for moved in (sample.destination_translated, sample.source_translated))
        totals = [
            ("protocols", _in_one_line(sample, sample.protocols)),
            ("IPv6", _percent(sample, sample.ipv6)),
            ("NAT", f"{there} to another destination, {back} from another source"),
            ("time left", _in_one_line(sample, sample.lifetimes)),
        ]
        yield "Totals", totals


def head_lines(analysis: TableAnalysis, *, steps: bool = True, ended: bool = False) -> list[Line]:
    """Return whose table it is, its sample, the diagnosis, and with `steps` what to do.

    `ended`: the process by which its commands enter the namespace has ended since.
    """
    table, sample = analysis.table, analysis.sample
    share = "" if is_unlimited(analysis.limit) else f" ({100 * table.count / analysis.limit:.0f} %)"
    limit = format_limit(analysis.limit)
    lines = [("table", f"{table_name(table)}: {signed(table.count):,} of {limit} entries{share}")]
    if analysis.owner.text:
        lines.append(("owner", analysis.owner.text))
    if not sample.seen and not table.count:
        return [(name, printable(text)) for name, text in [*lines, ("sample", "the table is empty: nothing to rank")]]
    margin = f"each share ± {100 * sample.margin:.1f} points" if sample.margin else "all that are listed"
    odd = f"; {sample.skipped:,} could not be parsed" if sample.skipped else ""
    lines.append(("sample", f"{sample.seen:,} entries, {margin}{odd}" if sample.seen else f"no entry is listed{odd}"))
    for number, finding in enumerate(analysis.findings):
        lines.append(("also" if number else "diagnosis", f"{finding.cause}: {finding.meaning}"))
        lines += [("", figure) for figure in finding.figures]
        for step in finding.steps if steps else ():
            lines.append(("to do", step.why))
            lines += [(COMMAND, step.command)] * bool(step.command)
            lines += [(UNDO, step.undo)] * bool(step.undo)
    if ended and any(f"/proc/{analysis.owner.pid}/" in text for _, text in lines):
        gone = f"process {analysis.owner.pid} has ended since, so these commands don't reach this namespace any more"
        lines.append(("note", f"{gone}; `guard top` has current ones"))
    return [(name, printable(text)) for name, text in lines]


def ranking_lines(sample: Sample, kind: str, most: int) -> tuple[str, list[Line]]:
    """Return a heading, and the largest groups of a kind: share, entries of the table, and name.

    Of more than `most` only those that chance can't explain: the next sample would name others.
    """
    ranking: Ranking = getattr(sample, f"{kind}s")
    top = ranking.top[:most]
    if ranking.distinct <= most:
        return _TITLES[kind], [_row(sample, group) for group in top]
    certain = [group for group in top if sample.share(group.entries) >= sample.margin]
    if not certain:
        return _TITLES[kind], [("", f"{ranking.distinct:,} seen, and none of them stands out")]
    others = [("", "none of the others stands out")] * (len(certain) < len(top))
    return f"{_TITLES[kind]}, the largest of {ranking.distinct:,}", [_row(sample, group) for group in certain] + others


def _row(sample: Sample, group: Group) -> Line:
    about = round(sample.share(group.entries) * sample.total)
    moved = f"  (NAT: {100 * group.translated / group.entries:.0f} %)" if group.translated else ""
    return f"{_percent(sample, group.entries):>7}", f"{about:>11,}  {printable(group.name)}{moved}"


def _percent(sample: Sample, entries: int) -> str:
    return f"{100 * sample.share(entries):.1f} %"


def _in_one_line(sample: Sample, ranking: Ranking) -> str:
    return ", ".join(f"{group.name} {_percent(sample, group.entries)}" for group in ranking.top)

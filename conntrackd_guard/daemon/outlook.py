"""What a dry run has to say at once: use and budget, how far raising could go, and what sets the limit at boot."""

from pathlib import Path

from conntrackd_guard.core.arithmetic import BOUND_NAMES, Bound
from conntrackd_guard.core.budget import cost_of, fullest_first, highest_affordable
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import Observation
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.sysctl_precedence import Tool, writes
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.host.conf_dirs import sysctl_files


def outlook(seen: Observation, policy: Policy, root: Path | None) -> list[str]:
    """Return one sentence for each, safe to print. `root`: None where the host's folders can't be seen."""
    cost, table = cost_of(seen, policy), next(iter(fullest_first(seen)), None)
    use = "No table could be read"
    if table is not None:
        of, share = (f" of {seen.limit:,}", f" ({100 * table.count / seen.limit:.0f} %)") if seen.limit else ("", "")
        use = f"The fullest table, of {table_name(table)}, holds {table.count:,}{of} entries{share}"
    most = "unknown size" if cost.budget_bytes is None else format_bytes(cost.budget_bytes)
    budget = f"all tables take {format_bytes(cost.now_bytes)} of a memory budget of {most}"
    return [
        printable(text)
        for text in (f"{use}; {budget}.", _reach(seen, policy), *([] if root is None else [_at_boot(root)]))
    ]


def _reach(seen: Observation, policy: Policy) -> str:
    if seen.memory_unknown:
        return f"Nothing can be raised: memory is unknown, {seen.memory_unknown}."
    highest = highest_affordable(seen, policy)
    if highest is None:
        limit = "" if seen.limit is None else format_limit(seen.limit)
        return f"Nothing can be raised: the limit is {limit}." if limit else "Nothing is tracked yet."
    bound = BOUND_NAMES[highest.bound] + (" (see `buckets: match`)" if highest.bound is Bound.CHAINS else "")
    if highest.target <= (seen.limit or 0):
        return f"Nothing can be raised: {bound} allows {highest.target:,}."
    return f"With one full table, raising could go up to {highest.target:,}, bounded by {bound}."


def _at_boot(root: Path) -> str:
    last = [*writes(sysctl_files(root), Tool.SYSTEMD)][-1:]
    if not last:
        return "At boot no sysctl file sets nf_conntrack_max: the kernel's default applies."
    return f"At boot {last[0].path}:{last[0].line} sets nf_conntrack_max to {last[0].value}."

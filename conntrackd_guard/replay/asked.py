"""Kernel messages alone: when the guard would have been asked, and how far the policy would have let it go.

Nothing shows the table, its growth, or the memory available at that moment: no raise is made up.
"""

from conntrackd_guard.core.budget import highest_affordable
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind, TriggerKind
from conntrackd_guard.core.usage import QUIET_SECONDS
from conntrackd_guard.replay.model import HostFacts, HostInput, HostResult
from conntrackd_guard.replay.simulated_host import SimulatedHost
from conntrackd_guard.replay.tally import Tally


def ask(host: HostInput, policy: Policy) -> HostResult:
    """Return the row of a host whose evidence are kernel messages."""
    tally, facts, last = Tally(host, policy), host.facts, -QUIET_SECONDS
    tally.episodes = 0
    for message in host.messages:
        tally.at(message.wall_seconds)
        tally.messages += message.count
        if message.kind is not MessageKind.TABLE_FULL:
            continue
        tally.causes[TriggerKind.KERNEL_MESSAGE.value] += message.count
        tally.episodes += message.wall_seconds - last >= QUIET_SECONDS
        last = message.wall_seconds
    for sample in host.samples:
        tally.at(sample.wall_seconds)
    if facts.limit is not None:
        tally.limit(facts.limit)
        _allow(tally, facts, policy)
    return tally.result()


def _allow(tally: Tally, facts: HostFacts, policy: Policy) -> None:
    """Note the highest limit that the policy allows with the table full, if limit and memory are known."""
    limit = facts.limit or 0
    simulated = SimulatedHost(facts, policy, lambda *_: None, wall_seconds=0.0, limit=limit)
    simulated.table.count = limit
    seen = simulated.table.observe()
    highest = highest_affordable(seen, policy)
    if highest is not None:
        tally.allowed_limit = highest.target
        tally.cost(seen, max(limit, highest.target))

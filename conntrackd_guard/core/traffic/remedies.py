"""What to do about each cause: commands that can be pasted as they stand. Pure."""

from __future__ import annotations

import math
from typing import assert_never

from conntrackd_guard.core.budget import BUCKETS_ROUNDED_TO, CHAIN_ADVISE
from conntrackd_guard.core.traffic.diagnosis import MEANINGS, Cause, Evidence, Finding, Step, causes, figures
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS, Sample

_ONE_SOURCE = 0.10
"""Share of all entries that one source's unanswered ones must be for a rule of its own: judgement."""
_MOST = 0.5
_RESIZE_STALL_SECONDS = 0.5e-6
"""How long a resize of the hash table stops all traffic, for each entry."""
_HANDSHAKES = (
    ("tcp SYN_SENT", "nf_conntrack_tcp_timeout_syn_sent", 30, "unanswered handshakes (120 s by default)"),
    ("tcp SYN_RECV", "nf_conntrack_tcp_timeout_syn_recv", 30, "half-done handshakes (60 s by default)"),
    ("udp UNREPLIED", "nf_conntrack_udp_timeout", 10, "UDP without an answer (30 s by default)"),
    ("icmp UNREPLIED", "nf_conntrack_icmp_timeout", 10, "ICMP without an answer (30 s by default)"),
)
"""State, timeout, seconds: enough for four tries of a handshake (1, 3, 7, 15 s), and for any answer to a question."""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what the table is full of, the gravest first, each with figures and steps; never empty."""
    return tuple(
        Finding(cause=cause, meaning=MEANINGS[cause], figures=figures(cause, evidence), steps=_steps(cause, evidence))
        for cause in causes(evidence)
    )


def _steps(cause: Cause, evidence: Evidence) -> tuple[Step, ...]:  # noqa: PLR0911 - one return a cause
    sample = evidence.sample or Sample(table_entries=0, seen=0)
    match cause:
        case Cause.FLOOD:
            return _against_flood(evidence, sample)
        case Cause.CHAINS:
            return _more_buckets(evidence)
        case Cause.LEAK:
            why = "keep silent flows for two hours, the least RFC 5382 allows, instead of 5 days (from their next packet on)"
            return (_timeout(evidence, why, "nf_conntrack_tcp_timeout_established", IDLE_SECONDS),)
        case Cause.DNS:
            return _less_dns(evidence, sample)
        case Cause.RACES:
            return (
                Step(why="see where they are lost, by CPU", command=f"{evidence.inside}conntrack -S"),
                Step(why="a DNS cache on each node (in Kubernetes NodeLocal DNSCache) keeps questions off NAT"),
                Step(why="or let resolvers ask one by one: `options single-request-reopen` in resolv.conf"),
            )
        case Cause.GROW:
            return _with_growth(evidence, sample)
        case Cause.UNCLEAR:
            return (_top(evidence, "see what there is most of", "state"), _top(evidence, "and where to", "destination"))
        case _:
            assert_never(cause)


def _against_flood(evidence: Evidence, sample: Sample) -> tuple[Step, ...]:
    states = {group.name for group in sample.states.top}
    shorter = [
        _timeout(evidence, f"forget sooner: {what}", name, seconds)
        for state, name, seconds, what in _HANDSHAKES
        if state in states
    ]
    largest = max(sample.sources.top, key=lambda group: group.unanswered, default=None)
    if largest is None or sample.share(largest.unanswered) - sample.margin < _ONE_SOURCE:
        return (*shorter, _top(evidence, "no single source stands out; see whom it is aimed at", "destination"))
    family = "ip6" if ":" in largest.name else "ip"
    drop = _early(evidence, "guard_drop", f"{family} saddr {largest.name} drop")
    return (Step(why=f"drop {largest.name} before it is tracked, if it is no friend", command=drop), *shorter)


def _less_dns(evidence: Evidence, sample: Sample) -> tuple[Step, ...]:
    if sample.dns_translated:
        return (
            Step(
                why="NAT leads these questions elsewhere, so they must be tracked: a DNS cache on each node "
                "(in Kubernetes NodeLocal DNSCache) keeps them off it"
            ),
            _top(evidence, "see where they go", "destination"),
        )
    untracked = _early(evidence, "guard_untracked", "udp dport 53 notrack", "udp sport 53 notrack")
    why = "don't track DNS, where the firewall lets it pass without `ct state` (goes at reboot)"
    return (Step(why=why, command=untracked),)


def _more_buckets(evidence: Evidence) -> tuple[Step, ...]:
    entries = 2 * evidence.in_use / CHAIN_ADVISE
    wanted = max(1, math.ceil(entries / BUCKETS_ROUNDED_TO)) * BUCKETS_ROUNDED_TO
    if evidence.buckets is not None and wanted <= evidence.buckets:
        wanted = 2 * evidence.buckets  # lost all the same: chains are uneven
    stall_ms = 1000 * _RESIZE_STALL_SECONDS * evidence.in_use
    why = f"a larger hash table, for all namespaces (stops traffic for about {stall_ms:.0f} ms, once)"
    return (Step(why=why, command=f"sysctl -w net.netfilter.nf_conntrack_buckets={wanted}"),)


def _with_growth(evidence: Evidence, sample: Sample) -> tuple[Step, ...]:
    step = Step(why="see what the next raise would cost", command="guard status")
    closing = sum(group.entries for group in sample.states.top if group.name == "tcp TIME_WAIT")
    if sample.share(closing) - sample.margin < _MOST:
        return (step,)
    why = f"{100 * sample.share(closing):.0f} % have ended and wait: forget them sooner (120 s by default)"
    return (step, _timeout(evidence, why, "nf_conntrack_tcp_timeout_time_wait", 30))


def _timeout(evidence: Evidence, why: str, name: str, seconds: int) -> Step:
    return Step(why=why, command=f"{evidence.inside}sysctl -w net.netfilter.{name}={seconds}")


def _top(evidence: Evidence, why: str, by: str) -> Step:
    where = f" --namespace {evidence.namespace}" if evidence.namespace else ""
    return Step(why=why, command=f"guard top{where} --by {by}")


def _early(evidence: Evidence, table: str, *rules: str) -> str:
    """Return the command that puts rules before connection tracking, for packets that arrive and that are sent."""
    chains = "; ".join(
        f"add chain inet {table} {hook} {{ type filter hook {hook} priority raw; }}"
        for hook in ("prerouting", "output")
    )
    added = "; ".join(f"add rule inet {table} {hook} {rule}" for hook in ("prerouting", "output") for rule in rules)
    return f"{evidence.inside}nft 'add table inet {table}; {chains}; {added}'"

"""Steps against each cause, with commands that can be pasted unchanged. Pure."""

from typing import assert_never

from conntrackd_guard.core import chains
from conntrackd_guard.core.traffic.diagnosis import MEANINGS, MOST, Cause, Evidence, Finding, Step, figures
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS

_ONE_SOURCE = 0.10
"""Judgement: from this share of all entries on, a source's unanswered ones are worth a rule of its own."""
DEFAULT_TIMEOUTS = {
    "nf_conntrack_tcp_timeout_syn_sent": 120,
    "nf_conntrack_tcp_timeout_syn_recv": 60,
    "nf_conntrack_udp_timeout": 30,
    "nf_conntrack_icmp_timeout": 30,
    "nf_conntrack_tcp_timeout_established": 432_000,
    "nf_conntrack_tcp_timeout_time_wait": 120,
}
"""In seconds: the kernel's own (nf_conntrack-sysctl.rst)."""
_HANDSHAKES = (
    ("tcp SYN_SENT", "nf_conntrack_tcp_timeout_syn_sent", 30, "unanswered handshakes"),
    ("tcp SYN_RECV", "nf_conntrack_tcp_timeout_syn_recv", 30, "half-open handshakes"),
    ("udp UNREPLIED", "nf_conntrack_udp_timeout", 10, "unanswered UDP"),
    ("icmp UNREPLIED", "nf_conntrack_icmp_timeout", 10, "unanswered ICMP"),
)
"""State, timeout, seconds: enough for four SYNs (after 1, 3, 7 and 15 s), and for the answer to a query."""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Return the causes with figures and steps, most serious first; never empty."""
    return tuple(
        Finding(cause=cause, meaning=MEANINGS[cause], figures=found, steps=_steps(cause, evidence))
        for cause, found in figures(evidence).items()
    )


def _steps(cause: Cause, evidence: Evidence) -> tuple[Step, ...]:  # noqa: PLR0911 - one return per cause
    match cause:
        case Cause.UNLISTED:
            return (
                Step(
                    why="show entries about to be removed, and new ones in flight",
                    command=f"{evidence.inside}conntrack -L dying",
                ),
                Step(why="or held by queued packets (NFQUEUE)", command=f"{evidence.inside}conntrack -L unconfirmed"),
                Step(
                    why="else a module leaks them, and a reboot frees them: suspect those that aren't the kernel's own",
                    command="grep -s O /sys/module/*/taint",
                ),
            )
        case Cause.FLOOD:
            return _against_flood(evidence)
        case Cause.CHAINS:
            return _more_buckets(evidence)
        case Cause.LEAK:
            why = "expire idle connections after 2 h 4 min, the minimum of RFC 5382, not 5 days (from their next packet on)"
            return _timeout(evidence, why, "nf_conntrack_tcp_timeout_established", IDLE_SECONDS)
        case Cause.DNS:
            return _less_dns(evidence)
        case Cause.RACES:
            return (
                Step(why="show the losses by CPU", command=f"{evidence.inside}conntrack -S"),
                Step(why="run a DNS cache on each node (Kubernetes: NodeLocal DNSCache), so that queries avoid NAT"),
                Step(why="or send queries one at a time: `options single-request-reopen` in resolv.conf"),
            )
        case Cause.GROW:
            return _with_growth(evidence)
        case Cause.UNCLEAR:
            return _top(evidence, "show the states", "state"), _top(evidence, "show the destinations", "destination")
        case _:
            assert_never(cause)


def _against_flood(evidence: Evidence) -> tuple[Step, ...]:
    sample = evidence.sample
    states = {group.name for group in sample.states.top}
    shorter = [
        step
        for state, name, seconds, what in _HANDSHAKES
        if state in states
        for step in _timeout(evidence, f"expire sooner: {what}", name, seconds)
    ]
    large = [group for group in sample.sources.top if sample.share(group.unanswered) - sample.margin >= _ONE_SOURCE]
    own = evidence.own_sources
    strange = [group for group in large if own is not None and group.name not in own]
    if not strange:
        what = "no source stands out"
        if large:
            whose = "this host's own addresses can't be read" if own is None else "an address of this host"
            what = f"many come from {large[0].name} ({whose}: never drop it)"
        return (*shorter, _top(evidence, f"{what}; show the destinations", "destination"))
    largest = max(strange, key=lambda group: group.unanswered)
    family = "ip6" if ":" in largest.name else "ip"
    why = f"drop {largest.name} before tracking, only if you know that it isn't legitimate"
    return (_early(evidence, why, "guard_drop", f"{family} saddr {largest.name} drop"), *shorter)


def _less_dns(evidence: Evidence) -> tuple[Step, ...]:
    if evidence.sample.dns_translated:
        why = (
            "NAT translates these queries, so they must be tracked; run a DNS cache on each node "
            "(Kubernetes: NodeLocal DNSCache), so that they avoid NAT"
        )
        return (Step(why=why), _top(evidence, "show the destinations", "destination"))
    why = "don't track DNS, if the firewall accepts it without `ct state` (until reboot)"
    return (_early(evidence, why, "guard_untracked", "udp dport 53 notrack", "udp sport 53 notrack"),)


def _more_buckets(evidence: Evidence) -> tuple[Step, ...]:
    wanted = chains.enough_buckets(evidence.in_use)
    if evidence.buckets is not None and wanted <= evidence.buckets:
        wanted = 2 * evidence.buckets  # packets are lost although it is large enough on average
    stall_ms = chains.stall_ms(evidence.in_use)
    why = f"enlarge the hash table of all namespaces (stops traffic once, for about {stall_ms:.0f} ms)"
    undo = "" if evidence.buckets is None else chains.resize_command(evidence.buckets)
    return (Step(why=why, command=chains.resize_command(wanted), undo=undo),)


def _with_growth(evidence: Evidence) -> tuple[Step, ...]:
    sample = evidence.sample
    step = Step(why="show the cost of the next raise", command="guard status")
    closing = sum(group.entries for group in sample.states.top if group.name == "tcp TIME_WAIT")
    if sample.share(closing) - sample.margin < MOST:
        return (step,)
    why = f"{100 * sample.share(closing):.0f} % are closed: expire them sooner"
    return (step, *_timeout(evidence, why, "nf_conntrack_tcp_timeout_time_wait", 30))


def _timeout(evidence: Evidence, why: str, name: str, seconds: int) -> tuple[Step, ...]:
    """Return the step that shortens a timeout; none where it is that short already."""
    now = evidence.timeouts.get(name)
    if now is not None and now <= seconds:
        return ()
    before = DEFAULT_TIMEOUTS[name] if now is None else now
    known = f"{before:,} s now" if now is not None else f"default {before:,} s, not read here"
    command = f"{evidence.inside}sysctl -w net.netfilter.{name}="
    return (Step(why=f"{why} ({known})", command=f"{command}{seconds}", undo=f"{command}{before}"),)


def _top(evidence: Evidence, why: str, by: str) -> Step:
    where = f" --namespace {evidence.namespace}" if evidence.namespace else ""
    return Step(why=why, command=f"guard top{where} --by {by}")


def _early(evidence: Evidence, why: str, table: str, *rules: str) -> Step:
    """Return the step that adds rules before connection tracking, for received and sent packets."""
    chains = "; ".join(
        f"add chain inet {table} {hook} {{ type filter hook {hook} priority raw; }}"
        for hook in ("prerouting", "output")
    )
    added = "; ".join(f"add rule inet {table} {hook} {rule}" for hook in ("prerouting", "output") for rule in rules)
    command = f"{evidence.inside}nft 'add table inet {table}; {chains}; {added}'"
    return Step(why=why, command=command, undo=f"{evidence.inside}nft delete table inet {table}")

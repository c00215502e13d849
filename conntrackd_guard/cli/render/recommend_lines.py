"""A recommendation as ready lines for sysctl, modprobe, kube-proxy and the chart."""

from conntrackd_guard.core.recommendation import Recommendation
from conntrackd_guard.core.units import format_bytes


def sysctl(found: Recommendation) -> str:
    """Return a file for /etc/sysctl.d."""
    return f"# {_cost(found)}\n" + "".join(f"{name} = {value}\n" for name, value in found.values().items())


def modprobe(found: Recommendation) -> str:
    """Return a file for /etc/modprobe.d: the module has an option for the buckets only."""
    return (
        f"# With hashsize= the kernel sets the limit to 8 × that when it loads the module: set {found.limit:,} by sysctl.\n"
        f"options nf_conntrack hashsize={found.buckets}\n"
    )


def kube_proxy(found: Recommendation) -> str:
    """Return the part of KubeProxyConfiguration that leaves the limit alone, and the one that sets it."""
    cores = found.cpus or 1
    per_core = -(-found.limit // cores)
    return (
        f"# kube-proxy leaves the limit alone: for nodes with the guard, or with these sysctl lines. {_cost(found)}\n"
        "conntrack:\n  maxPerCore: 0\n"
        "# Without either, kube-proxy itself sets it at each start:\n"
        f"# conntrack:\n#   maxPerCore: {per_core}  # × {cores} CPUs = {per_core * cores:,}\n#   min: {found.limit}\n"
    )


def helm(found: Recommendation) -> str:
    """Return values of the chart conntrackd-guard."""
    more = "  buckets: match\n" if found.buckets != found.observation.buckets else ""
    return f"# {_cost(found)}\nsettings:\n  min_limit: {found.limit}\n{more}"


def _cost(found: Recommendation) -> str:
    return f"Up to {format_bytes(found.full.cost_bytes)} of kernel memory with a full table of {found.limit:,} entries."


FORMATS = {"sysctl": sysctl, "modprobe": modprobe, "kube-proxy": kube_proxy, "helm": helm}

"""conntrackd-guard: raises nf_conntrack_max within a memory budget, and proves every step."""

__version__ = "0.1.0"

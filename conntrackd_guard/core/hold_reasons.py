"""The reasons for a hold, each with its code, its label and its explanation."""

from enum import Enum


class HoldReason(Enum):
    """Why the limit is not raised.

    `code` is the name in history, JSON, log and metrics. `label` is a short name for people. `sentence` explains the
    hold without figures, which `core.explain_holds` adds.
    """

    def __init__(self, sentence: str, label: str = "") -> None:
        self.sentence = sentence
        self.code = self.name.lower()
        self.label = label or self.code.replace("_", " ")

    HISTORICAL = "Logged before this run started. Recorded only; current table usage decides."
    TRIGGER_OFF = ("The settings disable this trigger.", "trigger disabled")
    EXPECTATION_TABLE = "The expectation table is full. Raising nf_conntrack_max would not help it."
    NEIGHBOUR_TABLE = "The neighbour table is full. Raising nf_conntrack_max would not help it."
    SUPPRESSED = ("The kernel rate-limited its messages. Using the drop counters instead.", "log rate-limited")
    CONTRADICTED = ("All tables that it could be about are readable, and none is full.", "not confirmed")
    UNCONFIRMED = (
        "No table confirms the message, and one unconfirmed message was already answered recently.",
        "unverifiable",
    )
    IMPOSSIBLE_COUNT = (
        "The count of the table can't be true, so nothing shows whether it is full.",
        "impossible count",
    )
    SUPERSEDED = ("Already covered by the previous raise.", "already covered")
    RESOLVED = "The condition is over. Nothing to do."
    STABLE = "Use is above the threshold but not growing towards the limit. No action."
    DRY_RUN_SUFFICIENT = ("Already covered by the raise that this dry run would have made.", "covered by dry run")
    UNTRUSTED_NAMESPACE = (
        "The table belongs to a user namespace. Any user can create one, so the guard does not raise for it.",
    )
    OWNER_UNKNOWN = (
        "Nothing shows who owns the namespace. Any user can create one, so the guard does not raise for it.",
    )
    UNREACHABLE_NAMESPACE = (
        "No process and no name leads to the namespace. Any user can keep one that way, so the guard does not raise for it.",
        "unreachable",
    )
    PAUSED = "Raising is paused."
    CONFLICT = "Another program keeps lowering the limit."
    UNLIMITED = "The limit is 0, or a negative number that the kernel reads as more than 2 billion: unlimited."
    NO_CONNTRACK = "This kernel tracks no connections yet."
    WRITE_REFUSED = "The kernel refused the last write. Retrying later."
    CHANGED_UNDER_US = ("The limit changed during the decision. Deciding again.", "limit changed")
    COOLDOWN = "Waiting for the last raise to take effect."
    RATE_LIMITED = "The rate limit for raises is reached."
    OVER_BUDGET = "The step would need more kernel memory than the budget allows."
    RESERVE = ("The step would leave too little memory available.", "low memory")
    MEMORY_UNKNOWN = "The memory of this host can't be read, so no raise can be calculated."
    AT_CEILING = ("The limit has reached `max_limit`.", "at max_limit")
    FLOOD = "A flood fills the table, and `on_flood` allows no further raise for it."
    UNSAMPLED = (
        "No sample distinguishes a flood from real load yet. The one raise allowed without a sample is used.",
        "no sample yet",
    )
    CHAINS = ("Hash chains would get so long that the kernel drops packets silently.", "long hash chains")
    INT_MAX = ("The limit is the highest that the kernel accepts.", "kernel maximum")
    CHAIN_DROPS = (
        "Hash chains are so long that the kernel drops new connections. It logs no message.",
        "lost to hash chains",
    )
    LONG_CHAINS = "Hash chains are so long that the kernel may drop new connections. It logs no message."
    BUCKETS_LOST = "The persisted limit is in force, but without the hash buckets that were raised for it."
    ALREADY_IN_FORCE = "The persisted limit is in force."
    SET_ELSEWHERE = (
        "The limit is lower than the persisted one, and someone set it: in this boot, in a file, or to no kernel default.",
    )
    OVER_BUDGET_AT_START = "The persisted limit is active, but a full table would exceed this host's memory budget."
    LIMIT_RAISED = "Another program raised the limit."
    LIMIT_LOWERED = "Another program lowered the limit."
    BUCKETS_CHANGED = "Another program changed the number of hash buckets."
    REVERTED = "An operator reverted the limit, so `min_limit` raises nothing until `guard resume` or the next boot."
    RELOADED = (
        "The kernel loaded connection tracking, which sets limit and buckets to its defaults.",
        "module loaded",
    )
    RESERVE_BROKEN = ("The tables exceed the memory budget, or too little memory is available.", "memory exceeded")

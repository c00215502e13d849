"""The reasons for a hold: one code, one label and one explanation each."""

from __future__ import annotations

from enum import Enum


class HoldReason(Enum):
    """Why the limit is not raised.

    `code` is the name in history, JSON, log and metrics. `label` is a short name for people. `sentence` explains the
    hold without figures, which `core.explain` adds.
    """

    def __init__(self, code: str, label: str, sentence: str) -> None:
        self.code = code
        self.label = label
        self.sentence = sentence

    HISTORICAL = (
        "historical",
        "historical",
        "Logged before this run started. Recorded only; current table usage decides.",
    )
    TRIGGER_OFF = ("trigger_off", "trigger disabled", "The settings disable this trigger.")
    EXPECTATION_TABLE = (
        "expectation_table",
        "expectation table",
        "The expectation table is full. Raising nf_conntrack_max would not help it.",
    )
    NEIGHBOUR_TABLE = (
        "neighbour_table",
        "neighbour table",
        "The neighbour table is full. Raising nf_conntrack_max would not help it.",
    )
    SUPPRESSED = (
        "suppressed",
        "log rate-limited",
        "The kernel rate-limited its messages. Using the drop counters instead.",
    )
    CONTRADICTED = (
        "contradicted",
        "not confirmed",
        "All tables are readable, and none is full or dropping packets.",
    )
    UNCONFIRMED = (
        "unconfirmed",
        "unverifiable",
        "No table confirms the message, and one unconfirmed message was already answered recently.",
    )
    SUPERSEDED = ("superseded", "already covered", "Already covered by the previous raise.")
    RESOLVED = ("resolved", "resolved", "The condition is over. Nothing to do.")
    STABLE = ("stable", "stable", "Use is above the threshold but not growing towards the limit. No action.")
    DRY_RUN_SUFFICIENT = (
        "dry_run_sufficient",
        "covered by dry run",
        "Already covered by the raise that this dry run would have made.",
    )
    UNTRUSTED_NAMESPACE = (
        "untrusted_namespace",
        "untrusted namespace",
        "The table belongs to a user namespace. Any user can create one, so the guard does not raise for it.",
    )
    PAUSED = ("paused", "paused", "Raising is paused.")
    CONFLICT = ("conflict", "conflict", "Another program keeps lowering the limit. The guard has stopped raising.")
    UNLIMITED = ("unlimited", "unlimited", "The limit is 0, which means unlimited.")
    NO_CONNTRACK = ("no_conntrack", "no conntrack", "This kernel tracks no connections yet.")
    WRITE_REFUSED = ("write_refused", "write refused", "The kernel refused the last write. Retrying later.")
    CHANGED_UNDER_US = (
        "changed_under_us",
        "limit changed",
        "The limit changed during the decision. Deciding again.",
    )
    COOLDOWN = ("cooldown", "cooldown", "Waiting for the last raise to take effect.")
    RATE_LIMITED = ("rate_limited", "rate limited", "The rate limit for raises is reached.")
    OVER_BUDGET = ("over_budget", "over budget", "The step would need more kernel memory than the budget allows.")
    RESERVE = ("reserve", "low memory", "The step would leave too little memory available.")
    AT_CEILING = ("at_ceiling", "at max_limit", "The limit has reached `max_limit`.")
    FLOOD = ("flood", "flood", "A flood fills the table, and `on_flood` allows no further raise for it.")
    UNSAMPLED = (
        "unsampled",
        "no sample yet",
        "No sample distinguishes a flood from real load yet. The one raise allowed without a sample is used.",
    )
    CHAINS = ("chains", "long hash chains", "Hash chains would get so long that the kernel drops packets silently.")
    INT_MAX = ("int_max", "kernel maximum", "The limit is the highest that the kernel accepts.")
    ALREADY_IN_FORCE = ("already_in_force", "already in force", "The persisted limit is in force.")
    SET_ELSEWHERE = (
        "set_elsewhere",
        "set elsewhere",
        "The limit is lower than the persisted one and isn't a kernel default. Someone set it on purpose, so it stays.",
    )
    OVER_BUDGET_AT_START = (
        "over_budget_at_start",
        "over budget at start",
        "The persisted limit is active, but a full table would exceed this host's memory budget.",
    )
    LIMIT_RAISED = ("limit_raised", "limit raised", "Another program raised the limit.")
    LIMIT_LOWERED = ("limit_lowered", "limit lowered", "Another program lowered the limit.")
    RESERVE_BROKEN = (
        "reserve_broken",
        "memory exceeded",
        "The tables exceed the memory budget, or too little memory is available.",
    )

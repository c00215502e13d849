"""What a limit may cost: sums worked by hand, each beside its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from testbed.hosts import GIB, LIMIT, MIB, OTHER, host, message, table

from conntrackd_guard.core import budget
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.assessment import Assessment, Charges, assess
from conntrackd_guard.core.budget import UNTRUSTED_SHARE
from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import INT_MAX, Corroboration, Hold, Observation, Raise, State, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import NAMED_ONE_BY_ONE, condense


def assessed(observation: Observation, policy: Policy | None = None) -> Assessment:
    """Return the facts about a host that no message is about."""
    return assess(Trigger(kind=TriggerKind.MEMORY), observation, policy or Policy())


def broken(observation: Observation) -> Arithmetic | None:
    """Return the calculation of a broken promise."""
    return budget.is_broken(assessed(observation), Policy())


@pytest.mark.parametrize(
    ("slab", "each"),
    [
        (256, 576),  # (256 + 256) × 1.1 = 563.2, up to the next multiple of 64
        (320, 640),  # (320 + 256) × 1.1 = 633.6
        (192, 512),  # (192 + 256) × 1.1 = 492.8
        (None, 640),
    ],
)
def test_bytes_per_entry(slab: int | None, each: int) -> None:
    """An entry is charged its slab object and the largest extension, and 640 where that can't be read."""
    assert budget.bytes_per_entry(slab)[0] == each


@pytest.mark.parametrize(
    ("total", "hugetlb", "budget_bytes", "min_available_bytes"),
    [
        # 10 % of 536,870,912 twice: it is less than 512 MiB
        (512 * MIB, 0, 53_687_091, 53_687_091),
        # 10 % of 1,073,741,824 twice
        (GIB, 0, 107_374_182, 107_374_182),
        # 5 GiB is where 10 % and 512 MiB meet
        (5 * GIB, 0, 536_870_912, 536_870_912),
        # 10 % of 25,769,803,776; 5 % of it is more than 512 MiB
        (24 * GIB, 0, 2_576_980_377, 1_288_490_188),
        # 10 % of 137,438,953,472; 5 % of it
        (128 * GIB, 0, 13_743_895_347, 6_871_947_673),
        # half of it set aside as huge pages: 10 % of 68,719,476,736; `min_available` is of all memory
        (128 * GIB, 64 * GIB, 6_871_947_673, 6_871_947_673),
        # more huge pages than memory can't be: nothing may be spent
        (GIB, 2 * GIB, 0, 107_374_182),
    ],
)
def test_budget_and_min_available(total: int, hugetlb: int, budget_bytes: int, min_available_bytes: int) -> None:
    """Budget is a tenth of what is no huge page; `min_available` the larger of 5 % and min(512 MiB, 10 %)."""
    assert budget.budget_bytes(Policy(), total, hugetlb) == budget_bytes
    assert budget.min_available_bytes(Policy(), total) == min_available_bytes


def test_operators_own_budget_and_min_available() -> None:
    """Settings give either a number of bytes or a fraction."""
    policy = Policy(budget=Share(bytes=100 * MIB), min_available=Share(fraction=0.5))
    assert budget.budget_bytes(policy, GIB, 0) == 100 * MIB
    assert budget.min_available_bytes(policy, GIB) == 512 * MIB


WORKED: list[Any] = [
    pytest.param(
        # cost 576 × 24,576 + 8 × 2 × 4,096 = 14,155,776 + 65,536; new 576 × (24,576 − 16,384)
        {"limit": 16_384, "buckets": 4_096, "memory_total_bytes": 512 * MIB, "memory_available_bytes": 400 * MIB},
        (24_576, 24_576, Bound.TARGET),
        (14_221_312, 4_718_592, 65_536, 12.0),
        id="512 MiB: the whole step",
    ),
    pytest.param(
        # (53,687,091 − 1,048,576) ÷ 576 = 91,386.3; cost 576 × 91,386 + 1,048,576; new 576 × (91,386 − 65,536)
        {"limit": 65_536, "buckets": 65_536, "memory_total_bytes": 512 * MIB, "memory_available_bytes": 400 * MIB},
        (98_304, 91_386, Bound.BUDGET),
        (53_686_912, 14_889_600, 1_048_576, 2.79),
        id="512 MiB: what the budget allows",
    ),
    pytest.param(
        # (130,000,000 − 107,374,182) ÷ 576 = 39,280.9 new entries; 65,536 + 39,280; cost 576 × 104,816 + 1,048,576
        {"limit": 65_536, "buckets": 65_536, "memory_total_bytes": GIB, "memory_available_bytes": 130_000_000},
        (131_072, 104_816, Bound.MIN_AVAILABLE),
        (61_422_592, 22_625_280, 1_048_576, 3.2),
        id="1 GiB: what the reserve allows",
    ),
    pytest.param(
        # cost 576 × 393,216 + 4,194,304; new 576 × 131,072
        {},
        (393_216, 393_216, Bound.TARGET),
        (230_686_720, 75_497_472, 4_194_304, 3.0),
        id="24 GiB: the whole step",
    ),
    pytest.param(
        # chain 24 is reached at 24 × 262,144 ÷ 2 = 3,145,728; cost 576 × 3,145,728 + 4,194,304
        {},
        (10_000_000, 3_145_728, Bound.CHAINS),
        (1_816_133_632, 1_660_944_384, 4_194_304, 24.0),
        id="24 GiB: what the chains allow",
    ),
    pytest.param(
        # (2,576,980,377 − 16,777,216) ÷ 576 = 4,444,797.2
        {"buckets": 1_048_576},
        (10_000_000, 4_444_797, Bound.BUDGET),
        (2_576_980_288, 2_409_208_128, 16_777_216, 8.48),
        id="24 GiB: what the budget allows",
    ),
    pytest.param(
        # (6,871,947,673 − 67,108,864) ÷ 576 = 11,813,956.3
        {
            "buckets": 4_194_304,
            "memory_total_bytes": 128 * GIB,
            "memory_hugetlb_bytes": 64 * GIB,
            "memory_available_bytes": 60 * GIB,
        },
        (20_000_000, 11_813_956, Bound.BUDGET),
        (6_871_947_520, 6_653_843_712, 67_108_864, 5.63),
        id="128 GiB, half of it huge pages",
    ),
]


@pytest.mark.parametrize(("seen", "step", "sums"), WORKED)
def test_worked_sums(seen: dict[str, Any], step: tuple[int, int, Bound], sums: tuple[int, int, int, float]) -> None:
    """One full table: the largest target that fits, and every figure of its sum."""
    observation = host(table(seen.get("limit", LIMIT)), **seen)
    case = assessed(observation)
    wanted, target, bound = step
    total = budget.largest_target(case, wanted, 0.0, Policy())
    assert (total.target, total.bound) == (target, bound)
    assert (total.cost_bytes, total.new_bytes, total.bucket_bytes, total.chain) == sums


def test_who_is_charged() -> None:
    """Tables at the threshold and named ones count at the target, others at twice their count, an unknown as full."""
    # threshold 80 % of 262,144 = 209,715.2
    full, below, named, small = table(209_716), table(209_715, 2), table(100, OTHER), table(10, 3)
    observation = host(full, below, named, small)
    case = assess(message(OTHER), observation, Policy())
    assert case.charges == Charges(full=2, full_held=209_816, others=((209_715, 209_715), (10, 10)))
    total = budget.calculate(case, 400_000, 400_000, 0.0, Policy())
    # others: min(400,000, 2 × 209,715) + 2 × 10; held: 209,816 + 209,715 + 10
    assert (total.full_tables, total.other_entries, total.held_entries) == (2, 400_020, 419_541)
    assert total.charged_entries == 800_000 + 400_020


def test_a_table_that_cannot_be_judged_is_charged_as_a_full_one() -> None:
    """The named table is not among those read."""
    case = assess(message(7), host(table(209_716), table(10, OTHER)), Policy())
    assert case.charges == Charges(full=2, full_held=209_716, others=((10, 10),))


def test_held_entries_are_charged_once() -> None:
    """Entries that live already are missing from available memory, so `min_available` does not count them again."""
    observation = host(table(LIMIT), table(10_000, OTHER))
    case = assessed(observation)
    total = budget.largest_target(case, 393_216, 0.0, Policy())
    assert total.charged_entries == 413_216  # 393,216 + 2 × 10,000
    assert total.held_entries == 272_144  # 262,144 + 10,000
    assert total.new_bytes == 81_257_472  # 576 × (413,216 − 272,144)
    # so memory for exactly that much is enough, and one byte less is not
    enough = total.min_available_bytes + total.new_bytes
    for available, bound in ((enough, Bound.TARGET), (enough - 1, Bound.MIN_AVAILABLE)):
        seen = host(table(LIMIT), table(10_000, OTHER), memory_available_bytes=available)
        assert budget.largest_target(assessed(seen), 393_216, 0.0, Policy()).bound is bound


def test_held_never_exceeds_charged() -> None:
    """A table that holds more than the target (the limit was lowered) frees no memory for the others."""
    charges = Charges(full=1, full_held=500_000, others=((900_000, 900_000),))
    total = budget.calculate(replace(assessed(host()), charges=charges), 100_000, 100_000, 0.0, Policy())
    assert (total.charged_entries, total.other_entries, total.held_entries) == (200_000, 100_000, 200_000)


@pytest.mark.parametrize(("arrays", "bucket_bytes"), [(1, 2_097_152), (2, 4_194_304)])
def test_nat_keeps_a_second_array(arrays: int, bucket_bytes: int) -> None:
    """Each array costs 8 bytes a bucket, whether or not the step resizes it."""
    observation = host(table(LIMIT), bucket_arrays=arrays)
    case = assessed(observation)
    total = budget.largest_target(case, 393_216, 0.0, Policy())
    assert (total.bucket_bytes, total.new_bucket_bytes) == (bucket_bytes, 0)


MATCH = Policy(buckets=Buckets.MATCH)


def test_match_resizes_beyond_a_chain_of_eight() -> None:
    """`match` brings the chain back to 8 and pays for the new arrays."""
    observation = host(table(LIMIT))
    case = assessed(observation, MATCH)
    total = budget.largest_target(case, 2_000_000, 0.0, MATCH)
    # 2 × 2,000,000 ÷ 8 = 500,000, up to a multiple of 512: 977 × 512
    assert (total.buckets_target, total.chain) == (500_224, 8.0)
    assert total.new_bucket_bytes == total.bucket_bytes == 8_003_584  # 500,224 × 8 × 2
    assert total.new_bytes == 576 * (2_000_000 - LIMIT) + 8_003_584
    assert total.bound is Bound.TARGET


@pytest.mark.parametrize(("wanted", "buckets"), [(1_048_576, None), (1_048_577, 262_656)])
def test_match_leaves_short_chains_alone(wanted: int, buckets: int | None) -> None:
    """A chain of 8 (4 entries a bucket) needs no resize, one entry more does: 513 × 512 buckets."""
    observation = host(table(LIMIT))
    case = assessed(observation, MATCH)
    assert budget.largest_target(case, wanted, 0.0, MATCH).buckets_target == buckets


def test_max_limit_and_int_max() -> None:
    """The operator's `max_limit` and the kernel's own largest number end a step."""
    plenty = host(table(LIMIT), memory_total_bytes=1 << 50, memory_available_bytes=1 << 49, buckets=None)
    case = assessed(plenty)
    assert budget.largest_target(case, INT_MAX + 1, 0.0, Policy()).target == INT_MAX
    capped = budget.largest_target(case, 400_000, 0.0, Policy(max_limit=300_000))
    assert (capped.target, capped.bound) == (300_000, Bound.MAX_LIMIT)


def test_what_is_held_may_break_the_promise() -> None:
    """What is held now is compared with budget and `min_available`, charged as it is and not as it may grow."""
    assert broken(host(table(LIMIT))) is None
    # 576 × 262,144 + 4,194,304 = 155,189,248: more than the 107,374,182 of 1 GiB
    poor = broken(host(table(LIMIT), memory_total_bytes=GIB, memory_available_bytes=GIB))
    assert poor is not None
    assert (poor.cost_bytes, poor.new_bytes) == (155_189_248, 0)
    starved = broken(host(table(10), memory_available_bytes=1_288_490_187))
    assert starved is not None
    assert broken(host(table(10), memory_available_bytes=1_288_490_188)) is None


CROWD = tuple(table(6_636, 100 + n, user_owned=True) for n in range(11))
"""81 % of 8,192 each: 25 MiB in all."""


def test_untrusted_tables_end_no_raise() -> None:
    """Full ones are charged at twice what they hold, and together at most a quarter of each bound."""
    seen = host(table(8_192, initial=True), *CROWD, limit=8_192, kernel_limit=8_192, buckets=8_192)
    decision = decide(message(), seen, State(), Policy())
    assert isinstance(decision, Raise)
    total = decision.arithmetic
    assert (total.target, total.full_tables) == (16_384, 1)
    assert total.untrusted_entries == 12 * 8_192 // UNTRUSTED_SHARE  # of the average chain of 24
    trusting = decide(message(), seen, State(), Policy(trust_user_namespaces=True))
    assert isinstance(trusting, Hold)
    assert trusting.reason is HoldReason.CHAINS


def test_an_untrusted_table_is_charged_twice_what_it_holds() -> None:
    """As any other that no raise is made for, even if it is full."""
    seen = host(table(LIMIT), table(1_000, OTHER, user_owned=True), table(230_000, 3, user_owned=True))
    case = assessed(seen)
    assert case.charges == Charges(full=1, full_held=LIMIT, untrusted=((1_000, 1_000), (230_000, 230_000)))
    total = budget.calculate(case, 393_216, 393_216, 0.0, Policy())
    assert (total.untrusted_entries, total.held_entries) == (2_000 + 393_216, LIMIT + 231_000)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 393_216),
        ({"memory_total_bytes": 4 * GIB}, 4 * GIB // 10 // 576 // 4),  # of the budget
        ({"buckets": 65_536}, 12 * 65_536 // 4),  # of what keeps chains short
        ({"memory_available_bytes": 24 * GIB // 20 + (64 << 20)}, 230_000 + (64 << 20) // 576 // 4),  # of what is spare
    ],
)
def test_the_share_of_untrusted_tables(changes: dict[str, Any], most: int) -> None:
    """Each bound has a share, and the smallest counts."""
    seen = host(table(LIMIT), table(230_000, OTHER, user_owned=True), **changes)
    assert budget.calculate(assessed(seen), 393_216, 393_216, 0.0, Policy()).untrusted_entries == most


def test_hidden_entries_are_charged_at_what_they_are() -> None:
    """In the sum and in what exists; never in new memory, for available memory lacks them already."""
    seen = host(table(8_192), limit=8_192, hidden_entries=200_000)
    total = budget.calculate(assessed(seen), 16_384, 16_384, 0.0, Policy())
    assert (total.charged_entries, total.hidden_entries, total.in_use) == (216_384, 200_000, 208_192)
    assert total.new_bytes == 576 * 8_192
    policy = Policy(budget=Share(bytes=30 << 20))
    assert not isinstance(decide(message(), seen, State(), policy), Raise)
    found = budget.is_broken(assessed(seen, policy), policy)
    assert found is not None
    assert found.cost_bytes == 576 * 208_192 + found.bucket_bytes
    cost = budget.cost_of(seen, policy)
    assert (cost.now_bytes, cost.headroom_bytes) == (found.cost_bytes, 0)


def test_small_tables_below_the_threshold_alone_are_condensed() -> None:
    """With a threshold of 40 %, a table at 45 % is charged as a full one, alone or among a hundred."""
    policy = Policy(threshold=0.40)
    seen = host(table(LIMIT), *(table(118_000, 100 + n, dropped=0) for n in range(100)))
    for observation in (seen, condense(seen, None, policy)):
        assert assess(message(), observation, policy).charges.full == 101


@pytest.mark.parametrize("condensed", [False, True])
def test_a_drop_in_a_nearly_empty_table_shows_no_full_one(*, condensed: bool) -> None:
    """A message without a number is not confirmed by tables of five entries that dropped one packet."""
    seen = host(table(10, initial=True), *(table(5, 100 + n, dropped=1) for n in range(100)))
    seen = condense(seen, None, Policy()) if condensed else seen
    assert len(seen.tables) == (NAMED_ONE_BY_ONE if condensed else 101)
    assert assess(message(), seen, Policy()).corroboration is Corroboration.CONTRADICTED

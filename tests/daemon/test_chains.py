"""Packets lost to long hash chains while the guard runs, and buckets that come back with the limit."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again

from conntrackd_guard.core import chains, tuning
from conntrackd_guard.core.configuration import Buckets, Policy
from conntrackd_guard.core.policy import decide
from conntrackd_guard.daemon.dependencies import WAITING_SECONDS

MATCH = Policy(buckets=Buckets.MATCH)


USED = LIMIT * 65 // 100


def started(host: Host, *, packets: int = 0) -> Guarded:
    """Return a guard whose table is at 65 % and has lost that many packets since boot."""
    host.table(USED, chains=packets)
    guarded = Guarded(host)
    guarded.turn()
    return guarded


def losing(guarded: Guarded, packets: int, *, seconds: float = 1.0) -> None:
    """Have that table have lost that many packets since boot, and the guard look."""
    guarded.host.table(USED, chains=packets)
    guarded.turn(seconds)


def status(guarded: Guarded) -> dict[str, int] | None:
    """Return what the guard publishes about chains."""
    guarded.turn(5.0)
    found = guarded.runtime_dir.status()
    assert found is not None
    long_chains: dict[str, int] | None = found["long_chains"]
    return long_chains


def test_packets_lost_at_low_use_are_logged(host: Host) -> None:
    """The table is at 65 %, and the kernel logs nothing: a warning names the packets and the command."""
    host.buckets = 4_096  # 20.8 on average
    guarded = started(host, packets=500)
    assert guarded.reasons() == []
    losing(guarded, 5_500)
    assert guarded.reasons() == ["hold chain_drops none"]
    (line,) = guarded.logged("guard.hold")
    assert line["level"] == "warning"
    assert line["message"] == (
        "The kernel dropped 5,000 packets of the initial namespace within 1 s without a message: hash chains are too "
        "long. Average chain: 2 × 42,598 ÷ 4,096 buckets = 20.8 entries. More buckets: `sysctl -w "
        "net.netfilter.nf_conntrack_buckets=16384` (stalls traffic for about 21 ms now; to undo: `sysctl -w "
        "net.netfilter.nf_conntrack_buckets=4096`). To keep them after a boot: `echo "
        "net.netfilter.nf_conntrack_buckets=16384 > /etc/sysctl.d/90-conntrack-buckets.conf`."
    )
    assert status(guarded) == {"lost": 5_000}
    guarded.stop()


def test_losses_that_last_are_one_row(host: Host) -> None:
    """Decided again once a minute, they are counted in it; after a quiet time they are over."""
    guarded = started(host)
    for second in range(1, 200):
        losing(guarded, 10 * second)
    guarded.recorder.call(lambda worker: worker.history_writer.flush())
    (row,) = guarded.rows()
    assert (row.reason, row.repeats) == ("chain_drops", 4)
    assert len(guarded.logged("guard.hold")) == 1
    guarded.turn(chains.QUIET_SECONDS)
    assert status(guarded) is None
    guarded.stop()


def test_an_average_from_which_packets_are_lost_is_logged_before_any_is(host: Host) -> None:
    """All tables count: the container's entries are in the same chains."""
    host.buckets = 5_000
    host.table(30_000, pid="200")
    host.table(30_000)
    guarded = Guarded(host)
    guarded.turn()
    assert guarded.reasons() == ["hold long_chains none"]
    (line,) = guarded.logged("guard.hold")
    assert line["message"].startswith(
        "Hash chains are long. Average chain: 2 × 60,000 ÷ 5,000 buckets = 24.0 entries. From 24 on the kernel drops new "
        "connections, without a message. More buckets: `sysctl -w net.netfilter.nf_conntrack_buckets=16384`"
    )
    assert status(guarded) == {"lost": 0}
    host.buckets = 16_384
    assert status(guarded) is None
    guarded.written()
    (line,) = guarded.logged("guard.info")
    assert line["message"] == "Hash chains are short again (average 7.3): no more packets are lost to them."
    guarded.stop()


def test_losses_are_logged_although_long_chains_were(host: Host) -> None:
    """The average was a warning; packets lost are news, at once."""
    host.buckets = 3_000
    guarded = started(host)
    losing(guarded, 0)
    losing(guarded, 60)
    losing(guarded, 90)
    assert guarded.reasons() == ["hold long_chains none", "hold chain_drops none"]
    assert len(guarded.logged("guard.hold")) == 2
    guarded.stop()


def test_tables_are_read_for_long_chains_at_any_use(host: Host) -> None:
    """With a limit of a million, 5 % of it are long chains in a small hash table. No reading is due for a minute."""
    host.buckets, host.limit = 4_000, 1_000_000
    host.table(20)
    guarded = Guarded(host)
    guarded.turn()
    host.table(50_000)
    guarded.turn(5.0)
    assert guarded.reasons() == ["hold long_chains none"]
    guarded.stop()


def test_an_unlimited_table_is_watched_too(host: Host) -> None:
    """Nothing but its chains bounds it."""
    host.limit = 0
    guarded = started(host, packets=1)
    losing(guarded, 7, seconds=WAITING_SECONDS)
    assert guarded.reasons()[-1] == "hold chain_drops none"
    guarded.stop()


def test_nothing_is_logged_on_a_kernel_without_a_chain_limit(host: Host) -> None:
    """Chains of 58 lose nothing there."""
    host.buckets = 2_048
    host.table(60_000, chains=None)
    host.table(0, pid="200", chains=None)
    guarded = Guarded(host)
    guarded.turn()
    guarded.turn(1.0)
    assert "long_chains" not in " ".join(guarded.reasons())
    assert status(guarded) is None
    guarded.stop()


def test_packets_lost_before_the_start_are_not_logged(host: Host) -> None:
    """Nobody knows when that was."""
    guarded = started(host, packets=60_000)
    losing(guarded, 60_000)
    assert guarded.reasons() == []
    guarded.stop()


def raised(host: Host, policy: Policy) -> Guarded:
    """Return a guard that has raised the limit once, with its table empty again."""
    guarded = Guarded(host, policy)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    host.table(10)
    return guarded


def rebooted(host: Host, *, limit: int, buckets: int, policy: Policy | None = None) -> Guarded:
    """Return a guard that starts after another boot, with what that boot has set."""
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    host.limit, host.buckets = limit, buckets
    guarded = Guarded(host, policy)
    guarded.loop.start()
    return guarded


@pytest.fixture
def matched(host: Host) -> Host:
    """Give a host on which a guard raised limit and buckets."""
    host.buckets = 16_384
    guarded = raised(host, MATCH)
    assert (host.limit, host.buckets) == (98_304, 24_576)
    guarded.stop()
    return host


def test_raised_buckets_are_kept_with_the_limit(matched: Host) -> None:
    """Both are in the file; a raise that needs no more buckets leaves them there."""
    assert (matched.persisted, matched.persisted_buckets) == (98_304, 24_576)
    again_raised = raised(matched, Policy(buckets=Buckets.KEEP))
    matched.table(98_304)
    again_raised.message()
    again_raised.turn(5.0)
    again_raised.written()
    assert matched.persisted == 147_456
    assert matched.persisted_buckets == 24_576
    again_raised.stop()


def test_a_raise_without_buckets_keeps_none(host: Host) -> None:
    """They are the kernel's, or somebody's."""
    raised(host, MATCH).stop()
    assert (host.persisted, host.persisted_buckets) == (98_304, None)


@pytest.mark.parametrize("policy", [Policy(), MATCH], ids=["keep", "match"])
def test_a_boot_that_lost_both_gets_both(matched: Host, policy: Policy) -> None:
    """The module loaded late, with the kernel's defaults; what comes back is in the file as before."""
    guarded = rebooted(matched, limit=16_384, buckets=16_384, policy=policy)
    assert guarded.reasons()[-1] == "raise restore applied"
    assert matched.limit == 98_304
    assert matched.buckets == 24_576 if policy.buckets is Buckets.KEEP else 49_152  # for a hidden table too
    guarded.written()
    assert (matched.persisted, matched.persisted_buckets) == (98_304, matched.buckets)
    guarded.stop()


def test_a_module_loaded_again_gets_both(host: Host) -> None:
    """What the running guard raised, also where `buckets: match` was taken back since."""
    host.buckets = 16_384
    guarded = raised(host, MATCH)
    guarded.controller.policy = Policy()
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    guarded.turn(5.0)
    host.limit = host.buckets = 16_384
    guarded.turn(5.0)
    assert guarded.reasons()[-1] == "raise restore applied"
    assert (host.limit, host.buckets) == (98_304, 24_576)
    guarded.written()
    assert (host.persisted, host.persisted_buckets) == (98_304, 24_576)
    guarded.stop()


def test_a_boot_that_lost_only_the_buckets_is_logged(matched: Host) -> None:
    """The limit is in force, and that is not all that was kept."""
    guarded = rebooted(matched, limit=98_304, buckets=16_384)
    assert guarded.reasons()[-1] == "hold buckets_lost none"
    (line,) = guarded.logged("guard.hold")
    assert line["level"] == "warning"
    assert line["message"].startswith(
        "The persisted limit (98,304) is in force, but with 16,384 of the 24,576 hash buckets that were raised for it. "
        "More buckets: `sysctl -w net.netfilter.nf_conntrack_buckets=24576`"
    )
    guarded.stop()


def test_a_boot_that_has_both_says_in_force(matched: Host) -> None:
    """Both, or more buckets than that."""
    for buckets in (24_576, 65_536):
        guarded = rebooted(matched, limit=98_304, buckets=buckets)
        assert guarded.reasons()[-1] == "hold already_in_force none"
        guarded.stop()


def test_a_kernel_that_refuses_the_buckets_still_gets_its_limit(matched: Host) -> None:
    """As far as chains allow without them."""
    (matched.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    matched.limit = matched.buckets = 16_384
    guarded = Guarded(matched)
    guarded.kernel.refusing_buckets = 12
    guarded.loop.start()
    assert (matched.limit, matched.buckets) == (98_304, 16_384)
    assert guarded.reasons()[-1] == "raise restore applied"
    guarded.written()
    assert matched.persisted_buckets == 24_576  # the next boot may have the memory
    guarded.stop()


def test_a_higher_limit_of_another_writer_releases_the_buckets_too(
    matched: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes as a whole: it would lower that limit."""
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 0.0)
    monkeypatch.setattr("conntrackd_guard.recording.worker._RETRY_SECONDS", 0.0)
    guarded = again(Guarded(matched))
    matched.limit = 1_000_000
    guarded.turn(5.0)
    guarded.turn(5.0)
    guarded.written()
    assert (matched.persisted, matched.persisted_buckets) == (None, None)
    guarded.stop()


def test_the_record_decides_again_the_same(host: Host) -> None:
    """A row has all that its decision needs: the losses of its tables among it."""
    guarded = started(host)
    losing(guarded, 9)
    (row,) = guarded.rows()
    with guarded.history() as history:
        record = history.record(row)
    assert [table.lost_to_chains for table in record.observation.tables] == [9]
    assert record.trigger.since_seconds == guarded.clock.now - 1.0
    assert decide(record.trigger, record.observation, record.state, guarded.policy) == record.decision
    guarded.stop()

"""`guard run --log-level debug`: why nothing happened."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.dedup import MessageStatus
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import KernelEvent, KernelMessage
from conntrackd_guard.core.model import MessageKind


class Debugged(Guarded):
    """A guard that logs everything."""

    log_level = "debug"

    def texts(self) -> list[str]:
        """Return the debug messages so far."""
        self.written()
        return [line["message"] for line in self.logged("guard.debug")]


def test_a_raise_from_the_message_to_the_end_of_its_episode(host: Host) -> None:
    """The decision, the tables read, and the episode's begin and end each leave a message."""
    guarded = Debugged(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.turn(11.0)
    texts = guarded.texts()
    assert any(text.startswith("Decision on kernel_message: Raised 65,536") for text in texts)
    assert any(
        "Tick: 2 tables read, limit 98,304, threshold 80%: the initial namespace 65,536 (67%" in t for t in texts
    )
    assert texts.index("Episode opened: messages without a namespace.") < texts.index(
        "Episode closed: messages without a namespace, no need for 10 s."
    )
    guarded.stop()


def test_a_decision_that_is_not_recorded_leaves_a_message(host: Host) -> None:
    """A need that is over when it is decided has no row and no other log message."""
    guarded = Debugged(host, Policy(raise_early=False))
    host.table(10)
    guarded.message()
    guarded.turn()
    guarded.turn(1.0)
    decisions = [text for text in guarded.texts() if text.startswith("Decision on kernel_message: ")]
    assert len(decisions) >= len(guarded.rows())
    assert decisions
    guarded.stop()


def test_a_lasting_error_of_the_host_stays_visible(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged as an error once, and at debug each time."""
    guarded = Debugged(host)

    def fail(*_: object) -> None:
        raise HostError("read", "/proc/x", OSError(5, "Input/output error"), "Look at the disk.")

    monkeypatch.setattr(guarded.controller, "tick", fail)
    for _ in range(3):
        guarded.turn(2.1)
    assert [text.startswith("Still failing: Can't read /proc/x") for text in guarded.texts()] == [True, True]
    assert len(guarded.logged("guard.error")) == 1
    guarded.stop()


@pytest.mark.parametrize("status", MessageStatus)
def test_every_message_leaves_a_message(host: Host, status: MessageStatus) -> None:
    """New, historical and duplicate ones, with their source."""
    guarded = Debugged(host)
    message = KernelMessage(kind=MessageKind.TABLE_FULL, namespace=None, text="nf_conntrack: table full")
    event = KernelEvent(message=message, stamp_us=1, boot_id="boot-1", source="ring buffer")
    assert guarded.parts.debug is not None
    guarded.parts.debug.message(event, status)
    assert guarded.texts() == [f"Kernel message ({status.value}, from the ring buffer): nf_conntrack: table full"]
    guarded.stop()


def test_at_info_the_loop_logs_no_debug_message(host: Host) -> None:
    """Nothing is built for messages that nobody wants."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    assert guarded.parts.debug is None
    assert guarded.logged("guard.debug") == []
    guarded.stop()

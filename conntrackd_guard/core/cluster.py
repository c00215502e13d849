"""A decision as an Event of Kubernetes, and the guard's health as a condition of its Node. Pure.

Lengths and forms are those that an API server checks (events.k8s.io/v1, `ValidateEventCreate`).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from conntrackd_guard.core import health
from conntrackd_guard.core.health import Health
from conntrackd_guard.core.text import printable

CONTROLLER: Final = "conntrackd-guard"
CONDITION: Final = "ConntrackConstrained"
NAMESPACE: Final = "default"
"""The only one for Events about objects without a namespace, apart from kube-system."""
EVENTS: Final = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
_MOST_NOTE_BYTES = 1024
_MOST_NAME = 253
_MOST_INSTANCE = 128
_CODE = re.compile("[a-z][a-z_]{0,63}")
_UNKNOWN = frozenset({"silent", "unseen", "not_running"})
"""Nothing shows whether raising is blocked."""
_MOST_REASONS = 3
_NODE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def is_node_name(name: str) -> bool:
    """Return whether an API server accepts this name of a Node."""
    return _NODE.fullmatch(name) is not None


def event(decision: Mapping[str, Any], key: str, node: str, instance: str) -> dict[str, Any]:
    """Return the Event for a decision as `guard history --json` lists it. Raises ValueError for what the guard does not write.

    `key` names the decision, `instance` who reports it.
    """
    verdict, code, sentence, at = (decision.get(name) for name in ("verdict", "reason", "sentence", "at"))
    if not isinstance(sentence, str) or not sentence:
        raise ValueError("no sentence")
    if verdict == "raise":
        refused = decision.get("outcome") == "rejected"
        kind, reason = ("Warning", "ConntrackRaiseRefused") if refused else ("Normal", "ConntrackLimitRaised")
    elif verdict == "hold" and isinstance(code, str) and _CODE.fullmatch(code):
        kind, reason = "Warning", f"Conntrack{_camel(code)}"
    else:
        raise ValueError("neither a raise nor a hold")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event_name(node, key), "namespace": NAMESPACE},
        "eventTime": micro_time(seconds(at)),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:_MOST_INSTANCE],
        "action": "Raise" if verdict == "raise" else "Hold",
        "reason": reason,
        "type": kind,
        "note": _cut(sentence),
        # kubelet and `kubectl describe node` take the name for the uid
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
    }


def event_name(node: str, key: str) -> str:
    """Return the Event's name: the same for the same decision, so that none is there twice. Raises ValueError."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,100}[a-z0-9]", key):
        raise ValueError("no key of a decision")
    return f"{node[: _MOST_NAME - 1 - len(key)].rstrip('.-')}.{key}"


def condition(found: Health) -> dict[str, str]:
    """Return the condition without its times: True while raising is blocked, Unknown while no guard answers."""
    for reason in found.reasons:
        if reason.code in _UNKNOWN:
            text = f"{_sentence(reason.text)} See the log of the guard's container."
            return _condition("Unknown", "GuardSilent", text)
    blocking = health.blocking(found)
    if not blocking:
        return _condition("False", "RaisesPossible", "The guard can raise nf_conntrack_max.")
    texts = [f"{_sentence(reason.text)} {reason.next_step}".rstrip() for reason in blocking[:_MOST_REASONS]]
    return _condition("True", _camel(blocking[0].code), " ".join(texts))


def stopped() -> dict[str, str]:
    """Return the condition after its reporter has ended."""
    return _condition("Unknown", "GuardStopped", "The container that reports this was stopped.")


def micro_time(wall_seconds: float) -> str:
    """Return a time with six digits after the point: an API server accepts no other number of them here."""
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def whole_time(wall_seconds: float) -> str:
    """Return a time as conditions have it."""
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": CONDITION, "status": status, "reason": reason, "message": _cut(message)}


def seconds(at: object) -> float:
    """Return RFC 3339 as seconds. Raises ValueError."""
    if not isinstance(at, str):
        raise ValueError("no time")  # noqa: TRY004 - a fault of the content, not of the caller
    return datetime.fromisoformat(at).timestamp()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _camel(code: str) -> str:
    return "".join(part.capitalize() for part in code.split("_"))


def _cut(text: str) -> str:
    """Return text without control characters, in at most 1,024 bytes of UTF-8."""
    content = printable(text).encode("utf-8", "replace")
    if len(content) <= _MOST_NOTE_BYTES:
        return content.decode()
    return content[: _MOST_NOTE_BYTES - 3].decode("utf-8", "ignore") + "…"

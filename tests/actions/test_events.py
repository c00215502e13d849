"""`guard events`: what an API server gets, and how its refusals, silence and nonsense are borne. Time is simulated."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.api_server import TOKEN, ApiServer, Reply, Request, api_server, certificate, trust

from conntrackd_guard.actions.events import EVENT_SECONDS, HEARTBEAT_SECONDS, MAX_RETRY_SECONDS, Reporter
from conntrackd_guard.core.errors import NotPermitted
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.host import cluster_api
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.cluster_api import ClusterApi
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.outbox import Outbox
from conntrackd_guard.host.paths import Paths

NODE = "node-1.example"
WALL = 1_800_000_000.0
HEALTHY: dict[str, Any] = {"version": 1, "pid": 1}


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the server."""
    return certificate(tmp_path_factory.mktemp("tls"))


class Pod(Clock):
    """The container with the token, its outbox, and an API server that records."""

    def __init__(self, root: Path, pem: Path, api: ApiServer) -> None:
        self.paths, self.api, self.now, self.out = Paths(root), api, 1000.0, io.StringIO()
        self.boottime = lambda: self.now
        self.wall = lambda: WALL + self.now
        self.outbox = Outbox(self.paths)
        self.outbox.folder.mkdir(parents=True)
        trust(self.paths, pem)
        self.start()

    def start(self) -> None:
        """Start the command, as after a restart of its container."""
        client = ClusterApi(self.paths, "127.0.0.1", self.api.port)
        self.reporter = Reporter(
            self.outbox, client, Log("json", self.out), self, node=NODE, instance="conntrackd-guard-x7k2p"
        )

    def status(self, **fields: object) -> None:
        """Publish a status of the guard, as of now."""
        content = {**HEALTHY, "boottime_seconds": self.now, **fields}
        (self.outbox.folder / "status.json").write_text(json.dumps(content))

    def leave(self, key: str, **fields: object) -> None:
        """Leave a decision in the outbox: a hold, unless the fields say otherwise."""
        decision = {
            "id": None, "verdict": "hold", "reason": "over_budget", "outcome": "none", "namespace": 4026531840,
            "at": rfc3339(self.wall()), "sentence": f"Held by {key}.", **fields,
        }  # fmt: skip
        self.outbox.decisions.put(key, json.dumps({"version": 1, "decision": decision}))
        path = self.outbox.decisions.folder / f"{key}.json"
        age = len(self.outbox.decisions.files())
        os.utime(path, ns=(age, age))

    def run(self, seconds: float = 2.0) -> None:
        """Let time pass, a turn every 2 s."""
        for _ in range(round(seconds / 2)):
            self.reporter.turn()
            self.now += 2.0

    def log(self) -> list[tuple[str, str]]:
        """Return what was logged, as (level, message)."""
        return [(line["level"], line["message"]) for line in map(json.loads, self.out.getvalue().splitlines())]


@pytest.fixture
def pod(tmp_path: Path, pem: Path) -> Iterator[Pod]:
    """A pod on a healthy node."""
    with api_server(pem) as api:
        pod = Pod(tmp_path, pem, api)
        pod.status()
        yield pod


def refuse(status: int, part: str, **reply: Any) -> Any:
    """Return a server's behavior: refuse requests to paths with `part`."""
    return lambda request: Reply(status=status, **reply) if part in request.path else Reply()


def test_a_hold_becomes_a_warning_about_the_node(pod: Pod) -> None:
    """It has every field that events.k8s.io/v1 asks for, and the pod's token."""
    pod.leave("abc-1", sentence="No raise: over budget.")
    pod.run()
    at = rfc3339(WALL + 1000.0).replace("Z", "000Z")
    assert pod.api.events() == [
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{NODE}.abc-1", "namespace": "default"},
            "eventTime": at,
            "reportingController": "conntrackd-guard",
            "reportingInstance": "conntrackd-guard-x7k2p",
            "action": "Hold",
            "reason": "ConntrackOverBudget",
            "type": "Warning",
            "note": "No raise: over budget.",
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE},
        }
    ]
    assert {one.authorization for one in pod.api.requests} == {f"Bearer {TOKEN}"}


def test_raises_are_normal_and_each_has_its_event(pod: Pod) -> None:
    """Their sentences differ by the figures; one that the kernel refused is a warning."""
    pod.leave("a-1", verdict="raise", reason="kernel_message confirmed", outcome="applied")
    pod.leave("a-2", verdict="raise", reason="filling_up confirmed", outcome="applied")
    pod.leave("a-3", verdict="raise", reason="filling_up confirmed", outcome="rejected")
    pod.run()
    found = [(event["type"], event["reason"], event["note"]) for event in pod.api.events()]
    assert found == [
        ("Normal", "ConntrackLimitRaised", "Held by a-1."),
        ("Normal", "ConntrackLimitRaised", "Held by a-2."),
        ("Warning", "ConntrackRaiseRefused", "Held by a-3."),
    ]


def test_equal_holds_are_counted_in_one_event(pod: Pod) -> None:
    """An hour after its last change the API server has dropped it: then it is a new one. Others are apart."""
    pod.leave("a-1")
    pod.leave("a-2")
    pod.leave("a-3", namespace=7)
    pod.leave("a-4", reason="conflict")
    pod.run()
    assert [event["metadata"]["name"] for event in pod.api.events()] == [f"{NODE}.a-{n}" for n in (1, 3, 4)]
    (patch,) = [one for one in pod.api.requests if one.method == "PATCH" and "/events/" in one.path]
    at = rfc3339(WALL + 1000.0).replace("Z", "000Z")
    assert patch.path == f"/apis/events.k8s.io/v1/namespaces/default/events/{NODE}.a-1"
    assert (patch.content_type, patch.body) == (
        "application/merge-patch+json",
        {"series": {"count": 2, "lastObservedTime": at}},
    )
    pod.now += EVENT_SECONDS
    pod.leave("a-5")
    pod.run()
    assert pod.api.events()[-1]["metadata"]["name"] == f"{NODE}.a-5"


def test_an_expired_series_is_begun_again(pod: Pod) -> None:
    """Somebody has deleted the Event that the hold would be counted in."""
    pod.leave("a-1")
    pod.run()
    pod.api.reply = lambda one: Reply(status=404 if one.method == "PATCH" and "/events/" in one.path else 201)
    pod.leave("a-2")
    pod.run()
    assert [event["metadata"]["name"] for event in pod.api.events()] == [f"{NODE}.a-1", f"{NODE}.a-2"]
    assert pod.log() == []


def test_a_restart_reports_nothing_twice(pod: Pod) -> None:
    """The API server has Events of these names: 409 is as good as done. Those older than an hour are not sent again."""
    pod.leave("a-1", at=rfc3339(WALL - EVENT_SECONDS))
    pod.leave("a-2")
    pod.api.reply = refuse(409, "/events", message="already exists")
    pod.run(20)
    assert [event["metadata"]["name"] for event in pod.api.events()] == [f"{NODE}.a-2"]
    assert pod.log() == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"conflict": True}, "Conflict"),
        ({"memory_unknown": "x"}, "MemoryUnknown"),
        ({"paused": {"by": "/etc/conntrackd-guard/pause", "until": None}}, "Paused"),
        ({"unmet": [{"reason": "at_ceiling", "table": "web"}]}, "AtCeiling"),
        ({"write_refused": "Operation not permitted"}, "WriteRefused"),
    ],
)
def test_the_condition_is_true_while_raising_is_blocked(pod: Pod, status: dict[str, Any], reason: str) -> None:
    """It is merged into the Node's conditions by its type, and false again afterwards."""
    pod.status(**status)
    pod.run()
    pod.status()
    pod.run()
    pod.run()
    found = [(one["type"], one["status"], one["reason"]) for one in pod.api.conditions()]
    assert found == [("ConntrackConstrained", "True", reason), ("ConntrackConstrained", "False", "RaisesPossible")]
    request = pod.api.requests[0]
    assert (request.path, request.content_type) == (
        f"/api/v1/nodes/{NODE}/status",
        "application/strategic-merge-patch+json",
    )
    assert pod.api.conditions()[0]["lastTransitionTime"] == "2027-01-15T08:16:40Z"
    assert pod.api.conditions()[1]["lastTransitionTime"] == "2027-01-15T08:16:42Z"


def test_a_recorder_in_trouble_blocks_no_raise(pod: Pod) -> None:
    """Decisions are not recorded then, but raises go on."""
    pod.status(recorder={"trouble": ["disk full"]}, owners_read_by="nobody")
    pod.run()
    assert [one["status"] for one in pod.api.conditions()] == ["False"]


def test_the_condition_is_unknown_while_the_guard_is_silent(pod: Pod) -> None:
    """Its last word is no evidence. At the start it gets some seconds to say the first."""
    (pod.outbox.folder / "status.json").unlink()
    pod.run(10)
    assert pod.api.conditions() == []
    pod.status()
    pod.run(14)
    assert [(one["status"], one["reason"]) for one in pod.api.conditions()] == [
        ("False", "RaisesPossible"),
        ("Unknown", "GuardSilent"),
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}', b'{"recorder": 3}', b"[" * 100_000]
)
def test_a_hostile_status_is_no_status(pod: Pod, content: bytes) -> None:
    """Whatever the file contains, the condition is unknown."""
    (pod.outbox.folder / "status.json").write_bytes(content)
    pod.run(14)
    assert [one["status"] for one in pod.api.conditions()] == ["Unknown"]


def test_the_condition_is_repeated(pod: Pod) -> None:
    """The time of the last heartbeat moves, that of the transition stays."""
    for _ in range(round(HEARTBEAT_SECONDS / 2) + 1):
        pod.status()
        pod.run()
    first, second = pod.api.conditions()
    assert first["lastHeartbeatTime"] != second["lastHeartbeatTime"]
    assert {**first, "lastHeartbeatTime": ""} == {**second, "lastHeartbeatTime": ""}


def test_a_stopped_reporter_says_so(pod: Pod) -> None:
    """Nobody keeps the condition true any more."""
    stops = iter([False, True])
    pod.reporter.work(lambda: next(stops), lambda _: None)
    assert [(one["status"], one["reason"]) for one in pod.api.conditions()] == [
        ("False", "RaisesPossible"),
        ("Unknown", "GuardStopped"),
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 302])
def test_refused_events_are_retried_and_logged_once(pod: Pod, status: int) -> None:
    """Ever more rarely; the condition goes on; once the API server takes them, that is logged."""
    pod.leave("a-1")
    pod.api.reply = refuse(status, "/events", message="no")
    pod.run(600)
    tries = len(pod.api.events())
    assert 6 <= tries <= 12
    ((level, message),) = pod.log()
    assert (level, message.partition(" no")[0]) == ("warning", f"The API server refused: {status}")
    assert ("bindings" in message) == (status in {401, 403})
    pod.api.reply = lambda _: Reply()
    pod.now += 2 * MAX_RETRY_SECONDS
    pod.status()
    pod.run()
    assert len(pod.api.events()) == tries + 1
    assert pod.log()[1:] == [("info", "The API server takes requests again.")]


def test_a_server_that_asks_to_wait_is_left_alone(pod: Pod) -> None:
    """Retry-After holds, up to five minutes."""
    pod.leave("a-1")
    pod.api.reply = refuse(429, "/events", headers={"Retry-After": "60"})
    pod.run(58)
    assert len(pod.api.events()) == 1
    pod.api.reply = refuse(429, "/events", headers={"Retry-After": "99999"})
    pod.now += 60
    pod.run()
    pod.now += 1.5 * MAX_RETRY_SECONDS
    pod.run()
    assert len(pod.api.events()) == 3


@pytest.mark.parametrize("value", ["999999999", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9", "\u00b2", ""])
def test_a_wait_that_is_none_is_ignored(pod: Pod, value: str) -> None:
    """The first retry comes after a second or two, as without it."""
    pod.leave("a-1")
    pod.api.reply = refuse(503, "/events", headers={"Retry-After": value})
    pod.run(4)
    assert len(pod.api.events()) == 2


def test_a_right_that_is_missing_stops_the_other_task_not(pod: Pod) -> None:
    """Without nodes/status, Events are reported all the same."""
    pod.api.reply = refuse(403, "/nodes/", message='cannot patch "nodes/status"')
    pod.leave("a-1")
    pod.run(30)
    pod.leave("a-2", reason="conflict")
    pod.run()
    assert len(pod.api.events()) == 2
    assert len(pod.log()) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_event_that_is_refused_for_good_holds_up_no_other(pod: Pod, status: int) -> None:
    """It is logged with the API server's message, and not sent again."""
    pod.leave("a-1")
    pod.leave("a-2", reason="conflict")
    pod.api.reply = lambda one: Reply(status=status, message="too \x1b[2Jlong") if "a-1" in str(one.body) else Reply()
    pod.run(60)
    assert len(pod.api.events()) == 2
    text = rf"No Event for a-1.json: the API server answered {status} too \x1b[2Jlong."
    assert pod.log() == [("error", text)]


def test_a_conflict_is_retried(pod: Pod) -> None:
    """409 on a change of an Event is another writer's doing, not an Event that exists."""
    pod.leave("a-1")
    pod.run()
    answers = iter([409, 200])
    pod.api.reply = lambda one: Reply(status=next(answers)) if "/events/" in one.path else Reply()
    pod.leave("a-2")
    pod.run(10)
    assert len(pod.api.bodies("PATCH", "/events/")) == 2


def test_no_server(pod: Pod, tmp_path: Path) -> None:
    """Nothing listens: one line, then silence until it does."""
    pod.leave("a-1")
    pod.reporter = Reporter(
        pod.outbox, ClusterApi(pod.paths, "127.0.0.1", 1), Log("json", pod.out), pod, node=NODE, instance="x"
    )
    pod.run(600)
    lines = pod.log()
    text = "Can't reach the API server https://127.0.0.1:1: Connection refused. Retrying."
    assert set(lines) == {("warning", text)}
    assert len(lines) == 2  # one a task
    assert tmp_path.exists()


def test_decisions_that_could_not_be_reported_for_an_hour_are_given_up(pod: Pod) -> None:
    """They are named with their sentence: the log is the last place for them."""
    pod.leave("a-1", sentence="No raise.")
    pod.api.reply = refuse(503, "/events")
    pod.run()
    pod.now += EVENT_SECONDS + 600
    pod.run()
    level, message = pod.log()[-2]
    assert (level, message.endswith("giving up: no Event for it. No raise.")) == ("error", True)


def test_a_slow_server_is_left_after_a_while(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps no connection open, though each comes in time for the socket."""
    monkeypatch.setattr(cluster_api, "REQUEST_SECONDS", 0.5)
    pod.leave("a-1")
    pod.api.reply = lambda _: Reply(slow=0.05, content=b"x" * 100)
    pod.run()
    assert [message for _, message in pod.log()] == [
        f"Can't reach the API server https://127.0.0.1:{pod.api.port}: no whole answer within 0.5 s. Retrying."
    ] * 2


def test_many_events_to_a_slow_server_hold_up_nothing_else(pod: Pod) -> None:
    """Between two turns the condition is looked at, and SIGTERM."""
    for number in range(4):
        pod.leave(f"a-{number}", verdict="raise")

    def slow(request: Request) -> Reply:
        pod.now += 3.0 if "/events" in request.path else 0.0
        return Reply()

    pod.api.reply = slow
    for sent in (1, 2, 3, 4, 4):
        pod.run()
        assert len(pod.api.events()) == sent


def test_an_outbox_that_cannot_be_read(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged once, and the condition is reported all the same."""

    def denied() -> list[str]:
        raise NotPermitted("Can't read it.")

    monkeypatch.setattr(pod.reporter._outbox.decisions, "files", denied)
    pod.run(60)
    assert pod.log() == [("warning", "Can't read it.")]
    assert len(pod.api.conditions()) >= 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 1000, b"[" * 100_000, b'{"message": 3}', b'{"message": "' + b"x" * 200_000 + b'"}', b"NaN"],
)
def test_hostile_answers(pod: Pod, content: bytes) -> None:
    """They are no text; what is logged stays short."""
    pod.leave("a-1")
    pod.api.reply = lambda _: Reply(status=500, content=content)
    pod.run()
    assert {message for _, message in pod.log()} == {"The API server refused: 500."}


def test_another_certificate_is_not_trusted(pod: Pod, tmp_path: Path) -> None:
    """The token is not sent to whoever answers."""
    other = tmp_path / "other"
    other.mkdir()
    certificate(other)
    (pod.paths.service_account / "ca.crt").write_bytes((other / "cert.pem").read_bytes())
    pod.leave("a-1")
    pod.run()
    assert pod.api.requests == []
    assert all("certificate verify failed" in message for _, message in pod.log())


@pytest.mark.parametrize("token", [b"", b"a\r\nX: y", b"\xff", b"x" * 100_000])
def test_a_token_that_is_none_is_not_sent(pod: Pod, token: bytes) -> None:
    """The next step names the volume; a renewed token is taken without a restart."""
    (pod.paths.service_account / "token").write_bytes(token)
    pod.leave("a-1")
    pod.run()
    assert pod.api.requests == []
    assert all("serviceAccountToken" in message for _, message in pod.log())
    (pod.paths.service_account / "token").write_text("new")
    pod.run(4)
    assert {one.authorization for one in pod.api.requests} == {"Bearer new"}


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "override"}, {"verdict": "hold", "reason": "../x"}, {"sentence": None}, {"sentence": ""}, {"at": "now"},
        {"at": 3}, {"reason": ["x"]}, {"at": "0001-01-01T00:00:00+14:00"},
    ],
)  # fmt: skip
def test_hostile_decisions_are_named_once(pod: Pod, fields: dict[str, Any]) -> None:
    """No request is made of them, and they hold up nothing."""
    pod.leave("a-1", **fields)
    pod.leave("a-2")
    pod.run(20)
    assert [event["metadata"]["name"] for event in pod.api.events()] == [f"{NODE}.a-2"]
    ((level, message),) = pod.log()
    assert (level, message.startswith("a-1.json is not a decision (")) == ("error", True)


@pytest.mark.parametrize("name", ["UPPER.json", "a b.json", "..json", "a?x=1.json", "x" * 200 + ".json"])
def test_hostile_names_of_files(pod: Pod, name: str) -> None:
    """A name becomes part of a path on the API server: others than the guard's are refused."""
    pod.leave("a-1")
    folder = pod.outbox.decisions.folder
    (folder / "a-1.json").rename(folder / name)
    pod.run()
    assert pod.api.events() == []


def test_a_long_sentence_is_cut(pod: Pod) -> None:
    """A note has 1,024 bytes at most, and no control characters."""
    pod.leave("a-1", sentence="\x1b[2J" + "ü" * 2000)
    pod.run()
    (event,) = pod.api.events()
    assert event["note"].startswith("\\x1b[2Jü")
    assert 1000 <= len(event["note"].encode()) <= 1024


def test_requests(pod: Pod) -> None:
    """Nothing but two kinds of paths is ever asked for."""
    pod.leave("a-1")
    pod.leave("a-2")
    pod.run()

    def shape(one: Request) -> tuple[str, str]:
        return one.method, one.path.replace(NODE, "NODE").replace("a-1", "KEY")

    assert {shape(one) for one in pod.api.requests} == {
        ("PATCH", "/api/v1/nodes/NODE/status"),
        ("POST", "/apis/events.k8s.io/v1/namespaces/default/events"),
        ("PATCH", "/apis/events.k8s.io/v1/namespaces/default/events/NODE.KEY"),
    }

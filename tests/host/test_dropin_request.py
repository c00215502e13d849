"""Requests for the drop-in: numbers and a key, of which a daemon that was taken over may leave anything."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import DropInRequest, Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

BOOT = "5a2b-b007"
PERSISTED = Persisted(
    limit=98_304, limit_before=65_536, wall_seconds=1, decision="5a2b-1-2-3", memory_total_bytes=8, budget_bytes=1
)
REQUEST = DropInRequest(boot_id=BOOT, decided_us=100, content=PERSISTED)
PLANTED = "\nkernel.core_pattern = |/bin/sh"


@pytest.fixture(name="paths")
def a_host(tmp_path: Path) -> Paths:
    """Give a tree of files, with a limit persisted at 50 µs and other settings beside it."""
    paths = Paths(tmp_path)
    for path, content in ((paths.boot_id, f"{BOOT}\n"), (tmp_path / "etc/sysctl.d/10-other.conf", "other = 1\n")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    SysctlDropIn(paths).put(replace(PERSISTED, limit=70_000), 50e-6)
    return paths


def settings(paths: Paths) -> dict[str, str]:
    """Return the content of all sysctl files."""
    return {path.name: path.read_text() for path in paths.drop_in.parent.iterdir()}


def answer(paths: Paths) -> str:
    """Return the error that a daemon finds."""
    return DropInLock(paths).answer(REQUEST.decided_us)


def leave(paths: Paths, document: Any) -> None:
    """Leave a document as the request."""
    paths.drop_in_request.write_text(document if isinstance(document, str) else json.dumps(document))


def changed(**fields: Any) -> dict[str, Any]:
    """Return the document of a request with another content."""
    document = REQUEST.document()
    return {**document, "content": {**document["content"], **fields}}


@pytest.mark.parametrize(
    "request_left",
    [REQUEST, replace(REQUEST, content=None), replace(REQUEST, content=replace(PERSISTED, buckets=65_536))],
    ids=["limit", "no limit", "limit and buckets"],
)
def test_a_request_is_carried_out_once(paths: Paths, request_left: DropInRequest) -> None:
    """Limit and buckets are written, or removed; the request is gone, and no other file changes."""
    before = settings(paths)
    DropInLock(paths).leave_request(request_left)
    assert main(["persist"], paths) is Exit.DONE
    found, content = SysctlDropIn(paths).persisted(), request_left.content
    wanted = None if content is None else (content.limit, content.buckets)
    assert (found and (found.limit, found.buckets)) == wanted
    assert (answer(paths), paths.drop_in_request.exists()) == ("", False)
    after = settings(paths)
    name = paths.drop_in.name
    assert {**after, name: ""} == {**before, name: ""}
    assert main(["persist"], paths) is Exit.DONE
    assert settings(paths) == after


def test_the_file_has_settings_of_two_keys_and_comments(paths: Paths) -> None:
    """The comments come from the numbers."""
    DropInLock(paths).leave_request(replace(REQUEST, content=replace(PERSISTED, buckets=512)))
    main(["persist"], paths)
    lines = paths.drop_in.read_text().splitlines()
    assert lines[-2:] == ["net.netfilter.nf_conntrack_buckets = 512", "net.netfilter.nf_conntrack_max = 98304"]
    assert {line[:1] for line in lines[:-2]} == {"#"}
    assert "# When: 1970-01-01T00:00:01.000Z   Decision: `guard show 5a2b-1-2-3`" in lines
    assert "# Why: the limit was raised from 65,536 to 98,304." in lines


def test_an_older_request_is_void(paths: Paths) -> None:
    """A newer decision has the file."""
    SysctlDropIn(paths).override(None, 101e-6)
    DropInLock(paths).leave_request(REQUEST)
    assert main(["persist"], paths) is Exit.DONE
    assert SysctlDropIn(paths).limit() is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "no object"),
        ('{"content": NaN}', "NaN is no number"),
        ("[" * 4000, ""),  # the reason depends on the version of Python
        ("9" * 4097, "larger than 4 KiB"),
        ("9" * 10_000_000, "larger than 4 KiB"),
        ({}, "no boot_id"),
        ({"boot_id": BOOT, "decided_us": 100}, "no content"),
        ({**REQUEST.document(), "boot_id": "another"}, "it is of another boot"),
        ({**REQUEST.document(), "boot_id": None}, "it is of another boot"),
        ({**REQUEST.document(), "decided_us": -1}, "decided_us is -1, expected a whole number from 0 to"),
        ({**REQUEST.document(), "decided_us": "1"}, "decided_us is '1', expected"),
        ({**REQUEST.document(), "lower_than": 1 << 32}, "lower_than is 4294967296, expected"),
        ({**REQUEST.document(), "content": "a"}, "expected an object, found 'a'"),
        ({**REQUEST.document(), "kernel.core_pattern": "|"}, "unknown key 'kernel.core_pattern'"),
        (changed(**{"kernel.core_pattern": "|"}), "unknown key 'kernel.core_pattern'"),
        (changed(**{PLANTED: 1}), r"unknown key '\nkernel.core_pattern"),
        (changed(limit=0), "limit is 0, expected a whole number from 1 to 2147483647"),
        (changed(limit=2**31), "limit is 2147483648, expected"),
        (changed(limit=True), "limit is True, expected"),
        (changed(limit=98_304.0), "limit is 98304.0, expected"),
        (changed(limit=None), "limit is None, expected"),
        (changed(limit=f"98304{PLANTED}"), r"limit is '98304\nkernel.core_pattern"),
        (changed(limit_before=-1), "limit_before is -1, expected"),
        (changed(buckets=0), "buckets is 0, expected"),
        (changed(buckets=2**29 + 1), "buckets is 536870913, expected"),
        (changed(wall_seconds=10**12), "wall_seconds is 1000000000000, expected"),
        (changed(budget_bytes=2**61), "budget_bytes is 2305843009213693952, expected"),
        (changed(decision=""), "decision is '', which is no key"),
        (changed(decision="a" * 65), "which is no key"),
        (changed(decision=f"1{PLANTED}"), r"decision is '1\nkernel.core_pattern"),
        (changed(decision="1\n"), r"decision is '1\n', which is no key"),
        (changed(decision="\u202e"), "which is no key"),
    ],
)
def test_a_request_with_anything_else_is_refused(
    paths: Paths, capsys: pytest.CaptureFixture[str], document: Any, reason: str
) -> None:
    """Nothing is written; one line names the fault, the daemon finds it too, and the request is gone."""
    before = settings(paths)
    leave(paths, document)
    assert main(["persist"], paths) is Exit.NO
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"guard: Can't carry out {paths.drop_in_request}: ")
    assert reason in line
    assert line.isprintable()
    assert line == f"guard: {answer(paths)}"
    assert settings(paths) == before
    assert not paths.drop_in_request.exists()


def link(path: Path) -> None:
    """Have a link lead out of the folder."""
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("put", "reason"),
    [(os.mkfifo, "not a regular file"), (os.mkdir, "not a regular file"), (link, "a symbolic link")],
    ids=["FIFO", "folder", "link"],
)
def test_no_file_is_refused(
    paths: Paths, capsys: pytest.CaptureFixture[str], put: Callable[[Path], None], reason: str
) -> None:
    """It neither blocks nor is it followed, and the path unit does not find it again."""
    before = settings(paths)
    put(paths.drop_in_request)
    assert main(["persist"], paths) is Exit.NO
    assert reason in capsys.readouterr().err
    assert settings(paths) == before
    assert not paths.drop_in_request.exists()


@pytest.mark.parametrize("put", [os.mkfifo, link], ids=["FIFO", "link"])
def test_the_lock_is_a_regular_file(paths: Paths, put: Callable[[Path], None]) -> None:
    """Root writes to it, also in `guard revert`: a daemon that was taken over must not choose where."""
    before = settings(paths)
    paths.drop_in_lock.unlink()
    put(paths.drop_in_lock)
    DropInLock(paths).leave_request(REQUEST)
    assert main(["persist"], paths) is Exit.NO
    assert f"Can't lock {paths.drop_in_lock}" in answer(paths)
    assert settings(paths) == before


def test_an_override_plants_nothing_either(paths: Paths) -> None:
    """It is read by the next writer: `guard revert`, which is root without a sandbox."""
    for document in (changed(decision=f"1{PLANTED}"), changed(why=PLANTED)):
        paths.drop_in_override.write_text(json.dumps(document))
        SysctlDropIn(paths).follow_override()
        assert "core_pattern" not in "".join(settings(paths).values())


def test_a_request_that_can_not_be_taken_stays(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is another one: systemd starts the service again later, not at once."""
    DropInLock(paths).leave_request(REQUEST)

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        assert main(["persist"], paths) is Exit.FAILED
    assert paths.drop_in_request.exists()
    assert main(["persist"], paths) is Exit.DONE


def test_a_write_that_fails_is_answered(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon learns the system's reason."""
    paths.drop_in.unlink()
    paths.drop_in.mkdir()
    DropInLock(paths).leave_request(REQUEST)
    assert main(["persist"], paths) is Exit.NO
    assert "Is a directory" in answer(paths)
    assert capsys.readouterr().err == f"guard: {answer(paths)}\n"

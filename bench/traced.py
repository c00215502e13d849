"""Run the guard and record which of its functions Python enters from reading a message to writing the limit.

Arguments: the checkout, the file for the results, then those of `guard`. Each write of the limit appends one JSON list of
[module, function, whether another module called it] to the file, in the order of first entry, the reader first.
A comprehension is part of its function.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from types import FrameType

_RING_BUFFER = os.makedev(1, 11)
_MESSAGE = b"table full"
_LIMIT = "/nf_conntrack_max"
_package, _results = f"{sys.argv[1]}/conntrackd_guard/", sys.argv[2]
_read, _write, _pwrite = os.read, os.write, os.pwrite
_entered: dict[tuple[str, str], bool] = {}


def _profile(frame: FrameType, event: str, _argument: object) -> None:
    if event == "call" and (module := _module(frame)):
        name = frame.f_code.co_qualname.split(".<locals>.<")[0]
        _entered[module, name] = _entered.get((module, name), False) or _calling_module(frame) != module


def _calling_module(frame: FrameType) -> str:
    caller = frame.f_back
    while caller is not None and not _module(caller):
        caller = caller.f_back
    return "" if caller is None else _module(caller)


def _module(frame: FrameType) -> str:
    """Return the path inside the package, an empty one for code from elsewhere."""
    path = frame.f_code.co_filename
    return path.removeprefix(_package) if path.startswith(_package) else ""


def _reading(descriptor: int, length: int, /) -> bytes:
    content = _read(descriptor, length)
    if _MESSAGE in content and os.fstat(descriptor).st_rdev == _RING_BUFFER:
        _entered.clear()  # a message before it did not lead to a write
        _profile(sys._getframe(1), "call", None)  # noqa: SLF001  the reader was entered before
        sys.setprofile(_profile)
    return content


def _finish_if_limit(descriptor: int) -> None:
    if sys.getprofile() is not None and os.readlink(f"/proc/self/fd/{descriptor}").endswith(_LIMIT):
        sys.setprofile(None)
        with Path(_results).open("a", encoding="utf-8") as results:
            results.write(json.dumps([[*name, crossed] for name, crossed in _entered.items()]) + "\n")


def _writing(descriptor: int, content: bytes, /) -> int:
    _finish_if_limit(descriptor)
    return _write(descriptor, content)


def _pwriting(descriptor: int, content: bytes, offset: int, /) -> int:
    _finish_if_limit(descriptor)
    return _pwrite(descriptor, content, offset)


if __name__ == "__main__":
    os.read, os.write, os.pwrite = _reading, _writing, _pwriting
    sys.argv = ["guard", *sys.argv[3:]]
    runpy.run_module("conntrackd_guard", run_name="__main__", alter_sys=True)

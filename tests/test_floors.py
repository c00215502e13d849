"""The floors of ARCHITECTURE.md, read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "conntrackd_guard"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE
GROUND = {"model", "codec", "units", "errors", "timespec", "identity", "setting_keys", "setting_kinds"}
FLOOR_3 = {
    "daemon", "decider", "observer", "applier", "recorder", "keeper", "persister", "scribe", "question", "recovery",
    "orders", "status", "intake", "notify", "doctor", "readings", "live_status", "standing", "exporter",
    "sampler", "portrayer", "gatherer", "floods", "flood_sample",
}  # fmt: skip
OUTSIDE = {
    "asyncio", "ctypes", "fcntl", "io", "locale", "logging", "os", "pathlib", "platform", "random", "rich", "secrets",
    "select", "shutil", "signal", "socket", "sqlite3", "structlog", "subprocess", "sys", "systemd", "tempfile",
    "threading", "time", "yaml",
}  # fmt: skip
"""What reads a clock, a file, a random number or the process: never in core."""
OUTSIDE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint"}
NOW_CALLS = {"now", "today", "utcnow"}
"""Of datetime: the clock by another name."""


def floor(module: str) -> int:
    """Return the floor of a module named from the package down; a module that no rule names has none."""
    match module.split("."):
        case [""] | ["lean"] | ["core"]:
            return 0  # the version; what is not to be imported at all; a docstring
        case ["core", name]:
            return 0 if name in GROUND else 1
        case ["cli" | "__main__", *_]:
            return 4
        case [name] if name in FLOOR_3:
            return 3
        case [name, *_] if name in {"host", "views", "history"} or name.startswith("history_"):
            return 2
        case _:
            raise AssertionError(f"{module} stands on no floor: name it in ARCHITECTURE.md and here")


def modules() -> list[str]:
    """Return every module, named from the package down."""
    files = (path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))
    return sorted(".".join(part for part in path.parts if part != "__init__") for path in files)


def tree(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    path = ROOT.joinpath(*filter(None, module.split(".")))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Yield the full name of everything imported, inside functions too; `from a import b` gives a.b where b is one."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            source = node.module or ""
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full.removeprefix(f"{PACKAGE}.") in modules() else source


@pytest.mark.parametrize("module", modules())
def test_imports_come_from_below(module: str) -> None:
    """No module imports from a floor above its own."""
    here = floor(module)
    for imported in imports(module):
        if imported == PACKAGE or imported.startswith(f"{PACKAGE}."):
            there = imported.removeprefix(PACKAGE).removeprefix(".")
            assert floor(there) <= here, f"{module} (floor {here}) imports {there} (floor {floor(there)})"


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("core")])
def test_core_touches_nothing_outside(module: str) -> None:
    """Core has no clock, no file and no log: neither by import nor by a builtin."""
    assert not OUTSIDE & {imported.split(".")[0] for imported in imports(module)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id in OUTSIDE_CALLS), f"{module}:{node.lineno}"
            assert not (isinstance(called, ast.Attribute) and called.attr in NOW_CALLS), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [name for name in modules() if floor(name) < 4])
def test_only_the_command_line_exits(module: str) -> None:
    """Below `cli` nothing ends the process."""
    ends = {"SystemExit", "sys.exit", "os._exit"}
    used = {ast.unparse(node) for node in ast.walk(tree(module)) if isinstance(node, ast.Name | ast.Attribute)}
    assert not ends & used

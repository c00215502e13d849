"""What import-linter can't see: core calls nothing outside, and only the command line ends the process."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "conntrackd_guard"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE
OUTSIDE = {
    "asyncio", "ctypes", "fcntl", "io", "locale", "logging", "os", "pathlib", "platform", "random", "rich", "secrets",
    "select", "shutil", "signal", "socket", "sqlite3", "structlog", "subprocess", "sys", "systemd", "tempfile",
    "threading", "time", "yaml",
}  # fmt: skip
"""What reads a clock, a file, a random number or the process: never in core."""
OUTSIDE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint"}
NOW_CALLS = {"now", "today", "utcnow"}
"""Of datetime: the clock by another name."""


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


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("core")])
def test_core_touches_nothing_outside(module: str) -> None:
    """Core has no clock, no file and no log: neither by import nor by a builtin."""
    assert not OUTSIDE & {imported.split(".")[0] for imported in imports(module)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id in OUTSIDE_CALLS), f"{module}:{node.lineno}"
            assert not (isinstance(called, ast.Attribute) and called.attr in NOW_CALLS), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith(("cli", "__main__"))])
def test_only_the_command_line_exits(module: str) -> None:
    """Below `cli` nothing ends the process."""
    ends = {"SystemExit", "sys.exit", "os._exit"}
    used = {ast.unparse(node) for node in ast.walk(tree(module)) if isinstance(node, ast.Name | ast.Attribute)}
    assert not ends & used

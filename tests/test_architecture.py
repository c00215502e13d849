"""The rules that import-linter (pyproject.toml) can't check: calls, not imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "conntrackd_guard"
IMPURE = {"open", "print", "input", "exec", "eval", "breakpoint"}
CLOCKS = (".now", ".today", ".utcnow")
EXITS = {"SystemExit", "sys.exit", "os._exit"}


def names(path: Path, *kinds: type[ast.expr]) -> set[str]:
    """Return every name and dotted name in a module; with ast.Call, the names it calls only."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds))
    return {ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in nodes}


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=str)
def test_core_opens_nothing_and_reads_no_clock(path: Path) -> None:
    """Core gets files and time as arguments."""
    called = names(path, ast.Call)
    assert not [name for name in called if name in IMPURE or name.endswith(CLOCKS)]


@pytest.mark.parametrize("path", sorted({*PACKAGE.rglob("*.py")} - {*(PACKAGE / "cli").rglob("*.py")}), ids=str)
def test_only_the_command_line_exits(path: Path) -> None:
    """Below `cli` nothing ends the process."""
    assert path.name == "__main__.py" or not EXITS & names(path, ast.Name, ast.Attribute)

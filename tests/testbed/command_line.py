"""The commands, options and exit codes of the program, read from the program itself."""

from __future__ import annotations

import argparse
import ast
import inspect

from conntrackd_guard.cli import exits
from conntrackd_guard.cli.arguments import parser
from conntrackd_guard.cli.exits import Exit

TOP = ""
"""The name of `guard` itself among its commands."""


def commands() -> dict[str, set[str]]:
    """Return the long options of every command, without --help: `""`, `run`, ... `config check`."""
    found: dict[str, set[str]] = {}

    def walk(name: str, command: argparse.ArgumentParser) -> None:
        found[name] = set()
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, child in action.choices.items():
                    walk(f"{name} {word}".strip(), child)
            elif "--help" not in action.option_strings:
                found[name] |= {option for option in action.option_strings if option.startswith("--")}

    walk(TOP, parser())
    return found


def exit_texts() -> dict[Exit, str]:
    """Return what each exit code means: the line under it in its module."""
    (enum,) = [node for node in ast.parse(inspect.getsource(exits)).body if isinstance(node, ast.ClassDef)]
    texts = {}
    for member, text in zip(enum.body[1::2], enum.body[2::2], strict=True):
        assert isinstance(member, ast.Assign)
        assert isinstance(text, ast.Expr)
        texts[Exit(ast.literal_eval(member.value))] = str(ast.literal_eval(text.value))
    assert texts.keys() == set(Exit)
    return texts

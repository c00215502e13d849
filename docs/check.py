"""Check what neither Sphinx nor cog can: paths, links outside docs/, commands and settings to paste, names that are missing."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from conntrackd_guard.cli.arguments import parser
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import entries
from conntrackd_guard.settings.keys import KEYS
from conntrackd_guard.settings.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")])
FOLDERS = "bench|config|conntrackd_guard|debian|deploy|docs|scripts|share|stubs|systemd|tests"
_PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*|[A-Z][A-Z_]+\.md|pyproject\.toml|Makefile)(?:::?\w+)?`")
_NAME_IN = re.compile(r"`(\w+)`\s+in\s+`([\w/]+\.py)`")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#([\w-]+))?\)")
_BLOCK = re.compile(r"(?ms)^```(sh|yaml)\n(.*?)^```")
_COMMAND_END = re.compile(r"\s(?:&&|[|;>])\s")
_HEADING = re.compile(r"(?m)^#+ (.+)$")


def main() -> int:
    """Print every problem; 1 if there is one."""
    problems = [problem for page in PAGES for problem in _page(page)]
    files = (ROOT / "docs/reference/files.md").read_text("utf-8")
    problems += [f"docs/reference/files.md: {path} is missing" for path in _host_paths() if f"`{path}" not in files]
    keys = (ROOT / "docs/reference/guard.yaml.5.md").read_text("utf-8")
    problems += [
        f"docs/reference/guard.yaml.5.md: {key.name} is missing" for key in KEYS if f"\n`{key.name}: " not in keys
    ]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return int(bool(problems))


def _page(page: Path) -> list[str]:
    text, name = page.read_text("utf-8"), page.relative_to(ROOT)
    problems = [f"{name}: {path} does not exist" for path in _PATH.findall(text) if not (ROOT / path).exists()]
    for word, path in _NAME_IN.findall(text):
        code = (ROOT / path).read_text("utf-8") if (ROOT / path).exists() else ""
        if not re.search(rf"(?m)^(class |def |){word}\b", code):
            problems.append(f"{name}: {word} is not in {path}")
    for link, anchor in _LINK.findall(text):
        target = page.parent / link
        if not target.exists():
            problems.append(f"{name}: link to {link}, which does not exist")
        elif anchor and target.suffix == ".md" and anchor not in _anchors(target):
            problems.append(f"{name}: link to {link}#{anchor}, which does not exist")
    for kind, block in _BLOCK.findall(text):
        problems += [f"{name}: {problem}" for problem in (_commands(block) if kind == "sh" else _settings(block))]
    return problems


def _commands(block: str) -> list[str]:
    """Return the commands in a block that can't be pasted: unknown arguments of `guard`, scripts that are not there."""
    problems = []
    for line in block.replace("\\\n", "").splitlines():
        for call in _COMMAND_END.split(line):
            words = shlex.split(call, comments=True)
            words = words[words[:1] == ["sudo"] :]
            if words[:1] == ["kubectl"] and "--" in words:
                words = words[words.index("--") + 1 :]
            if words[:1] in (["guard"], ["conntrackd-guard"]) and not _understood(words[1:]):
                problems.append(f"not understood: {call}")
            if words and words[0].startswith("scripts/") and not (ROOT / words[0]).exists():
                problems.append(f"{words[0]} does not exist")
    return problems


def _understood(words: list[str]) -> bool:
    try:
        with redirect_stderr(StringIO()):
            parser().parse_args(words)
    except (SystemExit, argparse.ArgumentError):
        return False
    return True


def _settings(block: str) -> list[str]:
    """Return what is wrong with the settings of a block; one that sets a key twice shows alternatives."""
    keys = [line.partition(":")[0] for line in block.splitlines() if ":" in line]
    parts = block.splitlines(keepends=True) if len(set(keys)) < len(keys) else [block]
    problems = []
    for part in parts:
        try:
            read_settings(entries(part.encode(), "settings"))
        except SettingsError as error:
            problems.append(str(error))
    return problems


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and MyST make of a page's headings."""
    headings = _HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _host_paths() -> list[str]:
    """Return every path of the guard's own on a host."""
    paths = (value for value in vars(Paths()).values() if isinstance(value, Path))
    return [str(path) for path in paths if re.match(r"/(etc|run|var/lib)/(conntrackd-guard|sysctl\.d)/", str(path))]


if __name__ == "__main__":
    sys.exit(main())

"""Check what Sphinx can't: repository paths in backticks, links outside docs/, and that every setting is documented."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.keys import KEYS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")])
FOLDERS = "bench|config|conntrackd_guard|debian|docs|scripts|share|stubs|systemd|tests"
_PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*|[A-Z][A-Z_]+\.md|pyproject\.toml|Makefile)(?:::?\w+)?`")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#([\w-]+))?\)")
_HEADING = re.compile(r"(?m)^#+ (.+)$")


def main() -> int:
    """Print every problem; 1 if there is one."""
    problems = [problem for page in PAGES for problem in _page(page)]
    files = (ROOT / "docs/reference/files.md").read_text("utf-8")
    problems += [f"docs/reference/files.md: {path} is missing" for path in _host_paths() if f"`{path}`" not in files]
    keys = (ROOT / "docs/reference/guard.yaml.5.md").read_text("utf-8")
    problems += [
        f"docs/reference/guard.yaml.5.md: {key.name} is missing" for key in KEYS if f"\n`{key.name}: " not in keys
    ]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return int(bool(problems))


def _page(page: Path) -> list[str]:
    text, name = page.read_text("utf-8"), page.relative_to(ROOT)
    problems = [f"{name}: {path} does not exist" for path in _PATH.findall(text) if not (ROOT / path).exists()]
    for link, anchor in _LINK.findall(text):
        target = page.parent / link
        if not target.exists():
            problems.append(f"{name}: link to {link}, which does not exist")
        elif anchor and target.suffix == ".md" and anchor not in _anchors(target):
            problems.append(f"{name}: link to {link}#{anchor}, which does not exist")
    return problems


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and MyST make of a page's headings."""
    headings = _HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _host_paths() -> list[str]:
    """Return every path that the guard reads settings from or writes."""
    paths = Paths()
    plain = (paths.settings_file, paths.settings_folder / "*.yaml", paths.fleet_pause, paths.drop_in, paths.history)
    run = (paths.lock, paths.pause, paths.status_file)
    folders = (f"{paths.intents}/", f"{paths.orders}/", f"{paths.notices}/")
    return [*map(str, plain), *map(str, run), *folders]


if __name__ == "__main__":
    sys.exit(main())

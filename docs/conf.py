"""Sphinx settings: HTML with furo, and the man pages guard(8) and guard.yaml(5), from the same Markdown."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1] / "conntrackd_guard/__init__.py"

project = "conntrackd-guard"
author = "The conntrackd-guard authors"
copyright = author  # noqa: A001 - Sphinx's name for it
release = version = re.findall(r'__version__ = "(.+)"', _PACKAGE.read_text("utf-8"))[0]

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path: list[str] = []

man_make_section_directory = False
man_pages = [
    ("reference/guard.8", "guard", "raise nf_conntrack_max within a memory budget", "", 8),
    ("reference/guard.yaml.5", "guard.yaml", "settings of conntrackd-guard", "", 5),
]

"""Metrics as their readers see them: a strict parser of the text format, and promtool."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

EXTRACTED = Path(__file__).resolve().parents[2] / ".cache/promtool/usr/bin/promtool"
"""Where `scripts/test` puts it."""

Sample = tuple[str, dict[str, str], float]
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\n"])*)"(,|$)')
_SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


@dataclass(slots=True)
class ParsedFamily:
    """A family as a reader sees it."""

    name: str
    documentation: str
    type: str = ""
    samples: list[Sample] = field(default_factory=list)


def parsed(document: str) -> list[ParsedFamily]:
    """Return the families of a document in the text format 0.0.4. Raises AssertionError for anything else."""
    families: list[ParsedFamily] = []
    assert not document or document.endswith("\n")
    for row in document.split("\n")[:-1]:
        if row.startswith("# HELP "):
            name, documentation = row.removeprefix("# HELP ").split(" ", 1)
            families.append(ParsedFamily(name, documentation))
        elif row.startswith("# TYPE "):
            name, families[-1].type = row.removeprefix("# TYPE ").split(" ")
            assert name == families[-1].name
        else:
            match = _SAMPLE.fullmatch(row)
            assert match, row
            assert match[1] == families[-1].name
            families[-1].samples.append((match[1], _labels(match[2] or ""), float(match[3])))
    return families


def _labels(text: str) -> dict[str, str]:
    found, at = {}, 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match, text
        found[match[1]] = re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], match[2])
        at = match.end()
    return found


def samples(document: str) -> list[Sample]:
    """Return all samples of a document."""
    return [sample for family in parsed(document) for sample in family.samples]


def promtool() -> str:
    """Return the path of the installed one, or of the one that `scripts/test` extracted from its package.

    Without either the calling test is skipped; in CI it fails.
    """
    found = shutil.which("promtool") or (str(EXTRACTED) if EXTRACTED.exists() else None)
    if found is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("needs promtool: run scripts/test, or install Debian's (12: in prometheus)")
    return found

"""Metrics as their readers see them: the official client's parser, and promtool."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

TAKEN_OUT = Path(__file__).resolve().parents[2] / ".cache/promtool/usr/bin/promtool"
"""Where `scripts/test` puts it."""

Sample = tuple[str, dict[str, str], float]


def parsed(document: str, parser: str = "prometheus_client.parser") -> Iterator[Any]:
    """Yield the families of a document as the official client reads it."""
    yield from import_module(parser).text_string_to_metric_families(document)


def samples(document: str, parser: str = "prometheus_client.parser") -> list[Sample]:
    """Return all samples of a document."""
    return [(s.name, s.labels, s.value) for metric in parsed(document, parser) for s in metric.samples]


def promtool() -> str:
    """Return the path of the installed one, or of the one that `scripts/test` took out of its package."""
    found = shutil.which("promtool") or (str(TAKEN_OUT) if TAKEN_OUT.exists() else None)
    assert found, "no promtool: run scripts/test, or install Debian's (12: in prometheus)"
    return found

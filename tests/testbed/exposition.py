"""Read metrics with the official client's parser, and find promtool."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

EXTRACTED = Path(__file__).resolve().parents[2] / ".cache/promtool/usr/bin/promtool"
"""Where `scripts/test` puts it."""

Sample = tuple[str, dict[str, str], float]


def parsed(document: str, parser: str = "prometheus_client.parser") -> Iterator[Any]:
    """Yield the families of a document as the official client reads it."""
    yield from import_module(parser).text_string_to_metric_families(document)


def samples(document: str, parser: str = "prometheus_client.parser") -> list[Sample]:
    """Return all samples of a document."""
    return [(s.name, s.labels, s.value) for metric in parsed(document, parser) for s in metric.samples]


def promtool() -> str:
    """Return the path of the installed one, or of the one that `scripts/test` extracted from its package.

    Without either the calling test is skipped; in CI it fails.
    """
    found = shutil.which("promtool") or (str(EXTRACTED) if EXTRACTED.exists() else None)
    if found is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("needs promtool: run scripts/test, or install Debian's (12: in prometheus)")
    return found

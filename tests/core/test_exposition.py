"""The exposition text, as a strict parser and promtool read it."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.exposition import parsed, promtool
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.metrics import Family, exposition, families
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.text import printable

HOSTILE = ['a"b', "back\\slash", "\\n", 'x="1"} 5', "new\nline", "\r\x1b[2J", "\u202e", "ü😀", "# HELP", "{}", ""]


def read(document: str) -> list[tuple[str, str, str, list[tuple[dict[str, str], float]]]]:
    """Return the families of a document in order."""
    return [(f.name, f.type, f.documentation, [sample[1:] for sample in f.samples]) for f in parsed(document)]


def meant(whole: tuple[Family, ...]) -> list[tuple[str, str, str, list[tuple[dict[str, str], float]]]]:
    """Return the same, from the families themselves."""
    return [
        (f.name, f.kind.value, f.text, [(dict(zip(f.labels, values, strict=True)), n) for values, n in f.samples])
        for f in whole
    ]


def named(label: str) -> tuple[Family, ...]:
    """Return the metrics of a host with a namespace of that name."""
    return families(figures(seen(*tables(3), Table(namespace=9, label=printable(label), count=5, drop=2))))


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_names_are_read_back(label: str) -> None:
    """Help, kind, labels and figures of every family survive; no namespace's name forges a series."""
    assert read(exposition(named(label))) == meant(named(label))


@given(st.text(max_size=120))
def test_any_name_is_read_back(label: str) -> None:
    """A namespace may have any name."""
    assert read(exposition(named(label))) == meant(named(label))


@given(st.floats(0, 1e18))
def test_any_figure_is_read_back(figure: float) -> None:
    """Figures keep their last digit."""
    whole = tuple(
        replace(family, samples=((values, figure),)) for family in named("x") for values, _ in family.samples[:1]
    )
    assert [sample for _, _, _, samples in read(exposition(whole)) for _, sample in samples] == [figure] * len(whole)


@pytest.mark.parametrize("label", ["web", *HOSTILE])
def test_promtool_finds_no_fault(label: str) -> None:
    """Promtool accepts names, units, help and escapes."""
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=exposition(named(label)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

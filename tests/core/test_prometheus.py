"""The text, judged by those who read it: the official client's parser, and promtool."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.exposition import parsed, promtool
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.metrics import Family, families
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.prometheus import text
from conntrackd_guard.core.text import printable

HOSTILE = ['a"b', "back\\slash", "\\n", 'x="1"} 5', "new\nline", "\r\x1b[2J", "\u202e", "ü😀", "# HELP", "{}", ""]


def read(document: str) -> list[tuple[str, str, str, list[tuple[dict[str, str], float]]]]:
    """Return what the official parser makes of a document, families in order."""
    found = []
    for metric in parsed(document):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert {sample.name for sample in metric.samples} == {name}
        found.append((name, metric.type, metric.documentation, [(s.labels, s.value) for s in metric.samples]))
    return found


def meant(whole: tuple[Family, ...]) -> list[tuple[str, str, str, list[tuple[dict[str, str], float]]]]:
    """Return the same from the families."""
    return [
        (f.name, f.kind.value, f.text, [(dict(zip(f.labels, values, strict=True)), n) for values, n in f.samples])
        for f in whole
    ]


def named(label: str) -> tuple[Family, ...]:
    """Return what is told of a host with a namespace of that name."""
    return families(figures(seen(*tables(3), Table(namespace=9, label=printable(label), count=5, drop=2))))


@pytest.mark.parametrize("label", HOSTILE)
def test_the_official_parser_reads_what_was_meant(label: str) -> None:
    """Every family, its help, kind and labels, and every figure; no name of a namespace forges a series."""
    assert read(text(named(label))) == meant(named(label))


@given(st.text(max_size=120))
def test_any_name_is_read_as_it_is(label: str) -> None:
    """Whatever a namespace is called."""
    assert read(text(named(label))) == meant(named(label))


@given(st.floats(0, 1e18))
def test_any_figure_is_read_as_it_is(figure: float) -> None:
    """To the last digit."""
    whole = tuple(
        replace(family, samples=((values, figure),)) for family in named("x") for values, _ in family.samples[:1]
    )
    assert [sample for _, _, _, samples in read(text(whole)) for _, sample in samples] == [figure] * len(whole)


def test_promtool_finds_no_fault() -> None:
    """Names, units and help are as Prometheus wants them."""
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=text(named("web")), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Samples as Prometheus reads them: text format 0.0.4, as in a file for node_exporter."""

from __future__ import annotations

from collections.abc import Iterable

from conntrackd_guard.core.metrics import Family


def text(families: Iterable[Family]) -> str:
    """Return the families as one document. Names and kinds are ours; values of labels may be anybody's."""
    return "".join(line + "\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {family.text}"
    yield f"# TYPE {family.name} {family.kind}"
    for values, figure in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, values, strict=True))
        yield f"{family.name}{f'{{{labels}}}' if labels else ''} {figure!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

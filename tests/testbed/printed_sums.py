"""Work out the equations and comparisons of a printed calculation again, from their text alone."""

from __future__ import annotations

import math
import re

_WORDS = re.compile(
    r" full tables?(?= ×)| for the others| entries| huge pages| buckets| of ZFS' cache above its minimum"
    r"| \(-?[\d.,]+ [KMGTPE]?i?B\)"
    r"|^(as set|saved for this boot|in force|min_limit)(?= = )"
)
_COMPARED = re.compile(r"([✓✗]) (.+) ([≤>]) (.+)")
_NAME = re.compile(r"[a-z_' ]+(?=-?[\d,]+$)")
_EXACT = 1e-9
"""Relative: percentages are printed with ten digits."""


def false_lines(lines: list[tuple[str, str]]) -> list[str]:
    """Return the lines that state an equation or a comparison which is not true."""
    return [f"{name}: {text}" for name, text in lines if not _is_true(text)]


def statements(lines: list[tuple[str, str]]) -> int:
    """Return how many lines state something that can be worked out."""
    return sum(" = " in text or text.startswith(("✓ ", "✗ ")) for _, text in lines)


def _is_true(text: str) -> bool:
    if compared := _COMPARED.fullmatch(text):
        mark, figure, sign, most = compared.groups()
        is_within = _value(_NAME.sub("", figure)) <= _value(_NAME.sub("", most))
        return (mark, sign) == (("✓", "≤") if is_within else ("✗", ">"))
    if " = " not in text:
        return True
    left, right = _WORDS.sub("", re.sub(", [0-9,]+ of them already in memory", "", text)).split(" = ")
    result = float(right.replace(",", ""))
    if not left:
        return True
    for rule in (_largest, _larger, _plain):
        if (worked := rule(left)) is not None:
            shown = 0.005 if "." in right else 1  # rounded to two places, or down to a whole
            return abs(worked - result) <= shown + _EXACT * abs(result)
    raise AssertionError(f"not understood: {text}")


def _largest(text: str) -> float | None:
    pattern = r"the largest of (.*?); (.*?); (?:(.*) \(at most (.*)\); )?(.*), up to the next whole"
    match = re.fullmatch(pattern, text)
    if match is None:
        return None
    first, second, demand, most, last = (_value(term or "0") for term in match.groups())
    return max(math.ceil(first), second, min(math.ceil(demand), most), math.floor(last) + 1)


def _larger(text: str) -> float | None:
    match = re.fullmatch(r"the larger of (.*) and min\((\d+) MiB, (.*)\)", text)
    return match and max(_value(match[1]), min(int(match[2]) << 20, _value(match[3])))


def _plain(text: str) -> float | None:
    return _value(text) if re.fullmatch(r"(?:[-\d,.%×÷+−() ]|e-\d\d%)+", text) else None


def _value(text: str) -> float:
    text = text.replace("/s", "").removesuffix(" s")
    text = re.sub(r"([\d.]+(?:e-\d\d)?)%", r"(\1/100)", text.replace(",", ""))
    return float(eval(text.replace("×", "*").replace("÷", "/").replace("−", "-")))  # noqa: S307 - digits and operators

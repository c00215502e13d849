"""Texts as a damaged, foreign or hostile file may have them, made from a healthy one."""

from __future__ import annotations

import re

from hypothesis import settings

_NUMBER = re.compile(rb"[0-9]+")
_ROWS_DAMAGED = 8
"""Of a longer file, one at a time: the first ones, where the figures are."""


def mutations(text: bytes) -> dict[str, bytes]:
    """Return the mutations of a text by name; each differs from it."""
    rows = text.splitlines(keepends=True)
    middle = len(rows) // 2
    found = {
        "empty": b"",
        "a blank row alone": b"\n",
        "blanks alone": b" \t \n",
        "a blank row first": b"\n" + text,
        "a blank row in the middle": b"".join([*rows[:middle], b" \n", *rows[middle:]]),
        "a blank row last": text + b"\n",
        "cut in half": text[: len(text) // 2],
        "cut by two characters": text[:-2],
        "without the last newline": text.rstrip(b"\n"),
        "doubled": text + text,
        "each number doubled": _NUMBER.sub(rb"\g<0>\g<0>", text),
        "huge": _NUMBER.sub(b"9" * 40, text),
        "longer than int() takes": _NUMBER.sub(b"9" * 5000, text),
        "beyond 32 bits": _NUMBER.sub(b"18446744073709551615", text),
        "negative": _NUMBER.sub(rb"-\g<0>", text),
        "with underscores": _NUMBER.sub(rb"1_\g<0>", text),
        "no numbers": _NUMBER.sub(b"x?", text),
        "other digits": _NUMBER.sub("٣".encode(), text),
        "not UTF-8": b"\xff\xfe" + text,
        "bytes that are no text": bytes(range(256)) * 4,
        "with NULs": text.replace(b" ", b"\0").replace(b"\n", b"\0\n"),
        "a header row": b"        total:    used:    free:\nMem:  260579328 136073216\n" + text,
        "other ends of rows": text.replace(b"\n", b"\r\n"),
        "deeply nested": b"[" * 100_000,
        "another kind of JSON": b"[1]\n",
        "JSON without its keys": b"{}\n",
        "large": text + (b"x" * 999 + b"\n") * 2000,
    }
    for number, row in enumerate(rows[:_ROWS_DAMAGED]):
        rest = rows[:number], rows[number + 1 :]
        found[f"without row {number}"] = b"".join([*rest[0], *rest[1]])
        found[f"row {number} cut short"] = b"".join(
            [*rest[0], row.split()[0] + b"\n" if row.split() else b"", *rest[1]]
        )
        found[f"row {number} doubled"] = b"".join([*rest[0], row, row, *rest[1]])
    return {name: mutated for name, mutated in found.items() if mutated != text}


def some_mutations(text: bytes) -> dict[str, bytes]:
    """Return all mutations of a text; in the profile `quick` evenly spaced ones, about as many as a property has examples."""
    found = mutations(text)
    return {name: found[name] for name in list(found)[:: -(-len(found) // settings().max_examples)]}

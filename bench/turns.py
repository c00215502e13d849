"""Measure contenders in turns, so that other load on the machine affects each alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from bench.checkout import Checkout
from bench.contenders import Contender, elsewhere

T = TypeVar("T")


def with_others(contender: Contender, others: Sequence[Checkout]) -> list[Contender]:
    """Return the contender, and the same guard of the other checkouts."""
    rivals = others if contender.settings is not None and contender.run_by is None else ()
    return [contender, *(elsewhere(contender, checkout) for checkout in rivals)]


def in_turns(
    contenders: Sequence[Contender], trials: int, rounds: int, measure: Callable[[Contender, int], Iterable[T]]
) -> dict[str, list[T]]:
    """Return the results of `measure(contender, number)` for each contender's name: `trials` in up to `rounds` portions."""
    portions = [trials] if len(contenders) == 1 else _portions(trials, rounds)
    found: dict[str, list[T]] = {contender.name: [] for contender in contenders}
    for number in portions:
        for contender in contenders:
            found[contender.name] += measure(contender, number)
    return found


def compare(figure: float, others: Mapping[str, float]) -> str:
    """Return `figure` as multiples of those of the others, an empty text without any."""
    return ", ".join(f"{figure / theirs:.2f} × {who}" for who, theirs in others.items() if theirs)


def _portions(trials: int, rounds: int) -> list[int]:
    each, rest = divmod(trials, rounds)
    return [number for number in [each + 1] * rest + [each] * (rounds - rest) if number]

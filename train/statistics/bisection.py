"""Bisection that returns both ends, so that the caller picks the conservative one."""

from __future__ import annotations

from collections.abc import Callable


def bisect(
    is_above: Callable[[float], bool], low: float, high: float, *, tolerance: float
) -> tuple[float, float]:
    """Narrow [low, high] around the point from which `is_above` holds to at most `tolerance`.

    is_above: monotone, False at `low` and True at `high`; it is evaluated at neither.
    """
    while high - low > tolerance:
        middle = (low + high) / 2
        if is_above(middle):
            high = middle
        else:
            low = middle
    return low, high

"""Small charts within a table's cells: intervals as dots and lines, counts as bars.

They are as wide as the cell, and hidden from screen readers, which read the figures beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve.bundle.manifest import Measured
from serve.html import Html


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The range of a column of charts."""

    low: float = 0.0
    high: float = 1.0

    @classmethod
    def unit(cls, measured: Sequence[Measured | None]) -> Axis:
        """The range from 0 to 1, or its upper part if all values and intervals lie there."""
        low = min((each.low if each.low is not None else each.value for each in measured if each),
                  default=0.0)  # fmt: skip
        return cls(low=max(start for start in (0.0, 0.5, 0.8, 0.9) if start <= max(low, 0.0)))

    @classmethod
    def around(cls, values: Sequence[float]) -> Axis:
        """The range of these values, with room at both ends."""
        low, high = min(values), max(values)
        room = (high - low or 1.0) * 0.05
        return cls(low=low - room, high=high + room)

    @classmethod
    def around_zero(cls, values: Sequence[float]) -> Axis:
        """The range of these differences, as far to both sides of 0, with round ends."""
        largest = max(map(abs, values), default=0.0) or 1.0
        power = 10.0 ** math.floor(math.log10(largest))
        end = next(step * power for step in (1, 2, 3, 5, 10) if largest <= step * power * 1.0001)
        return cls(low=-end, high=end)

    def at(self, value: float) -> str:
        """Position of a value, as a percentage of the width."""
        share = (value - self.low) / (self.high - self.low)
        return f"{min(1.0, max(0.0, share)):.2%}"

    def head(self, spec: str = "g") -> Html:
        """The scale, for the head of the column."""
        middle = (self.low + self.high) / 2
        ends = "".join(f"<span>{value:{spec}}</span>" for value in (self.low, middle, self.high))
        return Html(f'<span class="scale" aria-hidden="true">{ends}</span>')


def dots(
    measured: Sequence[Measured | None], axis: Axis, *, lines: Sequence[tuple[float, str]] = ()
) -> Html:
    """Draw values as dots with their intervals, the first one filled, one below the other.

    lines: values to mark with a vertical line, each with the name of its colour.
    """
    shapes = [
        f'<line x1="{axis.at(value)}" x2="{axis.at(value)}" y1="-4" y2="115%" '
        f'style="stroke: var(--{colour}); stroke-dasharray: 3 2"/>'
        for value, colour in lines
    ]
    for number, each in enumerate(measured):
        if each is None:
            continue
        y = f"{100 * (number + 0.5) / len(measured):g}%"
        if each.low is not None and each.high is not None:
            shapes.append(
                f'<line x1="{axis.at(each.low)}" x2="{axis.at(each.high)}" y1="{y}" y2="{y}" '
                'style="stroke: var(--series); stroke-width: 2"/>'
            )
        fill = "page" if number else "series"
        shapes.append(
            f'<circle cx="{axis.at(each.value)}" cy="{y}" r="{4 if len(measured) == 1 else 3}" '
            f'style="fill: var(--{fill}); stroke: var(--series); stroke-width: 1.5"/>'
        )
    return Html(f'<svg class="dots" aria-hidden="true">{"".join(shapes)}</svg>')


def bar(value: float, largest: float) -> Html:
    """Draw a bar from 0."""
    width = Axis(high=largest or 1.0).at(value)
    return Html(
        '<svg class="bar" aria-hidden="true"><rect y="20%" height="60%" rx="2" '
        f'width="{width}" style="fill: var(--series)"/></svg>'
    )

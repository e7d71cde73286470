"""The table of `bench_defaults`: mean accuracies, and what the best method is ahead of auto."""

from __future__ import annotations

from typing import Any

import numpy as np

Results = dict[tuple[str, str, int, str], dict[str, Any]]


def print_table(results: Results) -> None:
    """Print one line per data set and number of rows, as Markdown."""
    methods = list(dict.fromkeys(method for *_, method in results))
    print("| data | rows | draws | " + " | ".join(methods) + " | best - auto, points |")
    print("| --- | ---: | ---: | " + " | ".join("---:" for _ in methods) + " | --- |")
    for name, rows in dict.fromkeys((name, rows) for name, rows, *_ in results):
        correct = {
            method: np.array(
                [
                    [int(digit) for digit in result["correct"]]
                    for (a, b, _, c), result in sorted(results.items())
                    if (a, b, c) == (name, rows, method)
                ]
            )
            for method in methods
        }
        correct = {method: found_DN for method, found_DN in correct.items() if len(found_DN)}
        cells = [cell_of(correct.get(method)) for method in methods]
        draws = max(len(found_DN) for found_DN in correct.values())
        line = [name, rows, str(draws), *cells, difference(correct)]
        print("| " + " | ".join(line) + " |")


def cell_of(correct_DN: Any | None) -> str:
    """Return the mean accuracy and its deviation over draws."""
    if correct_DN is None:
        return "-"
    accuracy_D = correct_DN.mean(axis=1)
    spread = f" ± {100 * accuracy_D.std(ddof=1):.1f}" if len(accuracy_D) > 1 else ""
    return f"{100 * accuracy_D.mean():.2f}{spread}"


def difference(correct: dict[str, Any]) -> str:
    """Return the best other method, and its paired difference to auto with a 95 % interval.

    The variance is that over test rows of the mean over draws, plus that over draws of their
    means, which counts the first in part twice: the interval is on the wide side.
    """
    if "auto" not in correct:
        return "-"
    auto_DN = correct["auto"]
    others = {k: v for k, v in correct.items() if k != "auto" and len(v) == len(auto_DN)}
    if not others:
        return "-"
    best = max(others, key=lambda method: others[method].mean())
    difference_DN = others[best].astype(float) - auto_DN
    draws, rows = difference_DN.shape
    variance = difference_DN.mean(axis=0).var(ddof=1) / rows
    if draws > 1:
        variance += difference_DN.mean(axis=1).var(ddof=1) / draws
    mean, half = 100 * difference_DN.mean(), 196 * variance**0.5
    return f"{best} {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"

"""What callers in Python give as texts, and the form in which they get their answers.

pandas, polars and NumPy arrays are told by their type's module, so that none is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.inference.scores import Array
from serve.inference.text import Text, text_problem
from serve.language.spelling import did_you_mean, shown


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts, checked, and how answers are given for them."""

    texts: list[Text]
    answer: Callable[[list[Any]], Any]
    """From one answer for each text to what `predict` returns."""
    table: Callable[[Array, list[str]], Any]
    """From probabilities and labels to what `predict_proba` returns."""


def read_texts(given: Any, columns: Sequence[str]) -> Texts:
    """Read texts, or pairs of texts for a model with two text columns.

    Raises TypeError for what holds no texts, and for a value that is none; ValueError for a text
    that cannot be classified. Messages name its position.
    """
    is_pair = len(columns) == 2
    if _is_one(given, is_pair=is_pair):
        text = _checked(given, columns)
        return Texts(
            texts=[text], answer=lambda answers: answers[0], table=lambda probs_NC, _: probs_NC[0]
        )
    library, kind = _library_of(given), type(given).__name__
    if library == "pandas" and kind in ("Series", "DataFrame", "Index"):
        return _of_pandas(given, kind, columns)
    if library == "polars" and kind in ("Series", "DataFrame"):
        return _of_polars(given, kind, columns)
    is_array = isinstance(given, np.ndarray)
    if is_array and given.ndim != 1 + is_pair:
        shape = "(N, 2), a pair a row" if is_pair else "(N,)"
        raise TypeError(f"an array of texts has the shape {shape}; this one has {given.shape}")
    if not isinstance(given, Iterable) or isinstance(given, Mapping | set | frozenset | bytes):
        raise TypeError(_wanted(given, is_pair=is_pair))
    texts = _all_checked(list(given), columns)

    def answer(answers: list[Any]) -> Any:
        return _array(answers) if is_array else answers

    return Texts(texts=texts, answer=answer, table=lambda probs_NC, _: probs_NC)


def _is_one(given: Any, *, is_pair: bool) -> bool:
    """Whether it is one text: a string, a pair of two, or a row with the model's columns."""
    if isinstance(given, str | Mapping):
        return True
    return is_pair and isinstance(given, tuple) and all(isinstance(each, str) for each in given)


def _of_pandas(given: Any, kind: str, columns: Sequence[str]) -> Texts:
    pandas = sys.modules["pandas"]
    index = None if kind == "Index" else given.index
    values = _of_columns(given, columns) if kind == "DataFrame" else given.tolist()
    return Texts(
        texts=_all_checked(values, columns, at=index),
        answer=lambda answers: pandas.Series(answers, index=index, dtype=object, name="label"),
        table=lambda probs_NC, labels: pandas.DataFrame(probs_NC, index=index, columns=labels),
    )


def _of_polars(given: Any, kind: str, columns: Sequence[str]) -> Texts:
    polars = sys.modules["polars"]
    values = _of_columns(given, columns) if kind == "DataFrame" else given.to_list()
    texts = _all_checked(values, columns)
    return Texts(
        texts=texts,
        answer=lambda answers: polars.Series("label", answers),
        table=lambda probs_NC, labels: polars.DataFrame(probs_NC, schema=labels),
    )


def _of_columns(frame: Any, columns: Sequence[str]) -> list[Any]:
    """The texts of a frame's columns; ValueError if one is missing."""
    there = list(frame.columns)
    for column in columns:
        if column not in there:
            known = ", ".join(f"`{each}`" for each in there[:20])
            hint = did_you_mean(column, map(str, there))
            raise ValueError(
                f"the frame has no column `{column}`, which the model was trained on, only "
                f"{known or 'none'}{hint}; rename the column of the text, or give that column alone"
            )
    values = [list(frame[column]) for column in columns]
    return values[0] if len(columns) == 1 else list(zip(*values, strict=True))


def _all_checked(values: list[Any], columns: Sequence[str], at: Any = None) -> list[Text]:
    def where(position: int) -> str:
        row = "" if at is None or at[position] == position else f" (index {at[position]!r})"
        return f"at position {position}{row}: "

    # A message is composed for the wrong text only.
    texts: list[Text] = []
    for position, value in enumerate(values):
        try:
            texts.append(_checked(value, columns))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where(position)}{error}") from None
    return texts


def _checked(value: Any, columns: Sequence[str]) -> Text:
    """Return a text or a pair. Raises TypeError or ValueError."""
    if isinstance(value, Mapping):
        value = _of_row(value, columns)
    if len(columns) == 1:
        _check(value)
        return str(value)
    if isinstance(value, np.ndarray | list):
        value = tuple(value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"expected a pair of texts, got {_described(value)}")
    first, second = value
    _check(first, "first text: ")
    _check(second, "second text: ")
    return str(first), str(second)


def _of_row(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    for column in columns:
        if column not in row:
            known = ", ".join(map(str, row))
            raise ValueError(f"the row has no `{column}`, only {known or 'nothing'}")
    values = tuple(row[column] for column in columns)
    return values[0] if len(columns) == 1 else values


def _check(text: Any, where: str = "") -> None:
    if not isinstance(text, str):
        raise TypeError(f"{where}expected a string, got {_described(text)}")
    if problem := text_problem(text):
        raise ValueError(f"{where}{problem}")


def _described(value: Any) -> str:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return "a missing value; drop or fill it first"
    if isinstance(value, float | np.floating) and np.isnan(value):
        return "a missing value (nan); drop or fill it first"
    if isinstance(value, bytes):
        return f"bytes {shown(repr(value), 40)}; decode them first"
    return f"{type(value).__name__} {shown(repr(value), 40)}"


def _wanted(given: Any, *, is_pair: bool) -> str:
    what = "a pair of texts (a tuple of two), or a list of pairs" if is_pair else "a text or a list"
    return f"expected {what}, or a Series or DataFrame; got {_described(given)}"


def _library_of(given: Any) -> str:
    return type(given).__module__.partition(".")[0]


def _array(answers: list[Any]) -> np.ndarray[Any, Any]:
    """An array of objects: labels, lists of labels, and None."""
    found = np.empty(len(answers), dtype=object)
    found[:] = answers
    return found

"""The task and the label names of a checkpoint, and the names that the user gives instead.

A name decides what every client receives, so none is made up: what `config.json` leaves open is
said, and what contradicts itself is refused with the option that settles it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serve.inference.text import text_problem
from serve.language.spelling import did_you_mean, shown
from train.importing.refusal import ImportRefused

Task = Literal["single_label", "multi_label"]

MAX_NAMES_BYTES = 16_000_000
"""Size of a file of label names."""

_GENERIC = re.compile(r"LABEL_\d+")
_REMEDY = "name them with --labels (a file with one name a line, or a,b,c)"
_MANY = 10


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the user says about the labels."""

    labels: tuple[str, ...] = ()
    """All names, in the order of the model's outputs; empty for those of the model."""

    renames: Mapping[str, str]
    """New names by old ones."""

    task: Task | None = None


def read_names(given: str) -> tuple[str, ...]:
    """Read `--labels`: a file with one name a line, or names with commas between them."""
    file = Path(given)
    if len(given) < 1000 and file.is_file():
        if file.stat().st_size > MAX_NAMES_BYTES:
            raise ValueError(f"`{file}` is no list of label names: over {MAX_NAMES_BYTES:,} bytes")
        try:
            lines = file.read_text(encoding="utf-8-sig").rstrip("\r\n").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"`{file}` is not UTF-8: {error}") from None
        return tuple(line.strip() for line in lines)
    if "," not in given and file.suffix:
        raise ValueError(f"there is no file `{shown(given)}` with label names")
    return tuple(part.strip() for part in given.split(","))


def read_renames(given: Sequence[str]) -> dict[str, str]:
    """Read `--label-map OLD=NEW`, given once per label."""
    renames: dict[str, str] = {}
    for each in given:
        old, equals, new = each.partition("=")
        if not equals or not old.strip() or not new.strip():
            raise ValueError(f"--label-map {shown(each)}: expected OLD=NEW")
        if old.strip() in renames:
            raise ValueError(f"--label-map renames {old.strip()!r} twice")
        renames[old.strip()] = new.strip()
    return renames


def task_of(config: Mapping[str, Any], name: str, given: Task | None) -> Task:
    """Return the task. Raises ImportRefused for regression, and where the configuration is torn."""
    stated = config.get("problem_type")
    if stated == "regression" or (stated is None and given is None and _count(config) == 1):
        raise ImportRefused(
            f"`{name}` is a regression model (one number per text, problem_type "
            f"{stated or 'unset with one label'}), not a classifier; scores and rankings are "
            "served by text-embeddings-inference, for example"
        )
    if stated not in (None, "single_label_classification", "multi_label_classification"):
        raise ImportRefused(f"`{name}` has the unknown problem_type {shown(str(stated), 40)!r}")
    task: Task = "multi_label" if stated == "multi_label_classification" else "single_label"
    asks = config.get("function_to_apply")
    usual = {"multi_label": "sigmoid", "single_label": "softmax"}[task]
    if given is not None:
        return given
    if asks not in (None, usual):
        raise ImportRefused(
            f"`{name}` asks for function_to_apply = {shown(str(asks), 40)!r}, but its problem_type "
            f"({stated or 'unset'}) means {usual}, which is what the stock pipeline computes; give "
            "--task multi_label (sigmoid, any number of labels) or --task single_label (softmax)"
        )
    return task


def labels_of(
    config: Mapping[str, Any], name: str, naming: Naming
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the label names in the order of the model's outputs, and notes about them.

    Whether the head has as many rows is known when it is loaded.
    """
    own, problem, notes = _own_names(config)
    if naming.labels:
        if own and not problem and len(naming.labels) != len(own) and _count(config) is not None:
            raise ValueError(
                f"--labels gives {len(naming.labels)} names, `{name}` has {len(own)} labels"
            )
        own, problem, notes = naming.labels, "", []
    elif problem:
        raise ImportRefused(f"the labels of `{name}`: {problem}; {_REMEDY}")
    names, changed = _stripped(own)
    if unknown := sorted(naming.renames.keys() - set(names)):
        raise ValueError(
            f"--label-map: `{name}` has no label {unknown[0]!r}, only {listed(names)}"
            f"{did_you_mean(unknown[0], names)}"
        )
    names = tuple(naming.renames.get(each, each) for each in names)
    _check_names(names, name)
    if changed:
        notes.append(f"white space around {changed} label names removed")
    if all(map(_GENERIC.fullmatch, names)):
        notes.append(f"the labels have no names, only {listed(names)}; {_REMEDY}")
    elif given := _contradicting(config, own):
        notes.append(f"label2id calls {given}; id2label decides")
    return names, tuple(notes)


def _count(config: Mapping[str, Any]) -> int | None:
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(names)
    number = config.get("num_labels", config.get("_num_labels"))
    return number if isinstance(number, int) else None


def _own_names(config: Mapping[str, Any]) -> tuple[tuple[str, ...], str, list[str]]:
    """Return the names in `config.json`, what is wrong with them, and notes."""
    raw = config.get("id2label")
    if raw is None:
        count = _count(config)
        count = 2 if count is None else count  # as transformers does
        return tuple(f"LABEL_{n}" for n in range(max(0, min(count, 10**6)))), "", []
    if not isinstance(raw, dict):
        return (), "`id2label` is no object", []
    names: dict[int, str] = {}
    for key, value in raw.items():
        if not re.fullmatch(r"\d{1,7}", str(key)):
            return (), f"`id2label` has the key {shown(str(key), 40)!r}, which is no number", []
        if isinstance(value, dict | list) or value is None:
            return (), f"`id2label` has no name for class {key}", []
        names[int(key)] = str(value)
    if missing := sorted(set(range(len(names))) - names.keys()):
        return (), f"`id2label` has no name for class {missing[0]}", []
    return tuple(names[number] for number in range(len(names))), "", []


def _stripped(names: Sequence[str]) -> tuple[tuple[str, ...], int]:
    stripped = tuple(each.strip() for each in names)
    return stripped, sum(a != b for a, b in zip(names, stripped, strict=True))


def _check_names(names: Sequence[str], name: str) -> None:
    """Raise ImportRefused for names that no answer can hold, or that are not all different."""
    if not names:
        raise ImportRefused(f"`{name}` has no labels; {_REMEDY}")
    for number, each in enumerate(names):
        if problem := text_problem(each):
            raise ImportRefused(f"the name of label {number} of `{name}`: {problem}; {_REMEDY}")
        if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in each):
            raise ImportRefused(
                f"label {number} of `{name}` is {shown(each, 80)!r}, with a line break or another "
                f"control character; {_REMEDY}"
            )
    if twice := [each for each, count in Counter(names).items() if count > 1]:
        where = [str(number) for number, each in enumerate(names) if each == twice[0]]
        raise ImportRefused(
            f"the labels {' and '.join(where[:_MANY])} of `{name}` have the same name, "
            f"{twice[0]!r}; {_REMEDY}"
        )


def _contradicting(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return a label to which label2id gives another number than its own; '' if there is none."""
    numbers = config.get("label2id")
    if not isinstance(numbers, dict):
        return ""
    for number, each in enumerate(names):
        if each in numbers and numbers[each] != number:
            return f"{each!r} class {shown(str(numbers[each]), 20)}, id2label class {number}"
    return ""


def listed(names: Sequence[str]) -> str:
    """Quote names for a message, ten at most."""
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(repr(shown(each, 40)) for each in names[:_MANY]) + more

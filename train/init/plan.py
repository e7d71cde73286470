"""Decide every setting of a run from a sample of its data; nothing is asked and nothing written."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serve.formats.options import Row, list_columns
from serve.inference.text import Text
from serve.language.spelling import did_you_mean
from train.config.template_spec import fields_of
from train.data.label_names import notes_on_labels
from train.data.rows import SplitName
from train.init.base import BaseChoice, Length, choose_base, choose_length
from train.init.labels import LabelChoice, Task, choose_label, choose_named
from train.init.neighbours import WORDS, class_names, split_column
from train.init.reading.columns import Column, describe
from train.init.reading.sample import Sample, flattened
from train.init.texts import TextChoice, choose_texts

MIN_ROWS = 10
"""Fewest rows that can be split into train, validation and test."""

METHOD = "auto"
"""The method of a new run."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user says on the command line."""

    source: str
    text: tuple[str, ...] = ()
    """Columns of the text, or one template with braces."""

    label: tuple[str, ...] = ()
    task: Task | None = None
    method: str = METHOD
    base: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the run that are set as `key.sub=value`, by section."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run, and what they follow from."""

    request: Request
    sources: Mapping[SplitName, str]
    sample: Sample
    columns: Sequence[Column]
    texts: TextChoice
    labels: LabelChoice
    base: BaseChoice
    length: Length | None
    label_map: Mapping[str, str] = field(default_factory=dict)
    fractions: Mapping[str, float] = field(default_factory=dict)
    drop_invalid_rows: bool = False
    num_rows: int = 0
    """Rows that can be used; of the sample, unless `is_checked`."""

    num_invalid: int = 0
    is_checked: bool = False
    """Whether the run's own reader has read all rows."""

    split_sizes: Mapping[str, int] = field(default_factory=dict)
    doubts: Sequence[str] = ()


def columns_of(rows: Sequence[Row], class_names: Mapping[str, Sequence[str]]) -> list[Column]:
    """Return the columns of rows: values within objects by dotted paths, class numbers by name."""
    flat = [dict(flattened(row)) for row in rows]
    for name, names in class_names.items():
        for row in flat:
            row[name] = _named(row.get(name), names)
    return describe(flat)


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list | tuple):
        return [_named(each, names) for each in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value


def make_plan(request: Request, sources: Mapping[SplitName, str], sample: Sample) -> Plan:
    """Return the plan for a sample. Raises ValueError where a guess would be one in the dark."""
    if sample.num_read < MIN_ROWS and sample.reached_end:
        raise ValueError(
            f"`{sample.source}` has {sample.num_read} row{'s' * (sample.num_read != 1)}, too few "
            f"to train and test on; {MIN_ROWS} are the least, and 20 for each label a start"
        )
    columns = columns_of(sample.rows, sample.class_names)
    for name in (*request.label, *(() if _template(request) else request.text)):
        _check_name(name, columns)
    splitting = split_column(columns)
    texts = _choose_texts(request, [c for c in columns if c is not splitting])
    labels = _choose_labels(
        request, [c for c in columns if c not in texts.columns and c is not splitting], texts
    )
    base = choose_base(request.base)
    shown = texts_of(texts)
    plan = Plan(
        request=request,
        sources=sources,
        sample=sample,
        columns=columns,
        texts=texts,
        labels=labels,
        base=base,
        length=choose_length(base, shown),
        num_rows=len(shown),
    )
    named = None if labels.is_hot or labels.names else class_names(request.source, labels.counts)
    return replace(
        plan,
        label_map=named[1] if named else _short_names(labels),
        doubts=(
            *_column_doubts(texts, labels),
            *_label_doubts(labels, is_named=bool(named)),
            *_split_doubts(splitting, sources),
            *_language_doubts(base, shown),
            *([f"the names of the classes are those of `{named[0]}`"] if named else []),
        ),
    )


def _template(request: Request) -> str | None:
    return request.text[0] if len(request.text) == 1 and "{" in request.text[0] else None


def _check_name(name: str, columns: Sequence[Column]) -> None:
    known = [column.name for column in columns]
    if name in known:
        return
    hint = did_you_mean(name, known, cutoff=0.6)
    raise ValueError(f"there is no column `{name}`, only {list_columns(known)}{hint}")


def _choose_texts(request: Request, columns: Sequence[Column]) -> TextChoice:
    by_name = {column.name: column for column in columns}
    if template := _template(request):
        names = fields_of(template)
        for name in names:
            _check_name(name, columns)
        return TextChoice(columns=tuple(by_name[name] for name in names), template=template)
    if request.text:
        if len(request.text) > 2:
            raise ValueError(
                f"--text names {len(request.text)} columns; expected one, two of a pair, or a "
                "template such as '{title}: {body}'"
            )
        return TextChoice(columns=tuple(by_name[name] for name in request.text))
    found = choose_texts([column for column in columns if column.name not in request.label])
    if found is None:
        kinds = ", ".join(f"`{column.name}` ({column.kind})" for column in columns[:20])
        raise ValueError(f"no column looks like a text: {kinds}; name it with --text")
    return found


def _choose_labels(request: Request, columns: Sequence[Column], texts: TextChoice) -> LabelChoice:
    if request.label:
        if clash := [name for name in request.label if name not in {c.name for c in columns}]:
            raise ValueError(f"column `{clash[0]}` is the text, or marks the splits; name another")
        return choose_named(columns, request.label, request.task)
    if not columns:
        fast = any(str(v).startswith("__label__") for v in texts.columns[0].present[:5])
        hint = "; it looks like a file of fastText: write text and label as two columns"
        raise ValueError(
            f"there is no column beside the text; a label is needed to train{hint if fast else ''}"
        )
    return choose_label(columns, request.task)


def texts_of(choice: TextChoice) -> list[Text]:
    """Return the texts of the sample that are not empty."""
    shown = zip(*(column.values for column in choice.columns), strict=True)
    strings = [[str(part) if part is not None else "" for part in parts] for parts in shown]
    if choice.template is not None:
        return [" ".join(parts).strip() for parts in strings if any(map(str.strip, parts))]
    full = [parts for parts in strings if all(map(str.strip, parts))]
    return [parts[0] if len(parts) == 1 else (parts[0], parts[1]) for parts in full]


def _short_names(labels: LabelChoice) -> dict[str, str]:
    """Return names without the path that columns within one object share."""
    names = [column.name for column in labels.columns]
    outer = {name.rpartition(".")[0] for name in names}
    if not labels.is_hot or len(outer) > 1 or outer == {""}:
        return {}
    return {name: name.rpartition(".")[2] for name in names}


def _column_doubts(texts: TextChoice, labels: LabelChoice) -> list[str]:
    doubts = []
    if texts.template is not None:
        doubts.append(
            f"the text is made of two columns, and clients must send it in the same form; --text "
            f"{_quoted(texts.columns[-1].name)} takes one alone"
        )
    for column in texts.others[:3]:
        if column not in labels.columns:
            pair = f"{texts.names[0]},{column.name}"
            doubts.append(
                f"column `{column.name}` is text too: --text {_quoted(column.name)}, or --text "
                f"{_quoted(pair)} for a pair"
            )
    for column in labels.others[:5]:
        doubts.append(f"column `{column.name}` would also do: --label {_quoted(column.name)}")
    return doubts


def _quoted(name: str) -> str:
    return (
        name if name.replace("_", "").replace(",", "").replace(".", "").isalnum() else f"'{name}'"
    )


def _label_doubts(labels: LabelChoice, *, is_named: bool) -> list[str]:
    doubts = [] if is_named else list(labels.doubts)
    doubts += notes_on_labels(labels.counts, multi=labels.task == "multi_label")
    rows = sorted(labels.counts.values())
    if len(rows) > 1 and rows[-1] >= 10 * max(rows[0], 1):
        doubts.append(
            f"the labels are uneven: {rows[-1]} rows of the most frequent one, {rows[0]} of the "
            "rarest; look at macro-F1 and the recall of each label rather than at accuracy"
        )
    if rare := [label for label, count in labels.counts.items() if count < 10]:
        shown = list_columns(rare[:5])
        doubts.append(
            f"{len(rare)} labels have fewer than 10 rows ({shown}"
            f"{' ...' if len(rare) > 5 else ''}); little can be learned or measured for them"
        )
    return doubts


def _split_doubts(column: Column | None, sources: Mapping[SplitName, str]) -> list[str]:
    doubts = []
    if column is not None:
        shown = ", ".join(f"{value} {count}" for value, count in column.counts.most_common())
        doubts.append(
            f"column `{column.name}` marks splits ({shown} rows), which a run does not read: it "
            "splits all rows anew; to keep them apart write a file for each, and name them in "
            "data.train, data.validation and data.test"
        )
    for split in ("validation", "test"):
        if split in sources:
            doubts.append(f"{split}: `{sources[split]}`, found beside it")
    return doubts


def _language_doubts(base: BaseChoice, texts: Sequence[Text]) -> list[str]:
    letters = [c for text in texts[:500] for c in "".join(text)[:500] if c.isalpha()]
    other = sum(not c.isascii() and "LATIN" not in unicodedata.name(c, "") for c in letters)
    if "minilm_l6" in base.name and letters and other > 0.2 * len(letters):
        return [
            f"{other / len(letters):.0%} of the letters are not Latin, and the base knows English; "
            "name a multilingual one with --base OWNER/NAME@REVISION"
        ]
    return []


def default_output_dir(source: str) -> Path:
    """Return a directory for the run that does not exist yet, named after the source."""
    name = Path(source.partition("#")[0].partition("?")[0].rstrip("/")).name
    stem = name.partition(".")[0]
    if stem.lower() in WORDS["train"]:
        stem = Path(source).absolute().parent.name
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-") or "run"
    candidates = [Path("runs") / kept, *(Path("runs") / f"{kept}-{n}" for n in range(2, 1000))]
    return next(path for path in candidates if not path.exists())

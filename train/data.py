"""From a source to validated rows in three splits.

Decides where rows come from, what a usable row is, which split it falls into and what its
fingerprint is. Tokens are `serve.text`'s matter.

Every value is kept as it is written: no "NA" becomes missing and no "007" becomes 7.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve.tables import read_csv
from serve.text import Text, text_problem
from train.config import DataConfig, RunConfig

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_FORMATS = (".csv", ".tsv", *_BUILDERS)
_HUB = re.compile(
    r"hub:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?#(?P<split>.+)"
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split, in the order of the source."""

    texts: list[Text]
    labels: list[tuple[str, ...]]
    """One label per row for a single-label task, any number for a multi-label one."""
    slices: dict[str, list[str]] = field(default_factory=dict)
    """Values of `evaluation.slice_columns`; of no split but test and what test is cut from."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Number of rows and SHA-256 over their content, in order."""
        digest = hashlib.sha256()
        for text, labels in zip(self.texts, self.labels, strict=True):
            digest.update(json.dumps([text, labels], ensure_ascii=False).encode() + b"\n")
        return {"rows": len(self), "sha256": digest.hexdigest()}


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """The three splits and the labels, in the order of the model's outputs."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    num_dropped: int
    """Rows left out because `drop_invalid_rows` said so."""

    @property
    def fingerprints(self) -> dict[str, Any]:
        """The fingerprint of each split."""
        return {name: getattr(self, name).fingerprint for name in ("train", "validation", "test")}


def load_data(config: RunConfig) -> LabelledData:
    """Read, validate and split the data of a run; the same configuration gives the same rows.

    Raises ValueError for a source that cannot be read, for rows without text or label
    (unless told to drop them), and for a label that the training split does not have.
    """
    dropped = 0
    splits: dict[str, Split] = {}
    for name in ("train", "validation", "test"):
        source = getattr(config.data, name)
        if source is not None:
            splits[name], num_dropped = _read_split(source, name, config)
            dropped += num_dropped
    missing = [name for name in ("validation", "test") if name not in splits]
    splits |= _split_by_hash(splits["train"], config.data, missing)
    for name, split in splits.items():
        if not split.texts:
            raise ValueError(f"data.{name} has no rows; give more data or larger fractions")
    labels = tuple(sorted({label for row in splits["train"].labels for label in row}))
    if len(labels) < 2:
        raise ValueError(f"data.train has the labels {list(labels)}; a classifier needs two")
    for name, split in splits.items():
        strange = Counter(label for row in split.labels for label in row if label not in labels)
        if strange:
            label, count = strange.most_common(1)[0]
            raise ValueError(
                f"data.{name} has {count} rows with the label {label!r}, which no row of "
                "data.train has; add examples, or map or remove the label (data.label_map)"
            )
    return LabelledData(**splits, labels=labels, num_dropped=dropped)


def open_source(source: str, data: DataConfig, *, cache_dir: Path) -> Any:
    """The rows of a source as a `datasets.Dataset`; see `DataConfig.train` for its forms."""
    import datasets

    if source.startswith("hub:"):
        match = _HUB.fullmatch(source)
        if match is None:
            raise ValueError(
                f"`{source}`: expected hub:OWNER/NAME#SPLIT, "
                "or in full hub:OWNER/NAME:CONFIG@REVISION#SPLIT"
            )
        arguments: dict[str, Any] = {
            "path": match["name"],
            "name": match["config"],
            "revision": match["revision"],
            "split": match["split"],
        }
    else:
        is_url = "://" in source
        suffix = Path(source.partition("?")[0]).suffix
        if suffix not in _FORMATS:
            raise ValueError(f"`{source}`: unknown format, expected {', '.join(_FORMATS)}")
        if not is_url and not Path(source).is_file():
            raise ValueError(f"no data file at `{source}`")
        if suffix in (".csv", ".tsv"):
            return _read_csv(source, "\t" if suffix == ".tsv" else ",")
        arguments = {"path": _BUILDERS[suffix], "data_files": source, "split": "train"}
    try:
        return datasets.load_dataset(**arguments, cache_dir=str(cache_dir))
    except Exception as error:
        reason = error.__cause__ or error
        raise ValueError(f"cannot read `{source}`: {type(reason).__name__}: {reason}") from error


def _read_csv(source: str, delimiter: str) -> Any:
    """By the reader of `serve predict`; pandas reads "NA" as missing and 007 as 7."""
    import datasets
    import fsspec

    try:
        with fsspec.open(source, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(read_csv(file, source, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, ImportError) as error:
        raise ValueError(f"cannot read `{source}`: {type(error).__name__}: {error}") from error
    if not rows:
        raise ValueError(f"`{source}` has no rows")
    return datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]})


def _read_split(source: str, name: str, config: RunConfig) -> tuple[Split, int]:
    data = config.data
    table = open_source(source, data, cache_dir=config.output_dir / "cache")
    for column in (*data.text_columns, data.label_column):
        if column not in table.column_names:
            raise ValueError(
                f"`{source}` has no column `{column}`, only {', '.join(table.column_names)}; "
                "set data.text_columns and data.label_column"
            )
    names = _class_names(table.features[data.label_column])
    text_columns = [table[column] for column in data.text_columns]
    texts: list[Text] = []
    labels: list[tuple[str, ...]] = []
    kept: list[int] = []
    problems: list[str] = []
    for number, (value, *parts) in enumerate(
        zip(table[data.label_column], *text_columns, strict=True), start=1
    ):
        row_labels, problem = _labels_of(value, names, config)
        problem = next((p for p in map(text_problem, parts) if p), None) or problem
        if problem:
            problems.append(f"row {number}: {problem}")
            continue
        texts.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
        labels.append(row_labels)
        kept.append(number - 1)
    if problems and not data.drop_invalid_rows:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise ValueError(
            f"data.{name} `{source}` has {len(problems)} unusable rows ({shown}); "
            "mend them or set data.drop_invalid_rows=true"
        )
    holds_test = name == "test" or (name == "train" and data.test is None)
    columns = config.evaluation.slice_columns if holds_test else ()
    slices = _slices(table, source, columns, kept)
    return Split(texts=texts, labels=labels, slices=slices), len(problems)


def _slices(
    table: Any, source: str, columns: Sequence[str], kept: list[int]
) -> dict[str, list[str]]:
    """The values of columns in the rows that are kept, as text."""
    slices: dict[str, list[str]] = {}
    for column in columns:
        if column not in table.column_names:
            raise ValueError(
                f"`{source}` has no column `{column}`, only {', '.join(table.column_names)}; "
                "set evaluation.slice_columns"
            )
        values = list(table[column])
        shown = ["" if values[row] is None else str(values[row]).strip() for row in kept]
        slices[column] = [value or "(missing)" for value in shown]
    return slices


def _class_names(feature: Any) -> Sequence[str] | None:
    """The names behind integer labels, where the data set brings them."""
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    return list(names) if names else None


def _labels_of(
    value: Any, names: Sequence[str] | None, config: RunConfig
) -> tuple[tuple[str, ...], str | None]:
    """The labels of one row, mapped and in sorted order, or what is wrong with them."""
    multi = config.task == "multi_label"
    if isinstance(value, list):
        if not multi:
            return (), "the label is a list; set task: multi_label"
        values = value
    elif multi:
        text = "" if value is None else str(value)
        values = [part.strip() for part in text.split(config.data.label_separator) if part.strip()]
    else:
        values = [value]
    labels = []
    for item in values:
        if item is None or not str(item).strip():
            return (), "the label is missing"
        if names is not None and isinstance(item, int):
            if not 0 <= item < len(names):
                return (), f"the label {item} is not one of the data set's {len(names)} classes"
            item = names[item]
        label = str(item).lower() if isinstance(item, bool) else str(item).strip()
        labels.append(config.data.label_map.get(label, label))
    return tuple(sorted(set(labels))), None


def _split_by_hash(train: Split, data: DataConfig, missing: list[str]) -> dict[str, Split]:
    """Cut validation and test off train by the hash of each text.

    The same text always falls into the same split, whatever is added to the file later, and
    copies of a text (up to case and white space) never stand on both sides. Exception: rows
    of a label that would have none left in train stay there.
    """
    if not missing:
        return {}
    positions = [content_position(text) for text in train.texts]
    share_cut = sum(getattr(data, f"{name}_fraction") for name in missing)
    left = {
        label
        for p, row in zip(positions, train.labels, strict=True)
        if p >= share_cut
        for label in row
    }
    kept = {p for p, row in zip(positions, train.labels, strict=True) if set(row) - left}
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in missing}}
    for row, position in enumerate(positions):
        part = "train"
        for name in missing if position not in kept else []:
            share = getattr(data, f"{name}_fraction")
            if position < share:
                part = name
                break
            position -= share
        parts[part].append(row)
    return {name: _rows(train, rows) for name, rows in parts.items()}


def content_position(text: Text) -> float:
    """A position in [0, 1) that depends on the text's words alone."""
    parts: Iterable[str] = text if isinstance(text, tuple) else (text,)
    words = json.dumps([" ".join(part.casefold().split()) for part in parts], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) / 2**64


def _rows(split: Split, rows: list[int]) -> Split:
    return Split(
        texts=[split.texts[n] for n in rows],
        labels=[split.labels[n] for n in rows],
        slices={name: [values[n] for n in rows] for name, values in split.slices.items()},
    )

"""Find what lies beside the data: files of the other splits, and names of the classes."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from serve.formats.options import format_of
from train.data.rows import SplitName
from train.init.reading.columns import Column

WORDS: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval"),
    "test": ("test", "testing", "heldout"),
}
_NAME_FILES = (
    "classes.txt",
    "labels.txt",
    "label_names.txt",
    "id2label.json",
    "label2id.json",
    "label_map.json",
    "labels.json",
)
_MAX_NAMES_BYTES = 1_000_000
_SPLIT_COLUMNS = {"split", "set", "fold", "partition", "subset", "usage", "phase", "dataset"}


def find_splits(source: str) -> dict[SplitName, str]:
    """Return the sources of the splits; train alone if no others lie beside it."""
    path = Path(source)
    if path.is_dir():
        return _in_directory(path) or {"train": source}
    found: dict[SplitName, str] = {"train": source}
    if not path.is_file():
        return found
    for split in ("validation", "test"):
        for name in _renamed(path.name, WORDS[split]):
            if (twin := path.with_name(name)).is_file():
                found.setdefault(split, str(twin))
    return found


def _renamed(name: str, words: Sequence[str]) -> Iterator[str]:
    """Yield a file's name with its word for train replaced."""
    match = re.search(r"(?<![a-z])train(ing)?(?![a-z])", name, re.IGNORECASE)
    if match is None:
        return
    for word in words:
        shown = word.upper() if match[0].isupper() else word
        shown = word.capitalize() if match[0].istitle() else shown
        yield name[: match.start()] + shown + name[match.end() :]


def _in_directory(directory: Path) -> dict[SplitName, str]:
    """Return the files of each split in a directory, as a path or a pattern; {} without train."""
    groups: dict[SplitName, list[Path]] = {}
    for file in sorted(directory.iterdir()):
        split = _split_of(file)
        if split is not None:
            groups.setdefault(split, []).append(file)
    if "train" not in groups:
        return {}
    found: dict[SplitName, str] = {}
    for split, files in groups.items():
        if len(files) == 1:
            found[split] = str(files[0])
            continue
        start = next(
            files[0].name[:n]
            for n in range(min(map(len, (file.name for file in files))), -1, -1)
            if all(file.name.startswith(files[0].name[:n]) for file in files)
        )
        pattern = f"{glob.escape(str(directory / start))}*{files[0].suffix}"
        if sorted(glob.glob(pattern)) == [str(file) for file in files]:
            found[split] = pattern
    return found if "train" in found else {}


def _split_of(file: Path) -> SplitName | None:
    try:
        format_of(file)
    except ValueError:
        return None
    words = re.split(r"[^a-z]+", file.name.lower())
    return next((split for split, names in WORDS.items() if set(names) & set(words)), None)


def split_column(columns: Sequence[Column]) -> Column | None:
    """Return a column that says which split each row belongs to."""
    every = {word for words in WORDS.values() for word in words}
    for column in columns:
        values = {value.lower() for value in column.counts}
        if 1 < len(values) <= 4 and values & set(WORDS["train"]) and values <= every:
            return column
        if column.name.lower() in _SPLIT_COLUMNS and len(values) > 1 and values <= every:
            return column
    return None


def class_names(source: str, labels: Collection[str]) -> tuple[str, dict[str, str]] | None:
    """Return a file beside the data that names the classes, and the name by number.

    labels: all of the data; numbers, or there is nothing to name.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if not path.exists() or not all(re.fullmatch(r"\d{1,4}", label) for label in labels):
        return None
    for name in _NAME_FILES:
        file = folder / name
        if not file.is_file() or file.stat().st_size > _MAX_NAMES_BYTES:
            continue
        try:
            names = _names_in(file)
        except (ValueError, OSError):
            continue
        if {*labels} <= names.keys() and len(set(names.values())) == len(names):
            return str(file), {label: names[label] for label in sorted(labels, key=int)}
        shifted = {str(int(number) + 1): each for number, each in names.items()}
        is_list = file.suffix == ".txt"  # of line 1, which class 1 may be
        if is_list and {*labels} == shifted.keys():
            return str(file), {label: shifted[label] for label in sorted(labels, key=int)}
    return None


def _names_in(file: Path) -> dict[str, str]:
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix == ".txt":
        return {str(n): line.strip() for n, line in enumerate(text.split("\n")) if line.strip()}
    found = json.loads(text)
    if isinstance(found, list):
        return {str(n): str(each) for n, each in enumerate(found)}
    if not isinstance(found, dict):
        raise ValueError("no object")
    if all(isinstance(value, int) for value in found.values()):
        return {str(value): str(key) for key, value in found.items()}
    return {str(key): str(value) for key, value in found.items() if isinstance(value, str)}

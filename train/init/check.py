"""Read the data of a plan as a run will, and settle what only that shows.

Which rows are unusable, how large the parts are that are split off, whether files beside the data
fit. So the YAML works as it is written; a source of which only a sample was read is judged by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from train.config.run import RunConfig
from train.data.rows import SplitName
from train.data.splits import LabelledData, load_data
from train.init.exports.convert import write_rows
from train.init.plan import Plan
from train.init.settings import settings

MAX_CHECKED_ROWS = 200_000
"""Rows of a source that are all read; of a larger one the sample is."""

_SMALL = 500
_FRACTIONS = (0.1, 0.15, 0.2, 0.25, 0.3)
_ENOUGH_VALIDATION = 500
"""Validation rows, of a source that is divided, beyond which more are worth more in train."""

_MIN_PART = 10


def checked(plan: Plan) -> Plan:
    """Return the plan with what its data show. Raises ValueError if they cannot be trained on."""
    sample = plan.sample
    is_local = (
        not plan.sources["train"].startswith(("hub:", "sql:"))
        and "://" not in (plan.sources["train"])
    )
    whole = is_local and sample.reached_end and sample.num_read <= MAX_CHECKED_ROWS
    with TemporaryDirectory() as folder:
        data = _linked(plan, Path(folder)) if whole else _sampled(plan, Path(folder))
        plan = _with_neighbours(plan, data, Path(folder))
        plan, loaded = _with_fractions(plan, data, Path(folder))
        invalid = loaded.num_dropped
        own = [split for split in loaded.splits.values() if split.source == "train"]
        counts = Counter(label for split in own for row in split.labels for label in row)
        return replace(
            plan,
            labels=replace(plan.labels, counts=Counter(dict(counts.most_common()))),
            num_rows=sum(map(len, own)),
            num_invalid=invalid,
            is_checked=whole,
            split_sizes={name: len(split) for name, split in loaded.splits.items()},
            drop_invalid_rows=bool(invalid) or not whole,
        )


def _linked(plan: Plan, folder: Path) -> dict[str, Any]:
    """Name a local file by a link: what a run keeps beside its data, a trial must not write."""
    source = Path(plan.sources["train"])
    if not source.is_file():
        return {}
    link = folder / source.name
    link.symlink_to(source.absolute())
    return {"train": str(link)}


def _sampled(plan: Plan, folder: Path) -> dict[str, Any]:
    """Write the sample to a file; return the keys of `data` that name it."""
    path = folder / "sample.jsonl"
    write_rows(path, plan.sample.rows)
    keys: dict[str, Any] = dict.fromkeys(("delimiter", "encoding"))
    names = [plan.sample.class_names.get(column.name) for column in plan.labels.columns]
    if names and names[0] and not plan.labels.is_hot:
        keys["label_names"] = list(names[0])
    return {**keys, "train": str(path), "column_names": [], "quoting": "auto"}


def _load(plan: Plan, data: Mapping[str, Any], folder: Path) -> LabelledData:
    values = settings(plan, str(folder / "run"))
    values["data"] = {**values["data"], **data, "drop_invalid_rows": True}
    try:
        return load_data(RunConfig.model_validate(values))
    except ValueError as error:
        shown = str(error).replace(str(data.get("train")), plan.sources["train"])
        raise ValueError(shown) from None


def _with_neighbours(plan: Plan, data: Mapping[str, Any], folder: Path) -> Plan:
    """Leave out the files beside the data that do not fit."""
    doubts = list(plan.doubts)
    sources: dict[SplitName, str] = {"train": plan.sources["train"]}
    for name, source in plan.sources.items():
        if name == "train":
            continue
        trial = replace(plan, sources={**sources, name: source}, fractions={})
        try:
            _load(trial, data, folder)
        except ValueError as error:
            doubts = [each for each in doubts if not each.startswith(f"{name}: ")]
            doubts.append(f"`{source}` beside it is not used: {error}")
        else:
            sources[name] = source
    return replace(plan, sources=sources, doubts=doubts)


def _with_fractions(plan: Plan, data: Mapping[str, Any], folder: Path) -> tuple[Plan, LabelledData]:
    """Split off larger parts of few rows, until none is empty."""
    every: tuple[SplitName, ...] = ("validation", "test")
    missing = [name for name in every if name not in plan.sources]
    small = plan.num_rows <= _SMALL and missing
    problem: ValueError | None = None
    best: tuple[Plan, LabelledData] | None = None
    for fraction in _FRACTIONS if small else _FRACTIONS[:1]:
        fractions = {f"{name}_fraction": fraction for name in missing if fraction != 0.1}
        if "validation" in missing and plan.sample.num_read > 10 * _ENOUGH_VALIDATION:
            fractions["validation_fraction"] = round(_ENOUGH_VALIDATION / plan.sample.num_read, 3)
        trial = replace(plan, fractions=fractions)
        try:
            loaded = _load(trial, data, folder)
        except ValueError as error:
            problem = error
            continue
        best = trial, loaded
        sizes = [len(loaded.splits[name]) for name in missing]
        if not small or min(sizes) >= max(1, min(_MIN_PART, plan.num_rows // 8)):
            break
    if best is None:
        assert problem is not None
        raise problem
    return best

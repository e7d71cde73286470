"""Fixes that change much, or the test split, need a key that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows, write_jsonl

from train.config.run import RunConfig
from train.data.fixes import Fix, row_hash, write_fixes
from train.data.splits import load_data

Make = Callable[..., dict[str, Any]]


def split_run(tmp_path: Path, make_config: Make, actions: dict[str, int], **data: Any) -> RunConfig:
    """A run of one source that is split by hash, with fixes for `actions` rows of each split."""
    values = make_config(tmp_path / "run")
    source = str(write_jsonl(tmp_path / "rows.jsonl", make_rows(400, seed=0)))
    values["data"] |= {"train": source, "validation": None, "test": None}
    before = load_data(RunConfig.model_validate(values))
    fixes = []
    for name, count in actions.items():
        split = before.splits[name]  # type: ignore[index]
        for n in range(count):
            text, labels = split.texts[n], split.labels[n]
            other = next(label for label in before.labels if label not in labels)
            fixes.append(
                Fix(
                    action="drop" if n % 2 else "relabel",
                    source="train",
                    row=split.rows[n],
                    sha256=row_hash(text, labels),
                    suggested=None if n % 2 else other,
                )
            )
    write_fixes(tmp_path / "fixes.jsonl", fixes)
    values["data"] |= {"fixes": str(tmp_path / "fixes.jsonl"), **data}
    return RunConfig.model_validate(values)


def test_fixes_that_change_many_rows_need_a_larger_limit(tmp_path: Path, make_config: Make) -> None:
    config = split_run(tmp_path, make_config, {"train": 41})

    with pytest.raises(ValueError, match=r"changes 41 of 400 rows \(10.2%\).*fixes_max_fraction"):
        load_data(config)

    allowed = split_run(tmp_path, make_config, {"train": 41}, fixes_max_fraction=0.2)
    assert load_data(allowed).fixes is not None


@pytest.mark.parametrize("count", [1, 2])
def test_fixes_of_test_rows_need_their_own_key(
    tmp_path: Path, make_config: Make, count: int
) -> None:
    config = split_run(tmp_path, make_config, {"train": 3, "test": count})

    with pytest.raises(ValueError, match=rf"changes {count} rows of the test split.*change_test"):
        load_data(config)

    allowed = split_run(tmp_path, make_config, {"train": 3, "test": count}, fixes_change_test=True)
    assert load_data(allowed).fixes is not None


def test_limits_on_fixes_do_not_belong_to_the_training(tmp_path: Path, make_config: Make) -> None:
    config = split_run(tmp_path, make_config, {"train": 3})
    other = split_run(tmp_path, make_config, {"train": 3}, fixes_max_fraction=0.5)

    assert config.training_settings() == other.training_settings()

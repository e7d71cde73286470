"""The rows that trials see: all of train and validation, and none of test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rows import make_rows, write_jsonl
from searching import SPACE, MakeConfig, values_of

from train.config.run import RunConfig
from train.data.fixes import Fix, row_hash, write_fixes
from train.data.splits import load_data
from train.tune.tune import prepare, tune


def test_test_rows_that_are_part_of_train_are_cut_off_before_the_first_trial(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = values_of(make_config, tmp_path / "run")
    values["data"]["test"] = None
    config = RunConfig.model_validate(values)

    visible = prepare(config).rows

    whole = load_data(config)
    assert len(whole.test) > 10
    assert visible.train.fingerprint == whole.train.fingerprint
    assert visible.validation.fingerprint == whole.validation.fingerprint
    assert visible.test.fingerprint == whole.validation.fingerprint
    seen = {text for split in visible.splits.values() for text in split.texts}
    assert not seen & (set(whole.test.texts) - {*whole.train.texts, *whole.validation.texts})


@pytest.mark.parametrize(("task", "columns"), [("multi_label", 1), ("single_label", 2)])
def test_every_kind_of_rows_reaches_the_trials_unchanged(
    make_config: MakeConfig, tmp_path: Path, task: str, columns: int
) -> None:
    values = make_config(tmp_path / "run", task=task, columns=columns, tune={"space": SPACE})
    values["data"]["label_map"] = {"billing": "login", "login": "billing"}
    config = RunConfig.model_validate(values)

    visible = prepare(config).rows

    whole = load_data(config)
    for split in ("train", "validation"):
        kept, own = getattr(visible, split), getattr(whole, split)
        assert (list(kept.texts), list(kept.labels)) == (list(own.texts), list(own.labels))
    assert visible.labels == whole.labels


def test_search_over_a_run_with_a_template_completes(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = values_of(make_config, tmp_path / "run", trials=1)
    rows = [{"subject": row["text"], "label": row["label"]} for row in make_rows(300, seed=1)]
    values["data"]["train"] = str(write_jsonl(tmp_path / "train.jsonl", rows))
    values["data"]["template"] = "Message: {subject}"

    result = tune(RunConfig.model_validate(values))

    assert result.counts == {"complete": 1}, result.reasons


def test_search_over_a_run_with_slice_columns_completes(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The column is in the test file alone, which a search does not open."""
    values = values_of(make_config, tmp_path / "run", trials=1)
    values["evaluation"] = {"slice_columns": ["channel"]}

    result = tune(RunConfig.model_validate(values))

    assert result.counts == {"complete": 1}, result.reasons


def test_search_over_a_run_with_fixes_applies_them_and_completes(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = values_of(make_config, tmp_path / "run", trials=1)
    before = load_data(RunConfig.model_validate(values))
    fixes = [
        Fix(action="drop", source=source, row=1, sha256=row_hash(split.texts[0], split.labels[0]))
        for source, split in (("train", before.train), ("test", before.test))
        if split.rows[0] == 1
    ]
    write_fixes(tmp_path / "fixes.jsonl", fixes)
    values["data"]["fixes"] = str(tmp_path / "fixes.jsonl")

    result = tune(RunConfig.model_validate(values))

    assert result.counts == {"complete": 1}, result.reasons
    assert [fix.source for fix in fixes] == ["train", "test"]
    run = json.loads((tmp_path / "run" / "tune" / "trial-0000" / "run.json").read_text())
    assert run["data"]["train"]["rows"] == len(before.train) - 1

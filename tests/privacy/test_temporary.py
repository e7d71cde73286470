"""Temporary directories have names nobody can foresee, and are readable by their owner only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import evaluate
import pytest

from train.fit.training_metrics import ClassificationMetrics


@pytest.mark.parametrize("planted", ["file", "link"])
def test_metrics_of_training_follow_nothing_that_another_user_planted(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place, target = tmp_path / f"textloop-{os.getuid()}", tmp_path / "target"
    target.mkdir()
    if planted == "file":
        place.touch()
    else:
        place.symlink_to(target)

    values = ClassificationMetrics().compute(
        references=[[True, False]], predictions=[[True, False]]
    )

    assert values is not None
    assert values["accuracy"] == 1.0
    assert sorted(tmp_path.iterdir()) == sorted([place, target])
    assert list(target.iterdir()) == []


def test_directory_of_the_metrics_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []
    made = evaluate.Metric._build_data_dir

    def build(metric: evaluate.Metric) -> str:
        modes.append(stat.S_IMODE(os.stat(metric._data_dir_root).st_mode))
        return made(metric)

    monkeypatch.setattr(evaluate.Metric, "_build_data_dir", build)

    ClassificationMetrics()

    assert modes == [0o700]

"""Evaluated runs side by side: what is shown to differ, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows, write_jsonl

from train.__main__ import main
from train.compare.compare import compare, verdict
from train.compare.runs import read_runs
from train.config.run import RunConfig
from train.evaluation.evaluate import evaluate
from train.fit.fit import fit
from train.merge.merge import merge


@pytest.fixture(scope="module")
def runs(
    make_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A good run, and one that learned from shuffled labels."""
    folder = tmp_path_factory.mktemp("runs")
    rows = make_rows(300, seed=1)
    labels = [row["label"] for row in rows]
    shuffled = [row | {"label": labels[n - 7]} for n, row in enumerate(rows)]
    files = {name: str(write_jsonl(folder / f"{name}.jsonl", each))
             for name, each in (("good", rows), ("bad", shuffled))}  # fmt: skip
    for name, train in files.items():
        config = RunConfig.model_validate(
            make_config(folder / name, method="probe", data={"train": train})
        )
        fit(config)
        merge(config)
        evaluate(config)
    return folder / "good", folder / "bad"


def test_a_worse_run_is_shown_with_the_texts_that_changed(
    runs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["compare", *map(str, runs)]) == 0

    text = capsys.readouterr().out
    assert text.startswith("Worse than good: bad (-")
    assert "probe" in text.splitlines()[2]
    page = (tmp_path / "compare.html").read_text()
    assert "Right before, wrong now" in page
    assert "data.train" in page  # the setting that differs
    assert "<script" not in page


def test_comparison_has_figures_and_recalls(runs: tuple[Path, Path]) -> None:
    found = compare(read_runs(runs))

    (difference,) = found.differences
    good, bad = (run.metrics["accuracy"].value for run in found.runs)
    assert difference.accuracy.difference == pytest.approx(bad - good)
    assert difference.finding == "worse"
    assert {change.outcome for change in difference.changes} >= {"broken"}
    spreads = [label.spread for label in found.labels]
    assert spreads == sorted(spreads, reverse=True)
    assert set(found.settings) == {"data.train"}


def test_equal_runs_are_not_distinguishable(runs: tuple[Path, Path], tmp_path: Path) -> None:
    good, _ = runs
    again = shutil.copytree(good, tmp_path / "again")

    assert verdict(compare(read_runs([good, again]))).startswith("Not distinguishable from good")


def test_runs_on_other_test_rows_are_shown_and_not_compared(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    good, _ = runs
    other = shutil.copytree(good, tmp_path / "other")
    file = other / "evaluation" / "metrics.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"test": {"rows": 60, "sha256": "0" * 64}}))

    found = compare(read_runs([good, other]))

    assert not found.differences
    assert verdict(found) == "Not comparable, since scored on other test rows: other."


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: shutil.rmtree(run / "evaluation"), "score the run first"),
        (shutil.rmtree, "there is no such directory"),
        (
            lambda run: (run / "evaluation" / "metrics.json").write_text(
                json.dumps({"model_version": "0" * 12})
            ),
            "score it again",
        ),
    ],
)
def test_run_without_its_evaluation_is_refused(
    runs: tuple[Path, Path], tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    broken = shutil.copytree(runs[0], tmp_path / "broken")
    break_it(broken)

    with pytest.raises(ValueError, match=message):
        read_runs([runs[0], broken])


def test_the_same_run_twice_and_one_run_are_refused(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(runs[0])

    assert main(["compare", good, f"{good}/bundle"]) == 2
    assert "is named twice" in capsys.readouterr().err
    assert main(["compare", good]) == 2
    assert "name two or more" in capsys.readouterr().err

"""The gate where the candidate knows more labels than the champion, or other names of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gating import altered, gate, report_of, write_run

from serve.bundle.seal import open_bundle
from train.data.splits import Split
from train.gate.changes import find_changes
from train.gate.guards import new_label_checks
from train.gate.labels import share_labels
from train.statistics.resampling import Predictions


@pytest.fixture
def run_file(bundles: Callable[[str], Path], tmp_path: Path) -> Path:
    return write_run(open_bundle(bundles("single")).manifest, tmp_path, require="non_inferior")


def with_labels(bundle: Path, directory: Path, names: dict[str, str], **fields: Any) -> Path:
    """A bundle that knows the labels in `names` alone, by the names given there."""
    labels = open_bundle(bundle).manifest.labels
    rows = [labels.index(label) for label in names]

    def tensors(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: np.ascontiguousarray(value[rows]) if name.startswith("classifier") else value
            for name, value in values.items()
        }

    def config(values: dict[str, Any]) -> dict[str, Any]:
        known = dict(enumerate(names.values()))
        return values | {"id2label": known, "label2id": {v: k for k, v in known.items()}}

    directory.mkdir()
    return altered(
        bundle, directory, tensors=tensors, config=config, labels=tuple(names.values()), **fields
    )


def fingerprint(run_file: Path, names: dict[str, str]) -> dict[str, Any]:
    """Of the test rows whose labels are in `names`, by the names given there."""
    import json

    lines = (run_file.parent / "test.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["label"] in names]
    return Split(
        texts=[row["text"] for row in rows], labels=[(names[row["label"]],) for row in rows]
    ).fingerprint


def same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


def test_candidate_with_a_new_label_is_compared_on_the_rows_of_the_others(
    run_file: Path,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, known = bundles("single"), same("billing", "delivery")
    theirs = {"test": fingerprint(run_file, known)}
    champion = with_labels(whole, tmp_path / "old", known, data=theirs)

    assert gate(run_file, whole, champion, "gate.min_test_rows=10") == 0

    report = report_of(run_file)
    assert report.rows == theirs["test"]["rows"] < 60
    assert report.new_labels == ("login",)
    assert {"recall of new labels", "precision of new labels"} <= {c.name for c in report.checks}
    assert "new labels: login" in capsys.readouterr().out


def test_new_label_that_takes_the_rows_of_others_is_refused(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, known = bundles("single"), same("billing", "delivery")
    champion = with_labels(
        whole, tmp_path / "old", known, data={"test": fingerprint(run_file, known)}
    )

    def greedy(values: dict[str, Any]) -> dict[str, Any]:
        bias = next(name for name in values if name.startswith("classifier") and "bias" in name)
        index = open_bundle(whole).manifest.labels.index("login")
        return values | {bias: values[bias] + 100 * (np.arange(3) == index).astype(np.float32)}

    candidate = altered(whole, tmp_path, tensors=greedy)

    assert gate(run_file, candidate, champion, "gate.min_test_rows=10") == 1

    report = report_of(run_file)
    assert report.verdict == "inferior"
    assert report.accuracy.candidate == 0
    assert any(reason.startswith("precision of new labels") for reason in report.reasons)


def test_test_rows_that_the_champion_may_have_seen_are_refused_in_spite_of_new_labels(
    run_file: Path,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, known = bundles("single"), same("billing", "delivery")
    champion = with_labels(
        whole, tmp_path / "old", known, data={"test": {"rows": 41, "sha256": "0" * 64}}
    )

    assert gate(run_file, whole, champion, "gate.min_test_rows=10") == 2

    assert "may include rows that it was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "renamed",
    [{"login": "access"}, {"login": "account", "billing": "account"}],
    ids=["one", "two become one"],
)
def test_renamed_labels_are_matched_by_label_map(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path, renamed: dict[str, str]
) -> None:
    whole = bundles("single")
    names = {label: renamed.get(label, label) for label in ("billing", "delivery", "login")}
    shown = ", ".join(f"{old}: {new}" for old, new in renamed.items())
    kept = {old: new for old, new in names.items() if list(names.values()).index(new) ==
            list(names).index(old)}  # fmt: skip
    data = {"test": fingerprint(run_file, names)}
    candidate = with_labels(whole, tmp_path / "new", kept, data=data)

    code = gate(run_file, candidate, whole, f"data.label_map={{{shown}}}")

    assert code in (0, 1)
    report = report_of(run_file)
    assert report.renamed == renamed
    assert report.rows == 60
    assert report.accuracy.champion > 0.5


def test_label_that_disappears_leaves_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="does not know the champion's label 'b'"):
        share_labels(["a", "b"], ["a", "c"], {"x": "c"})


def test_new_label_is_refused_without_rows_and_below_its_floor() -> None:
    truth = np.zeros((6, 2), dtype=bool)
    truth[:4, 0] = True
    predicted = truth.copy()
    predicted[:3, 0] = False

    checks = new_label_checks(truth, predicted[None], ["a", "b"], min_recall=0.5, min_precision=0.5)

    assert [check.passed for check in checks] == [False, False]
    assert "no test rows of b" in checks[0].detail
    assert "a 0.250 (1 of 4" in checks[0].detail
    assert "no predictions of b" in checks[1].detail


def test_an_answer_with_a_new_label_has_the_confidence_that_the_shared_ones_leave() -> None:
    reference_NC = np.eye(2, dtype=bool)
    old = Predictions(
        probabilities_NC=np.eye(2, dtype=np.float32),
        predicted_NC=reference_NC,
        reference_NC=reference_NC,
    )
    new = Predictions(
        probabilities_NC=np.array([[0.1, 0.0], [0.75, 0.25]], dtype=np.float32),
        predicted_NC=np.array([[False, False], [True, False]]),
        reference_NC=reference_NC,
    )

    changes = find_changes(
        Split(texts=["one", "two"], labels=[("a",), ("b",)]), old, new, labels="ab",
        task="single_label", new_labels=["c"], predicted_new=np.array([[True], [False]]),
    )  # fmt: skip

    assert [(each.text, each.candidate) for each in changes] == [("one", ("c",)), ("two", ("a",))]
    assert [each.confidence for each in changes] == pytest.approx([0.9, 0.75])

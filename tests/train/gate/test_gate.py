"""The gate on real bundles: which pass, which are refused and why, which are not compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gating import altered, gate, report_of, write_run
from rows import make_rows, write_jsonl

from serve.bundle.seal import open_bundle
from serve.tables import read_rows
from train.__main__ import main
from train.config.run import RunConfig
from train.config.sections import GateSection
from train.data.splits import load_data
from train.fit.resume import run_identity
from train.gate.report import GateReport


@pytest.fixture
def run_file(bundles: Callable[[str], Path], tmp_path: Path) -> Path:
    """The configuration that the bundles of "single" were made with, and a gate section."""
    return write_run(open_bundle(bundles("single")).manifest, tmp_path)


def zeroed_head(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: 0 * value if name.startswith("classifier") else value
            for name, value in tensors.items()}  # fmt: skip


def test_champion_against_itself_is_non_inferior_and_not_superior(
    run_file: Path, bundles: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundles("single")

    assert gate(run_file, bundle, bundle) == 1

    report = report_of(run_file)
    version = open_bundle(bundle).manifest.version
    assert (run_file.parent / "run" / f"gate-{version}-vs-{version}.json").is_file()
    assert report.verdict == "non_inferior"
    assert report.accuracy.difference == 0.0
    assert report.test == open_bundle(bundle).manifest.data["test"]
    assert report.candidates == report.champions
    assert all(check.passed for check in report.checks)
    text = capsys.readouterr().out
    assert "not significantly better" in text
    assert text.startswith("NOT PASSED: its accuracy is not significantly better (+0.0 points")
    page = (run_file.parent / "run" / f"gate-{version}-vs-{version}.html").read_text()
    assert "<b>Not passed</b>: its accuracy is not significantly better" in page
    assert "Both bundles give the same answer to every test text." in page
    changed = run_file.parent / "run" / f"gate-{version}-vs-{version}-changed.parquet"
    assert list(read_rows(changed)) == []

    (run_file.parent / "run" / f"gate-{version}-vs-{version}.json").unlink()
    assert gate(run_file, bundle, bundle, "gate.require=non_inferior") == 0
    assert capsys.readouterr().out.startswith("PASSED: its accuracy is less than 10 points lower")
    assert report_of(run_file).passed


def test_backend_of_the_server_is_the_default_and_recorded(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle, output = str(bundles("single")), tmp_path / "elsewhere" / "gate.json"

    code = main(
        ["gate", "--config", str(run_file), "--candidate", bundle, "--champion", bundle,
         "--device", "cpu", "--output", str(output), "gate.require=non_inferior"]
    )  # fmt: skip

    assert code == 0
    report = GateReport.model_validate_json(output.read_bytes())
    assert (report.candidates[0].backend, report.candidates[0].precision) == ("onnx", "int8")


def test_damaged_candidate_is_refused_and_the_repaired_one_is_superior_to_it(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = bundles("single")
    damaged = altered(whole, tmp_path, tensors=zeroed_head)

    assert gate(run_file, damaged, whole, "--output", tmp_path / "damaged.json") == 1
    assert gate(run_file, whole, damaged, "--output", tmp_path / "repaired.json") == 0

    refused = GateReport.model_validate_json((tmp_path / "damaged.json").read_bytes())
    assert refused.verdict == "inferior"
    assert "accuracy is significantly worse" in refused.reasons[0]
    assert any(reason.startswith("macro-F1: ") for reason in refused.reasons)
    assert any(
        reason.startswith("per-label recall: significant drop") for reason in refused.reasons
    )
    passed = GateReport.model_validate_json((tmp_path / "repaired.json").read_bytes())
    assert passed.verdict == "superior"
    assert passed.accuracy.difference == -refused.accuracy.difference


def test_labels_in_another_order_are_aligned_by_name(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    order = [2, 0, 1]
    whole = bundles("single")
    labels = open_bundle(whole).manifest.labels
    names = [labels[n] for n in order]

    def permute(tensors: dict[str, Any]) -> dict[str, Any]:
        head = {name: np.ascontiguousarray(value[order]) for name, value in tensors.items()
                if name.startswith("classifier")}  # fmt: skip
        assert head
        return tensors | head

    permuted = altered(
        whole,
        tmp_path,
        tensors=permute,
        config=lambda values: values | {
            "id2label": {str(n): name for n, name in enumerate(names)},
            "label2id": {name: n for n, name in enumerate(names)},
        },
        labels=tuple(names),
    )  # fmt: skip

    assert gate(run_file, permuted, whole, "gate.require=non_inferior") == 0

    report = report_of(run_file)
    assert report.accuracy.gained == report.accuracy.lost == 0.0
    assert report.accuracy.candidate > 0.5


def test_candidate_without_a_label_of_the_champion_is_not_compared(
    run_file: Path,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = ("billing", "delivery", "refunds")

    def config(values: dict[str, Any]) -> dict[str, Any]:
        return values | {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        }

    other = altered(bundles("single"), tmp_path, config=config, labels=labels)

    assert gate(run_file, other, bundles("single")) == 2

    assert "does not know the champion's label 'login'" in capsys.readouterr().err


def test_other_test_rows_are_not_compared_and_the_bundle_is_named(
    run_file: Path,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = bundles("single")
    data = open_bundle(whole).manifest.data
    stranger = altered(whole, tmp_path, data=data | {"test": {"rows": 60, "sha256": "0" * 64}})
    changed = write_jsonl(tmp_path / "changed.jsonl", make_rows(60, seed=9))

    assert gate(run_file, stranger, whole) == 2
    assert f"candidate `{stranger}` records 60 test rows" in capsys.readouterr().err
    assert gate(run_file, whole, stranger) == 2
    assert f"champion `{stranger}` records 60 test rows" in capsys.readouterr().err
    assert gate(run_file, whole, whole, f"data.test={changed}") == 2
    assert "test rows with SHA-256" in capsys.readouterr().err
    assert not list((run_file.parent / "run").glob("gate-*"))


def test_several_seeds_are_judged_together(
    run_file: Path,
    bundles: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = bundles("single")
    damaged = altered(whole, tmp_path, tensors=zeroed_head)

    assert gate(run_file, whole, damaged, "--candidate", whole) == 0
    assert gate(run_file, whole, damaged, "--champion", whole) == 2

    assert "1 candidates and 2 champions" in capsys.readouterr().err
    report = report_of(run_file)
    assert len(report.candidates) == 2
    assert "candidate's seeds" in report.accuracy.covers


def test_models_of_another_task_are_not_compared(
    bundles: Callable[[str], Path], run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(run_file, bundles("multi"), bundles("single")) == 2

    assert "is a multi_label model" in capsys.readouterr().err


def test_multi_label_bundles_are_compared_by_exact_sets(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = bundles("multi")
    run_file = write_run(open_bundle(bundle).manifest, tmp_path, require="non_inferior")

    assert gate(run_file, bundle, bundle) == 0

    assert report_of(run_file).verdict == "non_inferior"


def test_gate_settings_do_not_change_the_identity_of_a_run(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path / "run"))
    stricter = config.model_copy(update={"gate": GateSection(alpha=0.01)})
    data = load_data(config)

    assert run_identity(config, data, global_batch=16) == run_identity(
        stricter, data, global_batch=16
    )


def test_texts_with_another_answer_are_listed_by_what_became_of_them(
    run_file: Path, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    worse = altered(bundles("single"), tmp_path, tensors=zeroed_head)

    assert gate(run_file, worse, bundles("single")) == 1

    (file,) = (run_file.parent / "run").glob("gate-*-changed.parquet")
    rows = list(read_rows(file))
    page = file.with_name(file.name.replace("-changed.parquet", ".html")).read_text()
    assert rows
    for row in rows:
        right = row["champion"] == row["label"], row["candidate"] == row["label"]
        expected = {(True, False): "broken", (False, True): "fixed", (False, False): "both wrong"}
        assert row["outcome"] == expected[right]
    assert "Right before, wrong now" in page
    assert page.index("refused</b>") < page.index("passed</b></td>")

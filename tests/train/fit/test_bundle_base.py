"""Training that goes on from a bundle: known labels keep their head, new ones get rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rows import make_rows, write_jsonl

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from train.__main__ import main
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.fit import fit
from train.merge.merge import merge
from train.model.base import last_linear, load_base

Make = Callable[..., dict[str, Any]]


def config_on(base: Path, make_config: Make, output: Path, **sections: Any) -> RunConfig:
    model = {"base": f"bundle:{base}"}
    return RunConfig.model_validate(make_config(output, model=model, **sections))


def with_a_new_label(values: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Rows of a fourth label in train, and at the end of test."""
    data = dict(values["data"])
    for name, count in (("train", 40), ("test", 10)):
        rows = [json.loads(line) for line in Path(data[name]).read_text().splitlines()]
        more = [row | {"text": f"refund money back {row['text']}", "label": "refund"}
                for row in make_rows(count, seed=len(name))]  # fmt: skip
        data[name] = str(write_jsonl(directory / f"{name}.jsonl", rows + more))
    return values | {"data": data}


def test_known_labels_keep_their_rows_and_renamed_ones_too(
    bundles: Callable[[str], Path], make_config: Make, tmp_path: Path
) -> None:
    bundle = bundles("single")
    config = config_on(
        bundle, make_config, tmp_path / "run", data={"label_map": {"login": "access"}}
    )
    labels = ("access", "billing", "delivery", "refund")

    base = load_base(config, labels)

    _, head = last_linear(base.model)
    old = Predictor.load(bundle, backend="torch").backend
    _, old_head = last_linear(old.model)  # type: ignore[attr-defined]
    assert base.new_outputs == (3,)
    order = [open_bundle(bundle).manifest.labels.index(each)
             for each in ("login", "billing", "delivery")]  # fmt: skip
    assert torch.equal(head.weight[:3], old_head.weight[order])
    assert torch.equal(head.bias[:3], old_head.bias[order])
    assert not head.weight[3].any()


def test_without_training_the_bundle_is_what_it_was(
    bundles: Callable[[str], Path],
    make_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = bundles("single")
    config = config_on(
        bundle,
        make_config,
        tmp_path / "run",
        trainer={"learning_rate": 1e-12},
        calibration={"temperature": False},
    )

    fit(config)
    again = merge(config)

    texts = load_data(config).test.texts
    before, after = (
        Predictor.load(each, backend="torch").predict(texts) for each in (bundle, again.path)
    )
    assert abs(before - after).max() < 1e-5
    output = capsys.readouterr().out
    assert "head: 3 labels keep their weights" in output
    assert "may have learned" not in output


@pytest.mark.slow
def test_a_new_label_is_learned_and_the_gate_compares_the_two(
    bundles: Callable[[str], Path],
    make_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = bundles("single")
    values = with_a_new_label(
        make_config(tmp_path / "run", model={"base": f"bundle:{bundle}"}), tmp_path
    )
    gate = {"require": "non_inferior", "min_test_rows": 20, "margin": 0.1, "f1_margin": 0.2,
            "max_latency_ratio": None, "max_ece_increase": 0.9, "resamples": 200}  # fmt: skip
    config = RunConfig.model_validate(values | {"gate": gate})
    file = tmp_path / "run.yaml"
    file.write_text(config.model_dump_json())

    fit(config)
    candidate = merge(config)

    assert "new: refund" in capsys.readouterr().out
    assert main(["gate", "--config", str(file), "--candidate", str(candidate.path),
                 "--champion", str(bundle)]) == 0  # fmt: skip
    assert "new labels: refund" in capsys.readouterr().out


def test_other_test_rows_are_said_to_be_suspect(
    bundles: Callable[[str], Path],
    make_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = str(write_jsonl(tmp_path / "test.jsonl", make_rows(60, seed=8)))
    config = config_on(
        bundles("single"), make_config, tmp_path / "run", data={"test": other}, method="probe"
    )

    fit(config)

    assert "may have learned from some of those here" in capsys.readouterr().out


def test_bundle_that_the_run_would_replace_is_refused(
    bundles: Callable[[str], Path], make_config: Make
) -> None:
    bundle = bundles("single")
    config = config_on(bundle, make_config, bundle.parent)

    with pytest.raises(ValueError, match="`merge` would replace it"):
        fit(config)


def test_pooling_of_the_bundle_is_required(
    bundles: Callable[[str], Path], make_config: Make, tmp_path: Path
) -> None:
    values = make_config(
        tmp_path / "run", model={"base": f"bundle:{bundles('single')}", "pooling": "mean"}
    )

    with pytest.raises(ValueError, match=r"was trained with model\.pooling: native"):
        fit(RunConfig.model_validate(values))


def test_altered_bundle_is_refused(make_config: Make, tmp_path: Path) -> None:
    values = make_config(tmp_path / "run", model={"base": "bundle:nowhere"})

    with pytest.raises(ValueError, match=r"model\.base `bundle:nowhere`: no bundle at"):
        fit(RunConfig.model_validate(values))

"""`method: auto`: the choice between a linear probe and LoRA, and what follows from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows import write_jsonl

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from train.config import auto
from train.config.run import RunConfig
from train.evaluation.evaluate import evaluate
from train.fit.choice import choose
from train.fit.choice.folds import fold_numbers, judged_rows
from train.fit.choice.judge import Candidate, best
from train.fit.choice.record import Choice, resolved
from train.fit.fit import fit, fit_unless_done
from train.fit.run import start_run
from train.merge.merge import merge
from train.model.base import load_base
from train.model.head import features, features_by_pooling
from train.publish.card import model_card
from train.publish.publish import publish
from train.tune.tune import prepare

MakeConfig = Callable[..., dict[str, Any]]


def config_of(values: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(values)


def choice_of(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "adapter" / "fit.json").read_text())["choice"])


@pytest.fixture(scope="module")
def run(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of method auto for the stock classes, merged and evaluated."""
    output = tmp_path_factory.mktemp("auto")
    config = config_of(make_config(output, method="auto", auto={"stock": True}))
    fit(config)
    merge(config)
    evaluate(config)
    return config


def test_choice_is_recorded_with_its_reason_and_what_every_stage_reads(run: RunConfig) -> None:
    choice = choice_of(run.output_dir)
    manifest = open_bundle(run.output_dir / "bundle").manifest

    assert choice["method"] in ("lora", "probe")
    assert choice["pooling"] == "native"
    assert f"cross-fitted on {choice['rows']} training rows" in choice["reason"]
    assert 40 <= choice["rows"] <= 269  # those of the parts that were needed
    assert {each["method"] for each in choice["candidates"]} == {"lora", "probe"}
    assert choice["trainer"] == {}  # the configuration sets epochs and rate
    assert manifest.choice == choice
    assert manifest.config["method"] == choice["method"]
    card = model_card(manifest, run.publish, target="dir", tag="v", report=None, plots=[])
    assert choice["reason"] in card
    page = (evaluate(run).directory / "report.html").read_text()
    assert "Choice of the method" in page
    assert "the lowest log-loss first" in page


def test_bundle_of_the_stock_choice_gives_the_same_answers_in_a_pipeline(run: RunConfig) -> None:
    from transformers import pipeline

    bundle = run.output_dir / "bundle"
    texts = ["my parcel is late", "the invoice is wrong"]
    stock = pipeline("text-classification", model=str(bundle), top_k=None)
    ours = Predictor.load(bundle, device="cpu", backend="torch")

    for text, probabilities_C in zip(texts, ours.predict(texts), strict=True):
        scores = {each["label"]: each["score"] for each in stock([text])[0]}
        wanted = dict(zip(ours.bundle.manifest.labels, probabilities_C.tolist(), strict=True))
        assert scores == pytest.approx(wanted, abs=1e-5)


def test_rerun_keeps_the_choice_and_other_data_are_refused(
    run: RunConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "look_at_rows", lambda _: pytest.fail("chose again"))
    fit_unless_done(run)
    assert "is up to date" in capsys.readouterr().out
    fit(run)  # from the last checkpoint, as after a kill

    rows = [json.loads(line) for line in Path(run.data.train).read_text().splitlines()]
    changed = run.output_dir / "changed.jsonl"
    write_jsonl(changed, rows[:-20])
    other = run.model_copy(update={"data": run.data.model_copy(update={"train": str(changed)})})
    with pytest.raises(ValueError, match="trained with a different configuration or data"):
        merge(other)


def test_tune_searches_over_the_settings_of_the_chosen_method(
    run: RunConfig, tmp_path: Path
) -> None:
    space = {"model.max_length": {"low": 16, "high": 32}}
    values = run.model_dump(mode="json") | {"tune": {"space": space}}

    assert prepare(config_of(values)).config.method == choice_of(run.output_dir)["method"]
    with pytest.raises(ValueError, match="run `textloop fit` first"):
        prepare(config_of(values | {"output_dir": str(tmp_path)}))


@pytest.mark.slow
def test_probe_is_chosen_where_training_adds_nothing_and_has_no_adapter(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"learning_rate": 0.0, "num_train_epochs": 1}
    values = make_config(tmp_path, method="auto", trainer=settings, publish={"adapter": True})
    config = config_of(values)

    fit(config)
    merge(config)

    assert choice_of(tmp_path)["method"] == "probe"
    assert "auto: the linear probe" in capsys.readouterr().out
    with pytest.raises(ValueError, match="method: probe trains no adapter"):
        publish(config, to=str(tmp_path / "published"))


@pytest.mark.parametrize(("lr", "method"), [(0.0, "lora"), (2.0, "probe")])
def test_validation_rows_decide_where_the_budget_forbids_folds(
    make_config: MakeConfig, tmp_path: Path, lr: float, method: str
) -> None:
    trainer = {"learning_rate": lr, "num_train_epochs": 1, "max_grad_norm": 100.0}
    auto = {"budget_minutes": 0, "stock": True}
    data = {"validation_fraction": 0.4}
    config = config_of(make_config(tmp_path, method="auto", trainer=trainer, auto=auto, data=data))

    fit(config)
    choice = choice_of(tmp_path)

    assert choice["method"] == method
    assert "validation rows" in choice["reason"]
    assert not choice["awaits_validation"]
    assert merge(config).manifest.config["method"] == method


@pytest.mark.slow
@pytest.mark.parametrize(("task", "columns"), [("multi_label", 1), ("single_label", 2)])
def test_several_labels_and_pairs_are_chosen_for_too(
    make_config: MakeConfig, tmp_path: Path, task: str, columns: int
) -> None:
    trainer = {"num_train_epochs": 1}
    config = config_of(
        make_config(tmp_path, task=task, columns=columns, method="auto", trainer=trainer)
    )

    fit(config)

    assert len(choice_of(tmp_path)["candidates"]) >= 3
    assert merge(config).manifest.task == task


def test_features_of_both_poolings_in_one_pass_are_those_of_either(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    texts = ["my parcel is late", "the invoice is wrong and late", "hello"]
    device = torch.device("cpu")
    found = {}
    for pooling in ("native", "mean"):
        config = config_of(make_config(tmp_path, model={"pooling": pooling}))
        base = load_base(config, ("a", "b"))
        encodings = base.encoder.encode(texts)
        found[pooling] = features(base.model, base.encoder, encodings, device=device)
    base = load_base(config_of(make_config(tmp_path)), ("a", "b"))

    both = features_by_pooling(base.model, base.encoder, encodings, device=device)

    assert both.keys() == found.keys()
    for pooling, features_ND in found.items():
        assert torch.allclose(both[pooling], features_ND, atol=1e-5)


def test_equal_texts_stay_in_one_fold_and_labels_are_spread() -> None:
    texts = [f"text {n}" for n in range(40)] + [f"Text  {n}!" for n in range(40)] + ["single"]
    labels = [n % 2 for n in range(80)] + [2]
    given_NC = np.eye(3, dtype=bool)[labels]

    fold_N = fold_numbers(texts, given_NC, folds=4, seed=0)

    assert (fold_N[:40] == fold_N[40:80]).all()
    for fold in range(4):
        assert given_NC[fold_N == fold].sum(axis=0)[:2].tolist() == [10, 10]
    assert judged_rows(given_NC, fold_N, "single_label").tolist() == [True] * 80 + [False]


def test_mean_pooling_is_taken_only_if_its_gain_is_shown() -> None:
    random = np.random.default_rng(0)
    base_N = random.normal(1.0, 0.5, 300)

    def candidate(method: str, pooling: str, gain: float) -> Candidate:
        losses_N = base_N - gain + random.normal(0, 0.5, 300)
        return Candidate(
            method=method, pooling=pooling, losses_N=losses_N, correct_N=losses_N < 0.7
        )

    native = candidate("lora", "native", 0.2)
    probe = candidate("probe", "native", 0.0)

    assert best([probe, native, candidate("lora", "mean", 0.22)]) is native
    assert best([probe, native, mean := candidate("lora", "mean", 0.4)]) is mean


@pytest.mark.parametrize("method", ["probe", "lora", "full"])
def test_every_method_prints_the_cross_fitted_probe(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    fit(config_of(make_config(tmp_path, method=method, trainer={"num_train_epochs": 1})))

    printed = capsys.readouterr().out
    if method == "probe":
        assert re.search(r"a linear probe: accuracy 0\.\d+, cross-fitted on 269 rows", printed)
    else:
        assert re.search(
            r"accuracy: probe 0\.\d+, cross-fitted on 269 rows; on the 31 validation rows probe "
            r"0\.\d+, trained model 0\.\d+\n",
            printed,
        )


def test_many_rows_are_trained_on_as_by_lora_and_the_method_is_chosen_afterwards(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "CROSS_FIT_ROWS", 100)
    config = config_of(make_config(tmp_path, method="auto", trainer={"num_train_epochs": 1}))

    fit(config)

    choice = choice_of(tmp_path)
    assert choice["pooling"] == "native"
    assert choice["rows"] == 31
    assert choice["probe_l2"] == 10.0
    lora = make_config(tmp_path / "lora", trainer={"num_train_epochs": 1})
    fit(config_of(lora))
    logs = [
        json.loads((each / "adapter" / "fit.json").read_text())["log_history"]
        for each in (tmp_path, tmp_path / "lora")
    ]
    losses = [[line["eval_loss"] for line in log if "eval_loss" in line] for log in logs]
    assert losses[0] == losses[1]


def test_rows_that_show_nothing_give_a_probe(make_config: MakeConfig, tmp_path: Path) -> None:
    values = make_config(tmp_path / "run", method="auto")
    rows = [json.loads(line) for line in Path(values["data"]["train"]).read_text().splitlines()]
    values["data"]["train"] = str(write_jsonl(tmp_path / "few.jsonl", rows[:15]))

    fit(config_of(values))

    choice = choice_of(tmp_path / "run")
    assert choice["method"] == "probe"
    assert "too few to choose by" in choice["reason"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"head_init": "random"}, "`method: auto` starts LoRA from the probe"),
        ({"pooling": "mean"}, "`auto.stock` rules `model.pooling: mean` out"),
    ],
)
def test_what_contradicts_the_choice_is_refused(
    make_config: MakeConfig, tmp_path: Path, model: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(make_config(tmp_path, method="auto", auto={"stock": True}, model=model))


def test_the_recipe_is_that_of_the_rows_where_nothing_is_set(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"label {number}" for number in range(20)]
    rows = [{"text": f"{name} {n}", "label": name} for n in range(6) for name in names]
    file = write_jsonl(tmp_path / "t.jsonl", rows)
    values = make_config(tmp_path, method="auto", data={"train": str(file), "test": None})

    def recipe_of(**sections: Any) -> tuple[dict[str, Any], float]:
        run = start_run(config_of(values | {"trainer": {}} | sections), None)
        recipe = choose._recipe_of(run)
        choice = Choice(method="lora", pooling="native", probe_l2=1.0, **recipe)
        return recipe["trainer"], resolved(run.config, choice).loss.label_smoothing

    assert recipe_of() == ({"num_train_epochs": 20, "learning_rate": 1e-3}, 0.0)
    monkeypatch.setattr(auto, "MANY_ROWS", 50)
    assert recipe_of() == ({"num_train_epochs": 22, "learning_rate": 1.5e-3}, 0.05)
    assert recipe_of(loss={"label_smoothing": 0.0})[1] == 0.0
    assert recipe_of(trainer={"learning_rate": 1e-4, "max_steps": 9}) == ({}, 0.05)
    write_jsonl(file, [row | {"label": row["label"][:7]} for row in rows])
    assert recipe_of() == ({"num_train_epochs": 20, "learning_rate": 1e-3}, 0.0)

"""Mistakes in the `trainer` section and in class weights are named when the YAML is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from processes import run
from transformers import TrainingArguments

from serve.config import load_config
from train.config.run import RunConfig
from train.config.trainer_keys import OWNED, RENAMED, VALIDATION_METRICS, fields
from train.fit.arguments import training_arguments
from train.fit.training_metrics import ValidationMetrics

RUN = ["output_dir=x", "data.train=y", "model.base=z"]


def of(*overrides: str) -> RunConfig:
    return load_config(RunConfig, None, [*RUN, *overrides])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", r"`trainer.learning_rat` is not .*did you mean `trainer.learning_rate`"),
        ("nothing_like_it=1", r"`trainer.nothing_like_it` is not a field of TrainingArguments$"),
        ("warmup_ratio=0.1", r"use trainer.warmup_steps"),
        ("evaluation_strategy=epoch", r"use trainer.eval_strategy"),
        ("no_cuda=true", r"use trainer.use_cpu"),
        ("learning_rate=fast", r"`trainer.learning_rate` = 'fast': expected a number"),
        ("num_train_epochs=[3]", r"`trainer.num_train_epochs` = \[3\]: expected a number"),
        ("bf16=yes", r"`trainer.bf16` = 'yes': expected true or false"),
        ("max_steps=1.0", r"`trainer.max_steps` = 1.0: expected an integer, written without"),
        ("weight_decay=true", r"`trainer.weight_decay` = True: expected a number"),
        ("tf32=1", r"`trainer.tf32` = 1: expected true or false or null"),
        ("per_device_train_batch_size=0", r"expected at least 1"),
        ("learning_rate=-1", r"`trainer.learning_rate` = -1: expected at least 0"),
        ("learning_rate=.nan", r"expected a finite number"),
        ("adam_beta2=1.5", r"from 0 to below 1"),
        ("save_total_limit=1", r"at least 2: the best and the last checkpoint are both kept"),
        ("prediction_loss_only=true", r"evaluations must measure the metrics"),
        ("eval_strategy=no", r"= 'no': expected epoch or steps: the best checkpoint is chosen by"),
        ("save_strategy=no", r"= 'no': expected .*: the best checkpoint is kept"),
        (
            "eval_strategy=steps",
            r"eval_strategy is steps and trainer.save_strategy epoch: set",
        ),
        (
            "metric_for_best_model=f1",
            r"`f1` is not measured; did you mean `f1:LABEL`\? known: .* precision:LABEL or ",
        ),
        ("metric_for_best_model=f1_spam", r"did you mean `f1:spam`\?"),
        ("metric_for_best_model=Recall:spam", r"did you mean `recall:spam`\?"),
        ("metric_for_best_model=f1:", r"expected text or null, such as 'f1:LABEL'"),
        ("metric_for_best_model='f1:'", r"did you mean `f1:LABEL`\?"),
        ("metric_for_best_model=f1_makro", r"did you mean `f1_macro`\?"),
        (
            "metric_for_best_model=eval_mcc",
            r"`eval_mcc` is not measured; known: loss, log_loss, accuracy",
        ),
        ("greater_is_better=false trainer.metric_for_best_model=accuracy", r"the worst checkpoint"),
        ("greater_is_better=true trainer.metric_for_best_model=eval_loss", r"the worst checkpoint"),
    ],
)
def test_mistakes_are_named_with_their_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(*f"trainer.{override}".split(" "))


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ({"save_steps": 20, "eval_steps": 10}, True),
        ({"save_steps": 15, "eval_steps": 10}, False),
        ({"save_steps": 0.5, "eval_steps": 0.1}, True),
        ({"save_steps": 0.5, "eval_steps": 10}, False),
        ({"save_steps": 40}, True),  # evaluated as often as logged, every 20 steps
        ({"save_steps": 30}, False),
        ({"save_steps": 30, "logging_steps": 15}, True),
    ],
)
def test_checkpoints_are_saved_where_they_are_evaluated(values: dict[str, Any], fits: bool) -> None:
    steps = {"eval_strategy": "steps", "save_strategy": "steps", **values}
    overrides = [f"trainer.{key}={value}" for key, value in steps.items()]

    if fits:
        training_arguments(of(*overrides, "trainer.use_cpu=true"))
    else:
        with pytest.raises(ValueError, match=r"is not a multiple of trainer.eval_steps"):
            of(*overrides)


@pytest.mark.parametrize(
    "metric",
    [*VALIDATION_METRICS, "eval_f1_macro", "eval_loss", "f1:spam", "recall:a:b c", "eval_f1:x"],
)
def test_every_measured_metric_can_choose_the_checkpoint(metric: str) -> None:
    assert of(f"trainer.metric_for_best_model={metric}", f"tune.metric={metric}")


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("loss", False),
        ("eval_log_loss", False),
        ("f1:data loss", True),
        ("eval_recall:loss", True),
    ],
)
def test_only_a_loss_is_better_when_less(metric: str, greater: bool) -> None:
    config = of(f"trainer.metric_for_best_model={metric}", "trainer.use_cpu=true")

    assert training_arguments(config).greater_is_better is greater


def test_the_metrics_are_those_that_evaluations_measure() -> None:
    logits_NC, labels_N = np.eye(2, dtype=np.float32), np.arange(2)

    assert {*VALIDATION_METRICS} == {
        "loss",
        *ValidationMetrics("single_label", ("a", "b")).of(logits_NC, labels_N),
    }


def test_the_fields_read_from_the_source_are_those_of_the_class() -> None:
    real = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}

    assert fields().keys() == real
    assert not RENAMED.keys() & real


def test_every_managed_field_is_refused() -> None:
    for name, remedy in OWNED.items():
        with pytest.raises(ValueError, match="is managed by Textloop") as refusal:
            of(f"trainer.{name}=1")
        assert remedy in str(refusal.value)


def test_what_transformers_refuses_is_named_with_its_key() -> None:
    with pytest.raises(ValueError, match=r"`trainer.lr_scheduler_type` = 'cosin': cosin is not a"):
        training_arguments(of("trainer.lr_scheduler_type=cosin", "trainer.warmup_steps=5"))


@pytest.mark.parametrize("weight", ["0", "-1", ".nan", ".inf", "true", "much"])
def test_class_weights_are_finite_and_positive(weight: str) -> None:
    with pytest.raises(ValueError, match="the weight of 'spam' must be a finite number over 0"):
        of(f"loss.class_weights.spam={weight}")


@pytest.mark.parametrize("value", ["balance", "3", "[1, 2]"])
def test_other_class_weights_are_refused_in_plain_words(value: str) -> None:
    with pytest.raises(ValueError, match=r"expected `balanced`, or a weight per label") as refusal:
        of(f"loss.class_weights={value}")
    assert "literal" not in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "names"), [("query", ("query",)), ("[query, value]", ("query", "value"))]
)
def test_one_target_needs_no_list(value: str, names: tuple[str, ...]) -> None:
    assert of(f"lora.target_modules={value}").lora.target_modules == names


@pytest.mark.parametrize("value", ["[]", "[a, '']"])
def test_targets_that_are_no_names_are_refused_in_plain_words(value: str) -> None:
    with pytest.raises(ValueError, match=r"expected (all-linear, or )?names of layers"):
        of(f"lora.target_modules={value}")


def test_logging_bears_on_nothing_unless_evaluations_follow_it() -> None:
    steps = ("trainer.eval_strategy=steps", "trainer.save_strategy=best")
    often = "trainer.logging_steps=1"

    assert of(often).training_settings() == of().training_settings()
    assert of(*steps, often).training_settings() != of(*steps).training_settings()
    fixed = (*steps, "trainer.eval_steps=5")
    assert of(*fixed, often).training_settings() == of(*fixed).training_settings()


def test_a_wrong_path_is_named_before_pytorch_is_imported() -> None:
    code = (
        "import sys; from train.__main__ import main; "
        "code = main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    )
    config = "configs/quickstart/quickstart.yaml"

    for stage, override, message in (
        ("fit", "data.train=/nowhere.csv", "data.train: cannot read `/nowhere.csv`"),
        ("prepare", "model.base=/nowhere", "model.base `/nowhere` is no directory"),
        ("run", "model.max_length=513", "model.max_length = 513"),
        ("merge", "output_dir=/nowhere", "`/nowhere/adapter` has no trained model"),
    ):
        done = run("-c", code, stage, "--config", config, override)
        assert message in done.stderr
        assert done.stdout.split() == ["2", "False"]

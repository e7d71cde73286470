"""The `trainer` section of a run: fields of transformers.TrainingArguments, checked unimported.

Importing transformers' Trainer takes seconds, so names and types are read from its source. What
depends on the machine is left to TrainingArguments itself, in `train.fit.arguments`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

VALIDATION_METRICS = ("loss", "log_loss", "accuracy", "f1_macro", "f1_micro", "f1_weighted")
"""Measured by each evaluation during training; log_loss: see `train.statistics.calibrated_loss`."""

LABEL_METRICS = ("f1", "precision", "recall")
"""Those of one label, as `f1:LABEL`."""

OWNED = {
    "output_dir": "set output_dir",
    "seed": "set seed",
    "data_seed": "set seed",
    "label_smoothing_factor": "set loss.label_smoothing",
    "train_sampling_strategy": "set data.group_by_length",
    "group_by_length": "set data.group_by_length",
    "remove_unused_columns": "set data.text_columns and data.label_column",
    "resume_from_checkpoint": "a rerun resumes automatically, and `fit --fresh` restarts",
    "do_train": "`fit` always trains",
    "do_eval": "set trainer.eval_strategy",
    "load_best_model_at_end": "the best checkpoint is always kept",
    "save_only_model": "a checkpoint without optimizer state cannot be resumed",
    "dataloader_drop_last": "the sampler returns complete global batches",
    "auto_find_batch_size": "set trainer.per_device_train_batch_size",
    "batch_eval_metrics": "metrics are computed on all rows at once",
    "accelerator_config": "batch distribution across processes cannot be changed",
    "ignore_data_skip": "a resumed run sees the same rows as an uninterrupted one",
    "restore_callback_states_from_checkpoint": "callbacks are always restored",
    "hub_token": "set HF_TOKEN or run `hf auth login`; configurations are published",
    "overwrite_output_dir": "`fit --fresh` restarts",
    "push_to_hub_token": "set HF_TOKEN or run `hf auth login`; configurations are published",
    "save_safetensors": "weights are always written as safetensors",
    "label_names": "the labels are those of the data",
}
"""Fields of TrainingArguments that Textloop sets, and what to set instead."""

RENAMED = {
    "evaluation_strategy": "trainer.eval_strategy",
    "warmup_ratio": "trainer.warmup_steps, where a number below 1 is a fraction of all steps",
    "no_cuda": "trainer.use_cpu",
    "use_mps_device": "nothing: a Mac's GPU is used if there is one",
    "per_gpu_train_batch_size": "trainer.per_device_train_batch_size",
    "per_gpu_eval_batch_size": "trainer.per_device_eval_batch_size",
    "batch_size": "trainer.per_device_train_batch_size",
    "train_batch_size": "trainer.per_device_train_batch_size",
    "eval_batch_size": "trainer.per_device_eval_batch_size",
    "lr": "trainer.learning_rate",
    "epochs": "trainer.num_train_epochs",
    "adafactor": "trainer.optim=adafactor",
    "torchdynamo": "trainer.torch_compile",
    "fp16_opt_level": "trainer.fp16",
    "fp16_backend": "trainer.fp16",
    "half_precision_backend": "trainer.bf16 or trainer.fp16",
    "push_to_hub_model_id": "trainer.hub_model_id",
    "push_to_hub_organization": "trainer.hub_model_id",
    "xpu_backend": "trainer.ddp_backend",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "early_stopping_patience": "early_stopping_patience, a key of the run itself",
    "max_seq_length": "model.max_length",
}
"""Names that transformers no longer has, or that other programs use, and the present ones."""

_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "eval_delay": 0,
    "dataloader_num_workers": 0,
    "save_total_limit": 2,
}
_ABOVE: dict[str, float] = dict.fromkeys(
    ("logging_steps", "eval_steps", "save_steps", "adam_epsilon"), 0
)
_FRACTION = ("adam_beta1", "adam_beta2")
_CHOICES = {
    "eval_strategy": ("epoch", "steps"),
    "save_strategy": ("epoch", "steps", "best"),
    "logging_strategy": ("no", "epoch", "steps"),
}
_WHY = {
    "eval_strategy": "the best checkpoint is chosen by evaluations",
    "save_strategy": "the best checkpoint is kept",
    "save_total_limit": "the best and the last checkpoint are both kept",
}

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Literal[False]": (bool,),
    "None": (type(None),),
    "dict": (dict,),
    "list": (list,),
}
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
    "None": "null",
}


def check_names_and_types(trainer: dict[str, Any]) -> None:
    """Raise ValueError, with the key, for a field that does not exist or has another type."""
    known = fields()
    for key, value in trainer.items():
        if key in OWNED:
            raise ValueError(f"`trainer.{key}` is managed by Textloop: {OWNED[key]}")
        if key in known:
            _check_type(key, value, known[key])
        elif known:
            raise ValueError(f"`trainer.{key}` is not a field of TrainingArguments{_hint(key)}")


def check_values(trainer: dict[str, Any]) -> None:
    """Raise ValueError, with the key, for a value that cannot train or choose a checkpoint."""
    for key, value in trainer.items():
        _check_value(key, value)
    if trainer.get("prediction_loss_only"):
        raise ValueError(
            "`trainer.prediction_loss_only` = True: evaluations must measure the metrics that are "
            "recorded with the model; remove it"
        )
    _check_strategies(trainer)
    _check_metric(trainer)


def _hint(key: str) -> str:
    if key in RENAMED:
        return f"; use {RENAMED[key]}"
    close = difflib.get_close_matches(key, fields().keys() - OWNED.keys(), n=1)
    return f"; did you mean `trainer.{close[0]}`?" if close else ""


def _check_type(key: str, value: Any, annotation: str) -> None:
    names = [each.strip().partition("[")[0] or each for each in annotation.split("|")]
    names = ["Literal[False]" if each.strip() == "Literal" else each for each in names]
    if any(_is(value, name) for name in names):
        return
    wanted = [_WORDS.get(name, "text" if name == "str" else "") for name in names]
    expected = " or ".join(dict.fromkeys(each for each in wanted if each))
    hint = ""
    if isinstance(value, float) and value.is_integer() and "int" in names:
        hint = ", written without a fraction"
    if isinstance(value, dict) and key == "metric_for_best_model":
        hint = ", such as 'f1:LABEL' without a blank, or in quotes"
    raise ValueError(f"`trainer.{key}` = {value!r}: expected {expected}{hint}")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name in ("int", "float"):
        return False
    kinds = _KINDS.get(name)
    return isinstance(value, str) if kinds is None else isinstance(value, kinds)


def _check_value(key: str, value: Any) -> None:
    why = f": {_WHY[key]}" if key in _WHY else ""
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ValueError(f"`trainer.{key}` = {value!r}: expected {' or '.join(_CHOICES[key])}{why}")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not math.isfinite(value):
        raise ValueError(f"`trainer.{key}` = {value!r}: expected a finite number")
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        raise ValueError(f"`trainer.{key}` = {value!r}: expected at least {_AT_LEAST[key]}{why}")
    if key in _ABOVE and value <= 0:
        raise ValueError(f"`trainer.{key}` = {value!r}: expected more than 0")
    if key in _FRACTION and not 0 <= value < 1:
        raise ValueError(f"`trainer.{key}` = {value!r}: expected a number from 0 to below 1")


def _check_strategies(trainer: dict[str, Any]) -> None:
    evaluation = trainer.get("eval_strategy", "epoch")
    save = trainer.get("save_strategy", "epoch")
    if save not in ("best", evaluation):
        raise ValueError(
            f"trainer.eval_strategy is {evaluation} and trainer.save_strategy {save}: set both to "
            "the same, or save_strategy to best, since each checkpoint is saved with an evaluation"
        )
    if save != "steps":
        return
    eval_steps = trainer.get("eval_steps") or trainer.get("logging_steps", LOGGING_STEPS)
    save_steps = trainer.get("save_steps", SAVE_STEPS)
    if (save_steps < 1) == (eval_steps < 1) and round(save_steps / eval_steps, 6) % 1 == 0:
        return
    raise ValueError(
        f"trainer.save_steps = {save_steps} is not a multiple of trainer.eval_steps = "
        f"{eval_steps}; each checkpoint is saved with an evaluation"
    )


LOGGING_STEPS = 20
"""Textloop's default, which transformers also takes for `eval_steps` where that is not set."""

SAVE_STEPS = 500
"""Default of transformers."""


def metric_problem(name: str) -> str | None:
    """Return why a metric cannot be optimized, or None; the prefix `eval_` is optional.

    Whether the label of `f1:LABEL` exists is known when the data are read, see
    `train.data.split_checks`.
    """
    plain = name.removeprefix("eval_")
    if plain in VALIDATION_METRICS or label_metric(name):
        return None
    close = difflib.get_close_matches(plain, VALIDATION_METRICS, n=1, cutoff=0.75)
    measure = next((each for each in LABEL_METRICS if plain.lower().startswith(each)), None)
    hint = ""
    if close:
        hint = f"did you mean `{close[0]}`? "
    elif measure:
        label = plain[len(measure) :].lstrip("_-.: ") or "LABEL"
        hint = f"did you mean `{measure}:{label}`? "
    of_labels = " or ".join(f"{each}:LABEL" for each in LABEL_METRICS)
    return f"`{name}` is not measured; {hint}known: {', '.join(VALIDATION_METRICS)}, {of_labels}"


def label_metric(name: str) -> tuple[str, str] | None:
    """Return measure and label of a metric such as `f1:spam`; None for one of all labels."""
    measure, _, label = name.removeprefix("eval_").partition(":")
    return (measure, label) if measure in LABEL_METRICS and label else None


def is_loss(metric: str) -> bool:
    """Whether less is better; transformers would take `f1:data loss` for a loss."""
    return metric.removeprefix("eval_") in ("loss", "log_loss")


def _check_metric(trainer: dict[str, Any]) -> None:
    if (metric := trainer.get("metric_for_best_model")) is None:
        return
    if problem := metric_problem(metric):
        raise ValueError(f"trainer.metric_for_best_model: {problem}")
    if trainer.get("greater_is_better", not is_loss(metric)) == is_loss(metric):
        raise ValueError(
            f"`trainer.greater_is_better` = {is_loss(metric)} would keep the worst checkpoint by "
            f"{metric}; remove it"
        )


def fields() -> dict[str, str]:
    """Return the fields of TrainingArguments and their types as in its source; {} without it."""
    return {name: ast.unparse(node.annotation) for name, node in _nodes().items()}


@functools.cache
def help_texts() -> dict[str, str]:
    """Return what transformers says of the fields, the first sentence of each; {} without it."""
    found = {}
    for name, node in _nodes().items():
        for each in ast.walk(node):
            if isinstance(each, ast.Dict):
                pairs = zip(each.keys, each.values, strict=True)
                texts = {ast.unparse(key): value for key, value in pairs if key is not None}
                text = texts.get("'help'")
                if isinstance(text, ast.Constant):
                    words = " ".join(str(text.value).split())
                    found[name] = words.partition(". ")[0].rstrip(".") + "."
    return found


@functools.cache
def _nodes() -> dict[str, ast.AnnAssign]:
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return {}
    source = Path(spec.submodule_search_locations[0], "training_args.py").read_text("utf-8")
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )
    return {
        each.target.id: each
        for each in found.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }

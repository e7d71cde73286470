"""The result of a run, `output_dir/adapter`: weights, tokenizer, and what `merge` needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.files import replace_directory, write_atomic
from serve.inference.pooling import set_custom_model_type
from serve.inference.scores import Array
from train.fit.run import Run
from train.statistics.metrics import shown_name

TRAINED_LOGITS = "validation_logits.npy"
"""File with the trained model's logits on the validation rows, sorted by length."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, and its results on the validation split."""

    write: Callable[[str], object]
    """Writes weights and tokenizer into a directory. Called in every process, because sharded
    weights are gathered there."""

    logits_NC: Array
    metrics: dict[str, float]
    record: dict[str, Any]
    """What `fit.json` states in addition."""


def save_trained(run: Run, trained: Trained) -> None:
    """Write the model and `fit.json` to `output_dir/adapter`, replacing what is there."""
    config = run.config
    staging = config.output_dir / ".adapter.staging"
    if run.state.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
    run.state.wait_for_everyone()
    trained.write(str(staging))
    if run.state.is_main_process:
        set_custom_model_type(staging)
        # A pickle with this machine's paths, and peft's empty model card.
        for leftover in ("training_args.bin", "README.md"):
            (staging / leftover).unlink(missing_ok=True)
        np.save(staging / TRAINED_LOGITS, trained.logits_NC)
        record = {
            "run": json.loads((config.output_dir / "run.json").read_text(encoding="utf-8")),
            "labels": run.data.labels,
            "validation": trained.metrics,
            **trained.record,
        }
        write_atomic(staging / "fit.json", json.dumps(record, indent=2).encode())
        replace_directory(staging, config.output_dir / "adapter")
    run.state.wait_for_everyone()


def print_best_metrics(run: Run, trained: Trained) -> dict[str, float]:
    """Print the best validation metrics and return them."""
    names = dict.fromkeys(("accuracy", "f1_macro", "loss", run.metric))
    best = {key: trained.metrics[key] for key in names}
    shown = (f"{shown_name(key, run.config.task)} {value:.4f}" for key, value in best.items())
    run.say(f"best on validation: {'  '.join(shown)}")
    run.say(f"wrote {run.config.output_dir / 'adapter'}")
    return best

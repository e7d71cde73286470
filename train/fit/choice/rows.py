"""The training rows as `method: auto` sees them: features, folds and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.fit.choice.folds import fold_numbers, judged_rows
from train.fit.encode import Inputs, encode_splits
from train.fit.run import Run
from train.fit.tokens import Tokens
from train.model.base import Base, last_linear, load_base
from train.model.head import features, features_by_pooling
from train.statistics.metrics import Choice as Flags
from train.statistics.metrics import given


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The training rows as the choice sees them."""

    targets: Tensor
    given_NC: Flags
    fold_N: NDArray[np.int64]
    judged_N: Flags
    features: dict[str, Tensor]
    """By pooling, (N, D)."""

    bias: bool
    """Whether the head has one."""


def look_at_rows(run: Run) -> Rows:
    """Compute the features of the training rows, and divide the rows into folds."""
    config, data = run.config, run.data
    base = load_base(config, data.labels)
    inputs = encode_splits(run, base)
    targets = torch.tensor(inputs.train["labels"])
    given_NC = given(targets, len(data.labels))
    folds = config.auto.folds_of(len(targets))
    fold_N = fold_numbers(data.train.texts, given_NC, folds=folds, seed=config.seed)
    poolings = ["native"] if config.auto.stock else ["native", "mean"]
    if config.model.pooling == "mean":
        poolings = ["mean"]
    features = _features(run, base, inputs, poolings)
    return Rows(
        targets=targets,
        given_NC=given_NC,
        fold_N=fold_N,
        judged_N=judged_rows(given_NC, fold_N, config.task),
        features=features,
        bias=last_linear(base.model)[1].bias is not None,
    )


def _features(run: Run, base: Base, inputs: Inputs, poolings: list[str]) -> dict[str, Tensor]:
    """Compute the features of the training rows under each pooling that the base has."""
    settings: dict[str, Any] = {"device": run.device, "states": inputs.states}
    encodings = Tokens(inputs.train, base.encoder.columns)
    has_own = hasattr(base.model.config, "classifier_pooling")  # ModernBERT
    passes = len(poolings) if has_own else 1
    with run.progress("features", texts=passes * len(encodings)) as bar:
        settings["progress"] = bar.update
        if len(poolings) == 2 and not has_own:
            return features_by_pooling(base.model, base.encoder, encodings, **settings)
        found = {poolings[0]: features(base.model, base.encoder, encodings, **settings)}
        if len(poolings) == 2:
            model = run.config.model.model_copy(update={"pooling": "mean"})
            config = run.config.model_copy(update={"model": model})
            other = load_base(config, run.data.labels)
            encode_splits(run, other)  # where layers are frozen, it makes them skippable
            found["mean"] = features(other.model, base.encoder, encodings, **settings)
        return found

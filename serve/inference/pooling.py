"""What of a text the head of a model sees: its first token, or the mean of all its tokens.

The stock heads of BERT and its kin look at the first token. Sentence encoders were made for
the mean, and with few examples a head on the mean is several points better. `MeanPooling`
puts the mean where the head looks, so that nothing else of a model changes.

What it gives up: the stock classes would load such weights without a word and give other
logits. So a directory of such a model names a model type of its own, which transformers
refuses, and which `load_classifier` knows.

Shape suffixes: N texts, L tokens, E hidden size, T tokens of all texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from serve.files import write_atomic

MODEL_TYPE = "textloop_mean_pooled"
"""The `model_type` that a directory of such a model states."""

POOLING, STOCK_TYPE = "textloop_pooling", "textloop_model_type"
"""Fields of its config.json: the kind of pooling, and the type of the model inside."""


def layers_of(model: Any) -> nn.ModuleList:
    """The transformer layers of a model, lowest first; ValueError if they cannot be told."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise ValueError(
        f"{type(model).__name__} has no list of {model.config.num_hidden_layers} layers"
    )


class MeanPooling:
    """Gives a classifier's head the mean of each text's last hidden states."""

    def __init__(self, model: Any) -> None:
        """Hook into a stock sequence classifier, in place.

        Raises ValueError if its head looks at anything but the first token.
        """
        self.is_off = False
        self._mask_NL: torch.Tensor | None = None
        self._last = layers_of(model)[-1]
        self._check_equivalence(model)
        self._last.register_forward_hook(self._pool)
        model.register_forward_pre_hook(self._look, with_kwargs=True)
        model.config.textloop_pooling = "mean"
        model.mean_pooling = self

    def _look(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._mask_NL = kwargs.get("attention_mask")

    def _pool(self, _: Any, __: Any, output: Any) -> Any:
        if self.is_off:
            return output
        states_NLE = output[0] if isinstance(output, tuple) else output
        if self._mask_NL is None:
            mean_NE = states_NLE.mean(dim=1)
        else:
            weights_NL1 = self._mask_NL.unsqueeze(-1).to(states_NLE.dtype)
            mean_NE = (states_NLE * weights_NL1).sum(dim=1) / weights_NL1.sum(dim=1)
        pooled_NLE = torch.cat([mean_NE.unsqueeze(1), states_NLE[:, 1:]], dim=1)
        return (pooled_NLE, *output[1:]) if isinstance(output, tuple) else pooled_NLE

    @torch.no_grad()
    def _check_equivalence(self, model: Any) -> None:
        """Change the last states of all tokens but the first; the logits must stay."""
        ids_NL = torch.arange(4, 12).remainder(model.config.vocab_size).unsqueeze(0)
        ids_NL = ids_NL.to(next(model.parameters()).device)

        def change(_: Any, __: Any, output: Any) -> Any:
            states_NLE = (output[0] if isinstance(output, tuple) else output).clone()
            states_NLE[:, 1:] = -states_NLE[:, 1:]
            return (states_NLE, *output[1:]) if isinstance(output, tuple) else states_NLE

        training = model.training
        model.eval()
        logits_NC = model(input_ids=ids_NL).logits
        handle = self._last.register_forward_hook(change)
        try:
            changed_NC = model(input_ids=ids_NL).logits
        finally:
            handle.remove()
            model.train(training)
        if not torch.allclose(logits_NC, changed_NC, atol=1e-5):
            raise ValueError(
                f"the head of {type(model).__name__} does not look at the first token alone, so "
                "it cannot be given the mean; set model.pooling: native"
            )


def means_of_segments(states_TE: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The mean of each text's rows, (N, E), for texts one behind another.

    ends: where each text starts, and at last where the last one ends; shape (N + 1,).
    """
    lengths_N = ends[1:] - ends[:-1]
    return torch.segment_reduce(states_TE.float(), "mean", lengths=lengths_N.long(), axis=0).to(
        states_TE.dtype
    )


def is_pooled(directory: Path) -> bool:
    """Whether the model in `directory` is mean-pooled, so that stock classes refuse it."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return bool(values["model_type"] == MODEL_TYPE)


def set_custom_model_type(directory: Path) -> None:
    """Make transformers refuse the model in `directory` if it is mean-pooled.

    An adapter, which has no config.json, is left as it is.
    """
    file = directory / "config.json"
    if not file.is_file():
        return
    values = json.loads(file.read_text(encoding="utf-8"))
    if values.get(POOLING) == "mean" and values["model_type"] != MODEL_TYPE:
        values |= {"model_type": MODEL_TYPE, STOCK_TYPE: values["model_type"]}
        write_atomic(file, json.dumps(values, indent=2).encode())


def load_classifier(path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A sequence classifier of either kind, and transformers' account of its weights.

    options: of `from_pretrained`.
    """
    values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if values["model_type"] == MODEL_TYPE:
        values["model_type"] = values.pop(STOCK_TYPE)
        settings: Any = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    else:
        settings = AutoConfig.from_pretrained(path, local_files_only=True)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        path, config=settings, local_files_only=True, output_loading_info=True, **options
    )
    if getattr(settings, POOLING, None) == "mean":
        MeanPooling(model)
    return model, info

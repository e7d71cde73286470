"""Mean pooling for stock sequence classifiers.

The stock heads of BERT and its relatives read the first token. Sentence encoders were trained
for the mean of all tokens, and with few examples a head on the mean is several points better.
`MeanPooling` writes the mean to the first token's position, so nothing else in the model changes.

The stock classes would load such weights without an error and compute different logits.
Therefore the saved directory states a model type of its own, which transformers refuses and
`load_classifier` recognizes.

Shape suffixes: N texts, L tokens, C labels, E hidden size, T tokens of all texts.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from serve.bundle.agreement import MEAN_POOLED, POOLING, STOCK_TYPE, code_problems
from serve.bundle.contents import CONFIG, parse_object
from serve.files import write_atomic
from serve.inference.equivalence import check_equivalent, evaluating
from serve.language.lines import first_line

TOLERANCE = 1e-5
"""Largest difference of logits for which a head counts as reading the first token alone."""


def layers_of(model: Any) -> nn.ModuleList:
    """Return the transformer layers, lowest first; ValueError if there is no list of them."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise ValueError(
        f"{type(model).__name__} has no list of {model.config.num_hidden_layers} layers"
    )


class MeanPooling:
    """Hooks that give a classifier's head the mean of each text's last hidden states."""

    def __init__(self, model: Any) -> None:
        """Hook into a stock sequence classifier, in place.

        Raises ValueError if its head reads any token but the first.
        """
        self.is_off = False
        self._mask_NL: torch.Tensor | None = None
        self._own = _PerThread()
        self._last = layers_of(model)[-1]
        self._check_first_token_head(model)
        self._last.register_forward_hook(self._pool)
        model.register_forward_pre_hook(self._keep_mask, with_kwargs=True)
        model.config.textloop_pooling = "mean"
        model.mean_pooling = self

    def _keep_mask(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # Passes side by side have one each. Backward runs a checkpointed layer in another thread.
        self._mask_NL = self._own.mask_NL = kwargs.get("attention_mask")

    def _pool(self, _: Any, __: Any, output: Any) -> Any:
        return output if self.is_off else self.pooled(output)

    def pooled(self, output: Any) -> Any:
        """Return the last layer's output with the mean at the first token's position."""
        states_NLE = _states(output)
        mask_NL = getattr(self._own, "mask_NL", self._mask_NL)
        if mask_NL is None:
            mean_NE = states_NLE.mean(dim=1)
        else:
            weights_NL1 = mask_NL.unsqueeze(-1).to(states_NLE.dtype)
            mean_NE = (states_NLE * weights_NL1).sum(dim=1) / weights_NL1.sum(dim=1)
        return _with_states(output, torch.cat([mean_NE.unsqueeze(1), states_NLE[:, 1:]], dim=1))

    def with_pooled(self, output: Any) -> Any:
        """Return the last layer's output, followed by the same with the mean: twice the texts."""
        both = torch.cat([_states(output), _states(self.pooled(output))])
        return _with_states(output, both)

    def _check_first_token_head(self, model: Any) -> None:
        """Negate the last states of all tokens but the first; the logits must not change."""
        device = next(model.parameters()).device
        ids_NL = torch.arange(4, 12, device=device).remainder(model.config.vocab_size).unsqueeze(0)

        def negate(_: Any, __: Any, output: Any) -> Any:
            states_NLE = _states(output)
            return _with_states(output, torch.cat([states_NLE[:, :1], -states_NLE[:, 1:]], dim=1))

        with evaluating(model, device):
            logits_NC = model(input_ids=ids_NL).logits
            handle = self._last.register_forward_hook(negate)
            try:
                changed_NC = model(input_ids=ids_NL).logits
            finally:
                handle.remove()
        check_equivalent(
            changed_NC,
            logits_NC,
            TOLERANCE,
            message=f"the head of {type(model).__name__} does not look at the first token alone, "
            "so it cannot be given the mean; set model.pooling: native",
        )


class _PerThread(threading.local):
    """Attributes of one thread; a copy has none, so that a model can be copied and pickled."""

    def __reduce__(self) -> Any:
        return _PerThread, ()


def _states(output: Any) -> torch.Tensor:
    """Return the hidden states in a layer's output, a tensor or a tuple that starts with them."""
    states_NLE: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states_NLE


def _with_states(output: Any, states_NLE: torch.Tensor) -> Any:
    return (states_NLE, *output[1:]) if isinstance(output, tuple) else states_NLE


def means_of_segments(states_TE: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Return the mean of each text's rows, (N, E), for concatenated texts.

    cu_seqlens: cumulative lengths, where each text starts and the last one ends; (N + 1,).
    """
    lengths_N = cu_seqlens.diff().long()
    # The safe variant checks the lengths on the host, which waits for the GPU.
    means_NE = torch.segment_reduce(
        states_TE.float(), "mean", lengths=lengths_N, axis=0, unsafe=True
    )
    return means_NE.to(states_TE.dtype)


def is_pooled(directory: Path) -> bool:
    """Return whether the model in `directory` is mean-pooled, so that stock classes refuse it."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return bool(values["model_type"] == MEAN_POOLED)


def set_custom_model_type(directory: Path) -> None:
    """Make transformers refuse the model in `directory` if it is mean-pooled.

    Does nothing for an adapter, which has no config.json.
    """
    file = directory / "config.json"
    if not file.is_file():
        return
    values = json.loads(file.read_text(encoding="utf-8"))
    if values.get(POOLING) == "mean" and values["model_type"] != MEAN_POOLED:
        values |= {"model_type": MEAN_POOLED, STOCK_TYPE: values["model_type"]}
        write_atomic(file, json.dumps(values, indent=2).encode())


def load_classifier(path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Load a sequence classifier, mean-pooled or not, with transformers' `loading_info`.

    options: passed to `from_pretrained`. Nothing is fetched and no code from the directory is
    run, whatever its files ask for. Raises ValueError that names the directory.
    """
    try:
        settings = stock_settings(path)
        # None: SDPA where the architecture has it, else eager, whatever config.json says.
        stated = {"attn_implementation": None, "experts_implementation": None} | options
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=settings,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **stated,
        )
    except Exception as error:  # damaged files raise errors of safetensors, json, torch, ...
        raise ValueError(f"the model in `{path}` cannot be loaded: {first_line(error)}") from error
    if getattr(settings, POOLING, None) == "mean":
        MeanPooling(model)
    return model, info


def stock_settings(path: Path) -> Any:
    """Load the configuration of the stock architecture. Raises ValueError if it is unknown."""
    values = parse_object((path / CONFIG).read_bytes())
    for problem in code_problems(values, CONFIG):
        raise ValueError(problem)
    if (path / "adapter_config.json").exists():
        raise ValueError("it has an adapter, whose weights may lie elsewhere; merge it first")
    if values.get("model_type") == MEAN_POOLED:
        values["model_type"] = values.pop(STOCK_TYPE)
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"transformers has no architecture {kind!r}")
    settings: Any = CONFIG_MAPPING[kind].from_dict(values)
    return settings


def usable_positions(model: Any) -> int | None:
    """Return how many tokens the model has positions for; None if it states no limit.

    RoBERTa and its relatives number them from the padding's own id + 1.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return table.num_embeddings - padding - 1
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None

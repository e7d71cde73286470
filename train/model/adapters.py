"""Select the weights that are trained: adapters, or the model's own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from serve.inference.pooling import layers_of
from train.config.run import RunConfig
from train.model.base import Base


def add_lora(base: Base, config: RunConfig) -> Any:
    """Wrap the base in adapters; `base.trained_modules` are trained and saved in full.

    peft saves `classifier` and `score` by itself, but neither a pooler nor a pre-classifier:
    a randomly initialized one would be frozen, and lost on reloading.
    """
    from peft import LoraConfig, get_peft_model

    fields = config.lora.model_dump(mode="json")
    if config.model.trained_layers is not None:
        fields["target_modules"] = _targets_in_trained_layers(base.model, config)
    settings = LoraConfig(
        task_type="SEQ_CLS",
        modules_to_save=list(base.trained_modules),
        exclude_modules=[
            name
            for name, module in base.model.named_modules()
            if isinstance(module, nn.Linear) and set(name.split(".")) & set(base.trained_modules)
        ],
        **fields,
    )
    with peft_warnings_off():
        return get_peft_model(base.model, settings)


def freeze_below(base: Base, config: RunConfig) -> Any:
    """Return the base itself, with everything below the trained layers frozen."""
    if config.model.trained_layers is not None:
        layers = layers_of(base.model)
        trained = {
            id(p) for layer in layers[-config.model.trained_layers :] for p in layer.parameters()
        }
        body = getattr(base.model, base.model.base_model_prefix)
        pooler = getattr(body, "pooler", None)
        if pooler is not None:
            trained |= {id(p) for p in pooler.parameters()}
        for parameter in body.parameters():
            parameter.requires_grad_(id(parameter) in trained)
    return base.model


def _targets_in_trained_layers(model: Any, config: RunConfig) -> list[str]:
    """Return the names of the linear layers in the trained layers that get an adapter."""
    count = config.model.trained_layers
    assert count is not None
    upper = {id(module) for layer in layers_of(model)[-count:] for module in layer.modules()}
    targets = [
        name
        for name, module in model.named_modules()
        if id(module) in upper
        and isinstance(module, nn.Linear)
        and _is_target(name, config.lora.target_modules)
    ]
    if not targets:
        raise ValueError(
            f"lora.target_modules = {config.lora.target_modules!r} names no linear layer among "
            f"the upper {count} layers"
        )
    return targets


def _is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    if targets == "all-linear":
        return True
    names = (targets,) if isinstance(targets, str) else targets
    return any(name == target or name.endswith(f".{target}") for target in names)


@contextlib.contextmanager
def peft_warnings_off() -> Iterator[None]:
    """Silence peft 0.21's use of a name that transformers 5.23 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        yield

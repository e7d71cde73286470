"""Select the weights that are trained: adapters, or the model's own.

Shape suffixes: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from serve.inference.pooling import layers_of
from train.config.run import RunConfig
from train.model.base import Base

_MATRICES = (nn.Linear, Conv1D)
"""Layers that multiply by a matrix; GPT-2 has those of the second kind."""


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
        model = get_peft_model(base.model, settings)
    fuse(model)
    return model


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


def check_targets(base: Base, config: RunConfig) -> None:
    """Raise ValueError for an entry of the `lora` section that no layer of the base matches.

    peft ignores it if another entry matches.
    """
    adaptable = {
        name: module
        for name, module in base.model.named_modules()
        if isinstance(module, (*_MATRICES, nn.Embedding, nn.MultiheadAttention))
        and not set(name.split(".")) & set(base.trained_modules)
    }
    linear = {n.rpartition(".")[2] for n, m in adaptable.items() if isinstance(m, _MATRICES)}
    if config.lora.target_modules == "all-linear" and not linear:
        raise ValueError(
            f"model.base `{config.model.base}` has no linear layer for an adapter; "
            "set method: full or method: probe"
        )
    targets, extra = config.lora.target_modules, config.lora.model_extra or {}
    for target in targets if targets != "all-linear" else ():
        if not any(_is_target(name, (target,)) for name in adaptable):
            raise ValueError(
                f"lora.target_modules names {target!r}, and `{config.model.base}` has no such "
                f"layer; known: all-linear, {', '.join(sorted(linear))}"
            )
    chosen = [name for name in adaptable if _is_target(name, targets)]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in extra.get(key) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in chosen):
                raise ValueError(f"lora.{key} names {pattern!r}, which matches no adapted layer")
    wanted = extra.get("layers_to_transform")
    count = base.model.config.num_hidden_layers
    for number in [wanted] if isinstance(wanted, int) else wanted or ():
        if not 0 <= number < count:
            raise ValueError(
                f"lora.layers_to_transform names layer {number}; the base has 0 to {count - 1}"
            )
    if config.model.trained_layers is not None:
        _targets_in_trained_layers(base.model, config)


def _targets_in_trained_layers(model: Any, config: RunConfig) -> list[str]:
    """Return the names of the linear layers in the trained layers that get an adapter."""
    count = config.model.trained_layers
    assert count is not None
    upper = {id(module) for layer in layers_of(model)[-count:] for module in layer.modules()}
    targets = [
        name
        for name, module in model.named_modules()
        if id(module) in upper
        and isinstance(module, _MATRICES)
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
    return any(name == target or name.endswith(f".{target}") for target in targets)


@contextlib.contextmanager
def peft_warnings_off() -> Iterator[None]:
    """Silence peft 0.21's use of a name that transformers 5.23 deprecates.

    And its note that it has set `fan_in_fan_out` as each kind of layer needs it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        yield


def fuse(model: Any) -> int:
    """Compute each plain adapter of a linear layer in one operation; returns their number.

    peft computes an adapter in five operations forward and more than ten backward, most of
    them passes over memory. On a CPU in fp32 this saves 4 to 7 % of a training step (MiniLM, all
    layers, batch 32, one thread). Adapters with dropout, a bias or a variant such as DoRA keep
    peft's own forward pass, as do merged ones and those under autocast.
    """
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in model.modules():
        if isinstance(module, Linear) and type(module.base_layer) is nn.Linear:
            count += _fuse_layer(module)
    return count


def _fuse_layer(layer: Any) -> int:
    (name,) = layer.lora_A.keys()
    base, forward = layer.base_layer, layer.forward
    trains_bias = layer.lora_bias[name] or (base.bias is not None and base.bias.requires_grad)
    has_dropout = not isinstance(layer.lora_dropout[name], nn.Identity)
    if trains_bias or has_dropout or name in layer.lora_variant:
        return 0
    down, up = layer.lora_A[name], layer.lora_B[name]

    def fused(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if (
            args
            or kwargs
            or layer.merged
            or layer.disable_adapters
            or torch.is_autocast_enabled(x.device.type)
            or x.dtype != down.weight.dtype
        ):
            return forward(x, *args, **kwargs)
        # The view is made outside: architectures may modify it in place (DeBERTa does).
        y_TO = _Adapted.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]),
            base.weight,
            base.bias,
            down.weight,
            up.weight,
            layer.scaling[name],
        )
        return y_TO.view(*x.shape[:-1], -1)

    layer.forward = fused
    return 1


class _Adapted(torch.autograd.Function):
    """x W' + b + s (x A') B', with the gradients of x, A and B; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scale: float,
    ) -> Tensor:
        low_TR = x_TI @ down_RI.T
        y_TO = x_TI @ weight_OI.T if bias_O is None else torch.addmm(bias_O, x_TI, weight_OI.T)
        y_TO.addmm_(low_TR, up_OR.T, alpha=scale)
        ctx.save_for_backward(x_TI, low_TR, weight_OI, down_RI, up_OR)
        ctx.scale = scale
        return y_TO

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x_TI, low_TR, weight_OI, down_RI, up_OR = ctx.saved_tensors
        (dy_TO,) = gradients
        dlow_TR = (dy_TO @ up_OR).mul_(ctx.scale)
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = (dy_TO @ weight_OI).addmm_(dlow_TR, down_RI)
        dup_OR = (dy_TO.T @ low_TR).mul_(ctx.scale)
        return dx_TI, None, None, dlow_TR.T @ x_TI, dup_OR, None

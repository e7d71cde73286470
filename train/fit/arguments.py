"""The Trainer's arguments: Textloop's defaults, and what follows from them."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from transformers import TrainingArguments

from serve.inference.precision import kept_precision
from train.config.run import RunConfig
from train.config.trainer_keys import LOGGING_STEPS, is_loss
from train.publish.push import without_push

FITTED_HEAD_LR = 0.1
"""Learning rate of a head initialized from the probe, as a multiple of the adapters'. At the full
rate the first epoch undoes the probe: on held-out rows of Banking77 it ends at 0.893 where the
probe had 0.917, and four epochs at 0.924. Between 0.05 and 0.2 they end at 0.929 to 0.933, in an
order that differs between two folds."""


def training_arguments(config: RunConfig) -> TrainingArguments:
    """Build the Trainer's arguments: the configuration's `trainer` over Textloop's defaults."""
    cuda = torch.cuda.is_available() and not config.trainer.get("use_cpu", False)
    pinned = cuda and config.trainer.get("dataloader_pin_memory", True)
    values: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": 4,
        "learning_rate": 5e-5 if config.method == "full" else 1e-3,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": LOGGING_STEPS,
        "logging_nan_inf_filter": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "metric_for_best_model": "log_loss",
        "use_cpu": not cuda,
        "bf16": not config.trainer.get("fp16")
        and (torch.cuda.is_bf16_supported() if cuda else cpu_multiplies_bf16()),
        "tf32": True if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": cuda,
        # The next step is launched while its batch is copied.
        "accelerator_config": {"non_blocking": pinned},
        **without_push(config.trainer),
        "output_dir": str(config.output_dir / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,
        "load_best_model_at_end": True,
        # Without it the patience of early stopping is reset on every resume.
        "restore_callback_states_from_checkpoint": True,
    }
    values["greater_is_better"] = not is_loss(values["metric_for_best_model"] or "loss")
    with kept_precision():  # `tf32` sets it for the process
        return _construct(values, config.trainer)


def _construct(values: dict[str, Any], own: dict[str, Any]) -> TrainingArguments:
    """Construct the arguments; a refusal names the key of the configuration that causes it."""
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        for key in sorted(own):
            try:
                TrainingArguments(**{name: values[name] for name in values if name != key})
            except (TypeError, ValueError, ImportError):
                continue
            raise ValueError(f"`trainer.{key}` = {own[key]!r}: {error}") from error
        raise ValueError(f"trainer: {error}") from error


def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU multiplies bf16 itself (AVX512-BF16 or AMX).

    oneDNN also reports bf16 as supported where it emulates it, on any CPU with AVX-512, slower
    than fp32; so the instructions are looked up by name.
    """
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def compute_precision(arguments: TrainingArguments) -> str:
    """Return the precision of the matrix products: bf16, fp16, tf32 or fp32."""
    precisions = {"bf16": arguments.bf16, "fp16": arguments.fp16, "tf32": arguments.tf32}
    return next((name for name, is_on in precisions.items() if is_on), "fp32")


def training_precision(config: RunConfig, arguments: TrainingArguments) -> str:
    """Return the precision of the training; the probe is fitted in fp32."""
    return "fp32" if config.method == "probe" else compute_precision(arguments)


def uses_activation_checkpointing(arguments: TrainingArguments) -> bool:
    """Return whether the backward pass recomputes layers, under the Trainer or under FSDP."""
    by_fsdp = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() in ("true", "1")
    names = ("activation_checkpointing", "gradient_checkpointing")  # the newer name and the older
    return by_fsdp or any(getattr(arguments, name, None) for name in names)


def global_batch(arguments: TrainingArguments) -> int:
    """Return the rows of one update, over all processes and accumulation steps."""
    return int(
        arguments.per_device_train_batch_size
        * arguments.world_size
        * arguments.gradient_accumulation_steps
    )


def head_learning_rate(config: RunConfig, arguments: TrainingArguments) -> float:
    """Return the peak learning rate of the head, and of a pooler that is trained with it."""
    if config.model.head_learning_rate is not None:
        return config.model.head_learning_rate
    fitted = config.method == "lora" and config.model.head_init == "probe"
    return float(arguments.learning_rate) * (FITTED_HEAD_LR if fitted else 1.0)

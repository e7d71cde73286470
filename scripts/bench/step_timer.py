"""Time a Trainer's steps between a warm-up and the end."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

WARM_UP_STEPS, COUNTED_STEP = 10, 5

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s, from NVIDIA's data sheets."""


class StepTimer(TrainerCallback):
    """Time the steps after the warm-up, without evaluation and saving.

    On a GPU of `PEAK_BF16` it also counts the FLOPs of one step, for the MFU.
    """

    def __init__(self, lengths: list[int] | None = None) -> None:
        """lengths: tokens of the training rows; by default from the Trainer's data set."""
        self.lengths = lengths
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        self.peak = next((flops for name, flops in PEAK_BF16.items() if name in device), None)
        self.counter = FlopCounterMode(display=False) if self.peak else None
        self.steps, self.seconds = 0, 0.0
        self.started: float | None = None
        self.mean_tokens = 0.0
        self.batch = 0
        self.bf16 = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.bf16 = bool(args.bf16)
        self.batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.batch *= args.world_size
        lengths = self.lengths or map(len, more["train_dataloader"].dataset["input_ids"])
        self.mean_tokens = statistics.mean(lengths)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.counter and state.global_step == COUNTED_STEP:
            self.counter.__enter__()
        if state.global_step >= WARM_UP_STEPS and self.started is None:
            self.started = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.counter and state.global_step == COUNTED_STEP + 1:
            self.counter.__exit__(None, None, None)
        if self.started is not None:
            now = _now()
            self.steps, self.seconds = self.steps + 1, self.seconds + now - self.started
            self.started = now

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.started = None  # evaluation and saving follow

    def figures(self) -> dict[str, float]:
        """Rates of the timed steps, and the MFU where the GPU's peak is known."""
        rate = self.steps * self.batch / self.seconds
        figures = {
            "examples_per_s": rate,
            "tokens_per_s": rate * self.mean_tokens,
            "bf16": self.bf16,
        }
        if self.counter and self.peak:
            # All products of one step, including those on padding and those of frozen layers.
            flops = self.counter.get_total_flops() * rate / self.batch
            figures["mfu"] = flops / self.peak
        return figures


def _now() -> float:
    """Return the time when all work on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

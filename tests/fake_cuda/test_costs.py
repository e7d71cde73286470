"""How often the host waits for the device, and what is copied, per step and per served batch.

Counted on the pretended device, which alone can tell; see `test_pretended_device`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows
from transformers import TrainerCallback

from fake_cuda.build import LIBRARY
from fake_cuda.ledger import BLOCKING, PAGEABLE, SYNC, TO_DEVICE, TO_HOST, Recording, recording
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.fit.fit import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(LIBRARY not in os.environ, reason="counts only the pretended device"),
]


class Steps(TrainerCallback):
    """Records each step of a training up to the next one, the copy of its batch included."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.open = ExitStack()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.open.close()
        self.recordings.append(self.open.enter_context(recording()))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.open.close()
        del self.recordings[-1]  # the evaluation is part of it


def steps_of(values: dict[str, Any]) -> list[Recording]:
    steps = Steps()
    fit(RunConfig.model_validate(values), callbacks=[steps])
    return steps.recordings


@pytest.mark.parametrize(
    ("pooling", "dropout", "method"),
    [
        ("native", 0.0, "lora"),
        ("mean", 0.0, "lora"),
        ("native", 0.1, "lora"),
        ("mean", 0.1, "lora"),
        ("native", 0.0, "full"),
    ],
)
def test_a_training_step_never_waits_for_the_device(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    pooling: str,
    dropout: float,
    method: str,
) -> None:
    values = make_config(
        tmp_path / "run",
        model={"dropout": dropout, "pooling": pooling},
        method=method,
        trainer={"bf16": True, "max_steps": 6, "logging_steps": 100},
    )
    if method == "full":
        del values["lora"]

    steps = steps_of(values)

    assert len(steps) == 5
    for step in steps:
        assert step.count(TO_DEVICE) in (4, 5), str(step)
        assert step.count(SYNC, TO_HOST, BLOCKING, PAGEABLE) == 0, str(step)


@pytest.mark.parametrize("packed", [True, False])
def test_a_served_batch_is_one_copy_each_way(packed: bool, bundles: Callable[[str], Path]) -> None:
    predictor = Predictor.load(bundles("single"), device="cuda")
    assert predictor.backend.packed is not None
    if not packed:
        predictor.backend.packed = None
    encodings = predictor.encoder.encode([row["text"] for row in make_rows(20, seed=9)])
    batch_NL = predictor.encoder.pad(encodings)

    with recording() as batch:
        predictor.backend.forward(batch_NL)

    assert batch.count(TO_DEVICE) == 1, str(batch)
    assert batch.count(TO_HOST) == 1, str(batch)
    assert batch.count(SYNC, BLOCKING, PAGEABLE) == 0, str(batch)

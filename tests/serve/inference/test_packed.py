"""Packed batches give the logits of padded ones; other architectures are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from packed_models import CONFIGS, NO_SPECIALS, SIZES, model_of, padded
from transformers import (
    DebertaV2Config,
    ModernBertConfig,
    MPNetConfig,
)

from serve.inference.backends.packed import PackedModel
from serve.inference.pooling import MeanPooling


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.inference_mode()
def test_packed_logits_are_those_of_padded_batches(name: str, mean: bool) -> None:
    model = model_of(CONFIGS[name])
    if mean:
        MeanPooling(model)
    packed = PackedModel(model)

    assert packed.check_equivalence(tolerance=1e-5) <= 1e-5


@torch.inference_mode()
def test_segments_of_pairs_are_kept() -> None:
    model = model_of(CONFIGS["bert"])
    mask_NL = np.array([[1] * 9, [1] * 4 + [0] * 5, [1] * 7 + [0] * 2])
    batch_NL = {
        "input_ids": np.random.default_rng(0).integers(2, 99, (3, 9)),
        "attention_mask": mask_NL,
        "token_type_ids": (np.arange(9) > 3) * mask_NL,
    }

    packed_NC = PackedModel(model)(batch_NL)

    assert torch.allclose(packed_NC, padded(model, batch_NL), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # Positions are computed inside attention, over the whole row.
        (MPNetConfig(max_position_embeddings=80, **SIZES), "differ by"),
        (DebertaV2Config(max_position_embeddings=80, **SIZES), "differ by"),
        (ModernBertConfig(max_position_embeddings=80, **SIZES | NO_SPECIALS), "no `encoder`"),
    ],
)
@torch.inference_mode()
def test_architecture_that_cannot_be_packed_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedModel(model_of(config)).check_equivalence(tolerance=1e-5)


@torch.inference_mode()
def test_padded_pass_is_as_it_was_after_a_packed_one() -> None:
    model = model_of(CONFIGS["bert"])
    batch_NL = {
        "input_ids": np.random.default_rng(0).integers(2, 99, (3, 9)),
        "attention_mask": np.ones((3, 9), dtype=np.int64),
    }
    before_NC = padded(model, batch_NL)

    PackedModel(model)(batch_NL)

    assert torch.equal(padded(model, batch_NL), before_NC)

"""Whether tokenizer, configuration and weights of a base fit each other and `model.max_length`.

Everything here is checked on the loaded base, before the first row is encoded: what is wrong
here would otherwise end a training, or the server at the first text of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from serve.inference.equivalence import evaluating, to_tensors
from serve.inference.pooling import usable_positions
from serve.inference.text import Encoding, TextEncoder
from serve.language.lines import first_line
from train.config.run import ModelConfig
from train.model.source import check_length

TOLERANCE = 1e-3
"""Largest change of a text's logits by padding, relative to the largest logit."""

MARGIN = 8
"""Positions that an architecture may keep for itself; up to `max_length` is tried within it."""


def set_pad_token(model: ModelConfig, tokenizer: Any, settings: Any) -> None:
    """Give the tokenizer `model.pad_token`, and its pad token to the configuration.

    A decoder finds the end of each text by the pad id of its configuration, which published ones
    often leave out. An encoder's is only replaced where it has none: RoBERTa and its relatives
    count positions from it.

    Raises ValueError for a tokenizer without a pad token, and one that is not in its vocabulary.
    """
    if model.pad_token is not None:
        vocabulary = tokenizer.get_vocab()
        if model.pad_token not in vocabulary:
            raise ValueError(
                f"model.pad_token = {model.pad_token!r} is not in the vocabulary of "
                f"`{model.base}`; name a token that is{_such_as(tokenizer)}"
            )
        tokenizer.pad_token = model.pad_token
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer of `{model.base}` has no pad token; set model.pad_token to a token of "
            f"its vocabulary{_such_as(tokenizer)}"
        )
    if getattr(settings, "pad_token_id", None) is None or is_decoder(settings):
        settings.pad_token_id = tokenizer.pad_token_id


def _such_as(tokenizer: Any) -> str:
    found = tokenizer.eos_token or tokenizer.unk_token
    return f", such as {found!r}" if found else ""


def is_decoder(settings: Any) -> bool:
    """Return whether an architecture's classifier reads the last token before the padding."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = settings.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def reconcile(base: ModelConfig, model: Any, tokenizer: Any) -> None:
    """Raise ValueError for tokens that the base does not embed, and for too large a max_length."""
    rows = model.get_input_embeddings().weight.shape[0]
    for name, token in tokenizer.special_tokens_map.items():
        number = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
        if number is not None and number >= rows:
            raise ValueError(
                f"the tokenizer of `{base.base}` has the {name} {token!r} with id {number}, but "
                f"the base embeds only {rows} tokens; "
                + (
                    "set model.pad_token to one of them"
                    if name == "pad_token"
                    else "its tokenizer is that of another model"
                )
            )
    check_length(base, [tokenizer.model_max_length, usable_positions(model)])


def check_tokenizer(base: ModelConfig, model: Any, encoder: TextEncoder) -> None:
    """Raise ValueError for a tokenizer with which no bundle would open."""
    try:
        encoder.check(model.get_input_embeddings().weight.shape[0])
    except ValueError as error:
        raise ValueError(
            f"the tokenizer of `{base.base}` cannot be used: {error}; choose another base"
        ) from None


def check_positions(base: ModelConfig, model: Any, encoder: TextEncoder) -> None:
    """Run a text of `max_length` tokens where that is near the last position.

    Raises ValueError if the base cannot take it.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    if not 0 < positions <= base.max_length + MARGIN:
        return
    (encoding,) = encoder.encode([_text(encoder, 1)])
    longest: Encoding = {
        name: [*ids, *[ids[-1]] * (base.max_length - len(ids))] for name, ids in encoding.items()
    }
    try:
        _logits(model, encoder, [longest])
    except (IndexError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"model.max_length = {base.max_length}, but `{base.base}` fails for a text of that "
            f"length ({first_line(error)}); lower it"
        ) from error


def padding_note(base: ModelConfig, model: Any, encoder: TextEncoder) -> Iterator[str]:
    """Compare a text alone with the same text padded; yields a note if its logits change.

    Raises ValueError for an architecture that cannot run on them, returns no logits per text, or
    reads the last position of a padded row, where there is only padding.
    """
    short, long = encoder.encode([_text(encoder, 2), _text(encoder, 12)])
    try:
        alone_1C = _logits(model, encoder, [short])
        both_2C = _logits(model, encoder, [short, long])
    except (IndexError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"model.base `{base.base}`: {type(model).__name__} cannot classify texts of different "
            f"lengths ({first_line(error)}); choose another base"
        ) from error
    if both_2C.shape != (2, model.config.num_labels):
        raise ValueError(
            f"model.base `{base.base}`: {type(model).__name__} returns logits of shape "
            f"{tuple(both_2C.shape)} for 2 texts and {model.config.num_labels} labels"
        )
    if not torch.isfinite(both_2C).all():
        raise ValueError(
            f"model.base `{base.base}` gives logits that are not finite; its weights are damaged"
        )
    change = float((both_2C[:1] - alone_1C).abs().max() / both_2C.abs().max().clamp_min(1e-12))
    if change <= TOLERANCE or hasattr(model, "hf_quantizer"):
        return
    if encoder.tokenizer is not None and encoder.tokenizer.padding_side == "left":
        raise ValueError(
            f"model.base `{base.base}`: {type(model).__name__} reads the last position and needs "
            "padding on the left, but Textloop pads on the right; choose another base"
        )
    yield (
        f"the logits of `{base.base}` depend on padding (by {change:.1%} in a sample): "
        f"{type(model).__name__} does not mask it, so an answer may vary with the texts beside it"
    )


def _text(encoder: TextEncoder, words: int) -> Any:
    text = " ".join(["a", "text", "to", "try"] * 3).split()[:words]
    joined = " ".join(text)
    return (joined, joined) if encoder.is_pair else joined


def _logits(model: Any, encoder: TextEncoder, encodings: list[Encoding]) -> Tensor:
    device = next(model.parameters()).device
    with evaluating(model, device):
        logits: Tensor = model(**to_tensors(encoder.pad(encodings), device)).logits
    return logits

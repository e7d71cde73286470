"""The tokenizer of a checkpoint: loaded as the stock pipeline does, made fit for batches.

A text is never silently cut at another place than the model's: the limit is the smaller one of the
tokenizer's own and of the model's positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from serve.bundle.agreement import MAX_LENGTH
from serve.bundle.agreement import usable_positions as stated_positions
from serve.bundle.contents import is_tokenizer_file
from serve.language.lines import first_line
from train.importing.refusal import ImportRefused
from train.importing.source import Source

DEFAULT_LENGTH = 512
"""Maximum tokens per text where a checkpoint states no limit."""

LONGEST_DEFAULT = 8192
"""Largest maximum that is taken from a checkpoint without being asked for: the time and memory of
one text grow with its square."""


def load_tokenizer(source: Source) -> Any:
    """Load the stock tokenizer. Raises ImportRefused for one that is missing or broken."""
    from transformers import AutoTokenizer

    if not any(map(is_tokenizer_file, source.content)):
        raise ImportRefused(
            f"`{source.name}` has no tokenizer, only {', '.join(sorted(source.content))}; copy the "
            "tokenizer's files of the model that it was trained from into a copy of the directory"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.directory, local_files_only=True, trust_remote_code=False
        )
        empty = len(tokenizer) <= len(tokenizer.all_special_tokens)
    except Exception as error:  # damaged files raise errors of Rust, json, sentencepiece, ...
        raise ImportRefused(
            f"the tokenizer of `{source.name}` cannot be loaded: {first_line(error)}"
        ) from error
    if empty:  # transformers makes one without a vocabulary where its files are missing
        raise ImportRefused(
            f"the tokenizer of `{source.name}` has no vocabulary: files such as tokenizer.json are "
            "missing; copy them from the model that it was trained from"
        )
    return tokenizer


def set_pad_token(source: Source, tokenizer: Any, model: Any) -> Iterator[str]:
    """Give a tokenizer without a pad token one, and tell a decoder the pad token."""
    from train.model.compatibility import is_decoder  # imports torch

    settings = model.config
    if tokenizer.pad_token_id is None:
        stated = getattr(settings, "pad_token_id", None)
        named = tokenizer.convert_ids_to_tokens(stated) if isinstance(stated, int) else None
        token = named or tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise ImportRefused(
                f"the tokenizer of `{source.name}` has no pad token, and none that could stand for "
                "it (end of text, unknown); add pad_token to a copy of its tokenizer_config.json"
            )
        tokenizer.pad_token = token
        yield (
            f"the tokenizer has no pad token; batches are padded with {token!r}"
            + ("" if named else ", and a text that ends in it is read without it")
        )
    if is_decoder(settings):
        settings.pad_token_id = tokenizer.pad_token_id


def fit_columns(source: Source, tokenizer: Any, model: Any) -> Iterator[str]:
    """Make the tokenizer return what the model takes."""
    accepted = inspect.signature(model.forward).parameters
    if "attention_mask" not in accepted:
        raise ImportRefused(
            f"`{source.name}`: {type(model).__name__} takes no attention mask, so padding would "
            "change its answers"
        )
    columns = [name for name in tokenizer.model_input_names if name in accepted]
    if dropped := [name for name in tokenizer.model_input_names if name not in accepted]:
        tokenizer.model_input_names = columns
        yield f"{type(model).__name__} takes no {' and '.join(dropped)} from its tokenizer"


def limit_of(
    source: Source, tokenizer: Any, model: Any, wanted: int | None
) -> tuple[int, list[str]]:
    """Return the maximum number of tokens, and a note where the checkpoint does not decide it.

    Of the tokenizer's limit, which is 1e30 where it has none, and the model's positions: RoBERTa
    and its relatives start to count after the padding's id.
    """
    from serve.inference.pooling import usable_positions

    limits = [
        tokenizer.model_max_length,
        usable_positions(model),
        stated_positions(model.config.to_dict()),
    ]
    numbers = (each for each in limits if isinstance(each, int | float))
    limit = min((int(each) for each in numbers if 1 <= each < MAX_LENGTH), default=None)
    if wanted is not None:
        if limit is not None and wanted > limit:
            raise ValueError(f"--max-length {wanted}: `{source.name}` takes at most {limit} tokens")
        if wanted < 4:
            raise ValueError(f"--max-length {wanted}: expected at least 4 tokens")
        return wanted, []
    if limit is None:
        note = f"the model states no maximum length; texts are truncated to {DEFAULT_LENGTH} tokens"
        return DEFAULT_LENGTH, [f"{note}, --max-length changes that"]
    if limit > LONGEST_DEFAULT:
        note = f"texts are truncated to {LONGEST_DEFAULT} tokens, of {limit} that the model takes"
        return LONGEST_DEFAULT, [f"{note}; --max-length raises it"]
    return limit, []

"""Tokenization with transformers, for tokenizers without a Rust implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.inference.fast import FAILED, NO_TOKENS, is_failure


def plain_ids(tokenizer: Any) -> list[int]:
    """Return the ids of the vocabulary, in order, except tokens added to it, such as [CLS]."""
    return sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder))


def encode_slowly(
    tokenizer: Any, texts: Sequence[Any], *, max_length: int, side: str | None
) -> list[dict[str, Any] | str]:
    """Return the columns of each text, or why it has none. Not thread-safe.

    side: on which a text of more than `max_length` tokens is truncated; None to truncate nothing.
    """
    own = tokenizer.truncation_side
    tokenizer.truncation_side = side or own
    try:
        columns = tokenizer(
            [text[0] if isinstance(text, tuple) else text for text in texts],
            [text[1] for text in texts if isinstance(text, tuple)] or None,
            truncation="longest_first" if side else False,
            max_length=max_length if side else None,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
    except BaseException as error:
        if not is_failure(error):
            raise
        if len(texts) == 1:
            return [FAILED]
        alone = (encode_slowly(tokenizer, [t], max_length=max_length, side=side) for t in texts)
        return [row for rows in alone for row in rows]
    finally:
        tokenizer.truncation_side = own
    num_special = tokenizer.num_special_tokens_to_add(isinstance(texts[0], tuple))
    return [
        {name: values[row] for name, values in columns.items()}
        if len(ids) > num_special
        else NO_TOKENS
        for row, ids in enumerate(columns["input_ids"])
    ]

"""What a model's configuration asks for that is never done: code, kernels, impossible sizes.

transformers runs or fetches code that a configuration names, and builds layers of any number and
size before it looks at the weights. Bundles and the bases of a training are refused before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STOCK_IMPLEMENTATIONS = ("eager", "sdpa", "batched_mm", "grouped_mm")
"""Attention and experts that are part of transformers and PyTorch; any other may be fetched from
the Hub."""

CODE_KEYS = ("auto_map", "custom_pipelines")
"""Keys that name code in the directory, or on the Hub."""

MAX_LAYERS = 1000
"""Layers of the largest model that is loaded; published ones have up to about 130."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names that architectures have for their number of layers."""

HEADS = tuple(
    f"{name}.weight"
    for name in (
        "classifier",
        "classifier.out_proj",
        "score",
        "logits_proj",
        "classification_head.out_proj",
    )
)
"""Weights that compute the logits, one row per label; an architecture has one of them."""

_WIDTHS = {"embedding_size", "hidden_size", "n_embd", "d_model", "dim", "emb_dim"}


def walk(values: Any) -> Iterator[tuple[str, Any]]:
    """Return the keys and values of a configuration and of all its parts."""
    stack = [values]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack.extend(part)
        elif isinstance(part, dict):
            yield from part.items()
            stack.extend(part.values())


def code_keys(values: Any) -> Iterator[str]:
    """Return the keys under which a configuration, or a part of it, names code."""
    return (key for key, value in walk(values) if key in CODE_KEYS and value)


def implementations(values: Any) -> Iterator[tuple[str, Any]]:
    """Return the implementations that a configuration or its parts ask for, unless stock."""
    for key, value in walk(values):
        if "_implementation" in f"_{key}" and isinstance(value, str | dict):
            wanted = value.values() if isinstance(value, dict) else [value]
            yield from ((key, name) for name in wanted if name and not _is_stock(name))


def _is_stock(name: Any) -> bool:
    return isinstance(name, str) and name in STOCK_IMPLEMENTATIONS


def sizes_over(config: dict[str, Any], num_bytes: int | None) -> Iterator[str]:
    """Return sizes that the weights cannot have: loading would only end when memory does.

    num_bytes: size of the weights; None if unknown.
    """
    sizes = {name: size for name, size in config.items() if isinstance(size, int)}
    for name in sizes.keys() & set(LAYERS):
        if sizes[name] > MAX_LAYERS:
            yield (
                f"has `{name}` = {sizes[name]:,} in its config.json, over the limit of "
                f"{MAX_LAYERS:,}"
            )
    widths = sizes.keys() & _WIDTHS
    if num_bytes is None or not widths:
        return
    narrowest = min(sizes[name] for name in widths)
    for name in sorted(widths | sizes.keys() & {"vocab_size", "intermediate_size"}):
        if sizes[name] * narrowest > 2 * num_bytes:  # a weight takes half a byte or more
            yield (
                f"has `{name}` = {sizes[name]:,} in its config.json, more than its weights of "
                f"{num_bytes:,} bytes can hold"
            )

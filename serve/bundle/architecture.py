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

CODE_KEYS = ("auto_map", "custom_pipelines", "kernel_config", "use_kernels")
"""Keys that name code in the directory, or on the Hub."""

QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Keys of weights that need other code to be read."""

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

_MODULES = (
    *LAYERS,
    *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
    *("num_hidden_groups", "inner_group_num", "num_feedforward_networks"),
    *("block_sizes", "block_repeats"),
)
"""Numbers of modules that are made one in another before any weight is read."""

MAX_MODULES = 10_000
"""Limit of their product; making as many takes seconds."""

MAX_EXPERTS = 20_000
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

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
        if "_implementation" in f"_{key}" and value:
            wanted = value.values() if isinstance(value, dict) else [value]
            yield from ((key, name) for name in wanted if name and not _is_stock(name))


def _is_stock(name: Any) -> bool:
    return isinstance(name, str) and name in STOCK_IMPLEMENTATIONS


def _total(value: Any) -> int:
    numbers = value if isinstance(value, list) else [value]
    return sum(
        int(min(each, 1e18)) for each in numbers if isinstance(each, int | float) and each > 0
    )


def sizes_over(config: dict[str, Any], num_bytes: int | None) -> Iterator[str]:
    """Return sizes that the weights cannot have: loading would only end when memory does.

    num_bytes: size of the weights; None if unknown.
    """
    sizes = {name: size for name, size in config.items() if isinstance(size, int)}
    modules = 1
    for name, value in walk(config):
        if name not in (*_MODULES, *_EXPERTS):
            continue
        size, limit = _total(value), MAX_LAYERS if name in _MODULES else MAX_EXPERTS
        if size > limit:
            yield f"has `{name}` = {size:,} in its config.json, over the limit of {limit:,}"
        elif name in _MODULES:
            modules *= max(size, 1)
    if modules > MAX_MODULES:
        yield f"has layers of layers in its config.json, {modules:,}, over {MAX_MODULES:,}"
    widths = sizes.keys() & _WIDTHS
    if num_bytes is None or not widths:
        return
    narrowest = min(sizes[name] for name in widths)
    for name in sorted(widths | sizes.keys() & {"vocab_size", "intermediate_size", *_EXPERTS}):
        if sizes[name] * narrowest > 2 * num_bytes:  # a weight takes half a byte or more
            yield (
                f"has `{name}` = {sizes[name]:,} in its config.json, more than its weights of "
                f"{num_bytes:,} bytes can hold"
            )

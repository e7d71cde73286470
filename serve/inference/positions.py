"""How many tokens a loaded model has positions for."""

from __future__ import annotations

from typing import Any

from torch import nn


def usable_positions(model: Any) -> int | None:
    """Return how many tokens the model has positions for; None if it states no limit.

    RoBERTa and its relatives number them from the padding's own id + 1.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return table.num_embeddings - padding - 1
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None

"""The `auto` section of a run: how `method: auto` chooses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve.config import Config


class AutoSection(Config):
    """How `method: auto` chooses between a linear probe and LoRA; unused by other methods."""

    stock: bool = False
    """Never choose `model.pooling: mean`, so that the bundle loads in the stock classes."""

    budget_minutes: Annotated[float, Field(ge=0)] = 10.0
    """Minutes that training on parts of the rows may take; beyond, validation rows decide."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the training rows, each judged by models that were trained on the others."""

"""Why a model is not imported."""

from __future__ import annotations

import importlib.util

from serve.language.spelling import shown
from train.config.refusal import Refused


class ImportRefused(Refused, ValueError):
    """The model is not imported; the message names it, the reason, and what to do instead.

    Also a ValueError: whoever serves a model on the fly reports it like any other wrong path.
    """


def require_torch(given: str) -> None:
    """Raise ValueError where PyTorch or transformers is not installed, with the remedy."""
    missing = [each for each in ("torch", "transformers") if importlib.util.find_spec(each) is None]
    if missing:
        raise ValueError(
            f"`{shown(given)}` is no bundle but a Hugging Face model: to read it needs "
            f"{' and '.join(missing)}, which this light installation leaves out; pip install "
            "'textloop[serve]', or run `textloop import` with --texts on a machine that has them "
            "and serve the bundle here"
        )

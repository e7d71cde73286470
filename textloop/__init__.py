"""Textloop: labelled text to a fine-tuned, calibrated, sealed text classifier, and its server.

    import textloop

    run = textloop.train(frame, text="message", label="intent")
    run.classifier.predict(["where is my parcel?"])
    classifier = textloop.load("runs/mine")

`docs/python.md` has more. Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textloop.binding import bind, require

if TYPE_CHECKING:
    from serve.classifier.classifier import Classifier as Classifier
    from textloop.loading import load as load
    from train.api.estimator import TextClassifier as TextClassifier
    from train.api.run import Run as Run
    from train.api.train import train as train

__version__ = "0.1.0"

__all__ = ["Classifier", "Run", "TextClassifier", "load", "train"]

_HOMES = {
    "Classifier": "serve.classifier.classifier",
    "Run": "train.api.run",
    "TextClassifier": "train.api.estimator",
    "load": "textloop.loading",
    "train": "train.api.train",
}

bind()


def __getattr__(name: str) -> Any:
    """Import what is asked for. Raises ImportError if a module of the caller's is in the way."""
    if name not in _HOMES:
        raise AttributeError(f"module `textloop` has no attribute {name!r}")
    from importlib import import_module

    require("serve", *(["train"] if _HOMES[name].startswith("train") else []))
    from serve.command.folder import libraries_first

    try:
        with libraries_first():
            return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from serve.command.failures import explain

        explained = explain(error, "train" if _HOMES[name].startswith("train") else "serve")
        if explained is None:
            raise
        raise ImportError(explained[0]) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Forwards to `serve.inference.predictor`, for the snippets of published model cards."""

from serve.inference.predictor import Predictor

__all__ = ["Predictor"]

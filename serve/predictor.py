"""Alias of `serve.inference.predictor`, which published model cards import."""

from serve.inference.predictor import Predictor

__all__ = ["Predictor"]

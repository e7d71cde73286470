"""Forwards to `serve.inference.pooling`, for the snippets of published model cards."""

from serve.inference.pooling import MeanPooling

__all__ = ["MeanPooling"]

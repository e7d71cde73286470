"""Alias of `serve.inference.pooling`, which published model cards import."""

from serve.inference.pooling import MeanPooling

__all__ = ["MeanPooling"]

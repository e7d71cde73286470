"""Inference: from texts to probabilities and decisions."""

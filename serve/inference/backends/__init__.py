"""Backends that run the forward pass: token ids in, logits out."""

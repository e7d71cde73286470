"""Defines what a deployable text classifier is, and serves it. Never imports `train`."""

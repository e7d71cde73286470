"""Plots for training's pages; the markup is in `serve.html`."""

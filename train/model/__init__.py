"""The model while it trains: base, adapters, head, loss, and faster forward passes."""

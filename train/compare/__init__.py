"""Runs side by side: what each reaches, what differs, which texts changed."""

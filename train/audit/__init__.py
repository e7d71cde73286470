"""Audit the data: duplicates, leakage between splits, suspected label errors."""

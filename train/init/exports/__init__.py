"""Exports of labelling tools, as plain rows."""

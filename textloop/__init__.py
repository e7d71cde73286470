"""Textloop: labelled text to a fine-tuned, calibrated, sealed text classifier, and its server.

Everything is imported when it is first used.
"""

from __future__ import annotations

from textloop.binding import bind

__version__ = "0.1.0"

bind()

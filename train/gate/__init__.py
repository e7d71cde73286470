"""Decide whether a candidate bundle may replace the champion."""

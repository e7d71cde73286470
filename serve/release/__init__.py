"""The deployment directory: which version answers, and how that is changed and undone."""

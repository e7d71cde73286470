"""Which rows go into which split, where the configuration does not say it."""

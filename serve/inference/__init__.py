"""From texts to probabilities: the only inference path."""

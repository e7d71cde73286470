"""What a run's YAML may contain."""

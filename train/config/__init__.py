"""Schema of a run's YAML file."""

"""Read a sample of a source, and describe its columns."""

"""Model processes, and the connections between them and HTTP processes."""

"""What `method: auto` chooses, and the probes that every method is compared with."""

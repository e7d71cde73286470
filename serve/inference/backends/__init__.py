"""Ways to run a model's forward pass. Each takes token ids and gives logits."""

"""What people write in configurations and requests, and how they are told of mistakes in it."""

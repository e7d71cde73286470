"""The commands of training: each is a module with its options and what it prints."""

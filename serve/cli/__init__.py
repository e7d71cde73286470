"""The commands of serving: each is a module with its options and what it prints."""

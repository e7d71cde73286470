"""Publish a bundle to the Hub, S3 or a directory, with its card."""

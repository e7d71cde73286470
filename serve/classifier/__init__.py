"""A bundle as Python code uses it: texts in, labels out."""

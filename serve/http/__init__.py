"""The HTTP process: routes, wire formats, keys, limits."""

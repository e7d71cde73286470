"""The arms of an HTTP process: one bundle each, their roles, and how they are switched."""

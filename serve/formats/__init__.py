"""The file formats of rows: how bytes become rows, without changing a value."""

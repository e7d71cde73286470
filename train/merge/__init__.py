"""From adapter to sealed bundle: merge, calibrate, export to int8."""

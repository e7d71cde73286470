"""Score a bundle on the test split, with intervals and a report."""

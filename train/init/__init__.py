"""Write the configuration of a run for a file that was never seen: `textloop init my.csv`."""

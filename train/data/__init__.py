"""Read files, databases and the Hub into validated, split rows."""

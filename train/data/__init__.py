"""From files, databases and the Hub to validated, split rows."""

"""How commands end."""

"""The processes of the server: model processes, HTTP processes, and who watches them."""

"""Connections of clients: uvicorn's HTTP protocol with limits of size, number and time."""

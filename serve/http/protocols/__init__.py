"""One module per wire format, each a thin layer over `serve.http.service`."""

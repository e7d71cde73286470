"""The bundle: its manifest, sealing and opening."""

"""The bundle: manifest, sealing, opening and verification."""

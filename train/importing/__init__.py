"""From any Hugging Face sequence classifier to a sealed bundle, proved equal to it."""

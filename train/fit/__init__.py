"""Fine-tune with the Hugging Face Trainer."""

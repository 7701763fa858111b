"""Fine-tuning, on transformers' Trainer."""

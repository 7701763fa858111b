"""Data: from files to token batches."""

"""From scores to honest numbers."""

"""Evaluation: metrics, intervals and thresholds from scores."""

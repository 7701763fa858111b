"""Losses: pure functions of embeddings (K, B, D) and labels (B,)."""

from cosent.losses.ranking import AnglELoss, CoSENTLoss

__all__ = ["AnglELoss", "CoSENTLoss"]

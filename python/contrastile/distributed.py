"""Losses of the joint batch of all ranks of a process group: what `group=` takes, and helpers for training."""

from .ranks import RankError, Ranks

__all__ = ["RankError", "Ranks"]

"""The engine: pair reductions as differentiable operators."""

from .pair import PairStats, pair_loss, pair_reduce, row_lse

__all__ = ["PairStats", "pair_loss", "pair_reduce", "row_lse"]

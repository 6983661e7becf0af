"""The engine: pair reductions as differentiable operators."""

from .library import no_autocast
from .pair import PairStats, pair_loss, pair_reduce, row_lse

__all__ = ["PairStats", "no_autocast", "pair_loss", "pair_reduce", "row_lse"]

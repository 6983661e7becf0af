"""The engine: pair reductions as differentiable operators."""

from .library import no_autocast
from .pair import PairStats, pair_loss, pair_reduce, row_lse
from .products import matmul
from .segments import segment_max

__all__ = ["PairStats", "matmul", "no_autocast", "pair_loss", "pair_reduce", "row_lse", "segment_max"]

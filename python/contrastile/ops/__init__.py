"""The engine: pair reductions as differentiable operators."""

from ..monoid import log_add, softplus, stat_dtype, widest_dtype
from .arguments import Pairs
from .hardest import hardest_limit
from .library import no_autocast
from .options import EngineOptions
from .pair import Weights, pair_loss, pair_reduce, pair_stats, row_lse, small_sum, weighted_sum
from .products import matmul
from .results import PairStats
from .second import Targets
from .segments import segment_max

__all__ = ["EngineOptions", "PairStats", "Pairs", "Targets", "Weights", "hardest_limit", "matmul", "no_autocast"]
__all__ += [
    "log_add",
    "pair_loss",
    "pair_reduce",
    "pair_stats",
    "row_lse",
    "segment_max",
    "small_sum",
    "softplus",
    "stat_dtype",
    "weighted_sum",
    "widest_dtype",
]

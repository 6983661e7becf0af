"""The engine: pair reductions as differentiable operators."""

from ..monoid import log_add, softplus, stat_dtype, widest_dtype
from .arguments import Pairs
from .autograd import plain_loss
from .gathered import gathered_dots
from .hardest import hardest_limit
from .library import no_autocast
from .options import EngineOptions
from .pair import Weights, pair_loss, pair_reduce, pair_stats, reported_sum, row_lse, small_sum, weighted_sum
from .prefixes import Prefixes, prefix_sum
from .products import matmul
from .results import PairStats
from .second import Targets
from .segments import segment_max
from .stream import Stream, tiles

__all__ = ["EngineOptions", "PairStats", "Pairs", "Prefixes", "Targets", "Weights", "gathered_dots", "hardest_limit"]
__all__ += [
    "Stream",
    "log_add",
    "matmul",
    "no_autocast",
    "pair_loss",
    "pair_reduce",
    "pair_stats",
    "plain_loss",
    "prefix_sum",
    "reported_sum",
    "row_lse",
    "segment_max",
    "small_sum",
    "softplus",
    "stat_dtype",
    "tiles",
    "weighted_sum",
    "widest_dtype",
]

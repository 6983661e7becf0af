"""The engine: pair reductions as differentiable operators."""

from ..monoid import log_add, softplus, stat_dtype, widest_dtype
from .arguments import Pairs
from .autograd import plain_loss
from .by_blocks import Block, Statistics, by_blocks, equal_blocks
from .gathered import gathered_dots
from .hardest import hardest_limit
from .library import no_autocast
from .options import EngineOptions
from .pair import (
    Weights,
    default_budget,
    pair_loss,
    pair_reduce,
    pair_stats,
    reported_sum,
    row_lse,
    small_sum,
    weighted_sum,
)
from .prefixes import Prefixes, prefix_sum
from .products import matmul
from .results import PairStats
from .second import Targets
from .segment_operators import ordered
from .segments import offsets_of, own_segment_reduce, segment_reduce
from .stream import Stream, tiles

__all__ = ["Block", "EngineOptions", "PairStats", "Pairs", "Prefixes", "Statistics", "Targets", "Weights"]
__all__ += [
    "Stream",
    "by_blocks",
    "default_budget",
    "equal_blocks",
    "gathered_dots",
    "hardest_limit",
    "log_add",
    "matmul",
    "no_autocast",
    "offsets_of",
    "ordered",
    "own_segment_reduce",
    "pair_loss",
    "pair_reduce",
    "pair_stats",
    "plain_loss",
    "prefix_sum",
    "reported_sum",
    "row_lse",
    "segment_reduce",
    "small_sum",
    "softplus",
    "stat_dtype",
    "tiles",
    "weighted_sum",
    "widest_dtype",
]

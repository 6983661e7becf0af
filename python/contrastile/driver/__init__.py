"""Walks the blocks of a pair reduction; every loss and every backend goes through these loops.

A backend supplies two tile functions (stats, score_grad); chunks, merges, score reuse and the output products dA = G B
and dB = G^T A are here, once. Blocks of a square call (b is a) cover the triangle: a chunk of rows meets itself (row
side) and the columns after it (both sides), so that each unordered pair is computed once.
"""

from .gradients import gradients
from .plan import Plan, ScoreStore
from .prefixes import prefix_sum
from .scalar import scalar
from .statistics import Finished, Statistics, StatsAccumulator, finished, finished_side, side_by_side, statistics
from .value import weighed
from .weights import attach, attached, with_upstream

__all__ = [
    "Finished",
    "Plan",
    "ScoreStore",
    "Statistics",
    "StatsAccumulator",
    "attach",
    "attached",
    "finished",
    "finished_side",
    "gradients",
    "prefix_sum",
    "scalar",
    "side_by_side",
    "statistics",
    "weighed",
    "with_upstream",
]

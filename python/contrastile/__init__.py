"""Losses for multimodal and multi-view contrastive learning that never hold the matrix of similarities."""

from . import distributed, metrics, reference, retrieval
from .backends import BackendUnsupported, available_backends
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .ops import PairStats, Targets, pair_loss, pair_reduce, row_lse, segment_reduce

__version__ = "0.1.0"
__all__ = ["BackendUnsupported", "PairStats", "Targets", "available_backends", "pair_loss", "pair_reduce", "row_lse"]
__all__ += ["distributed", "metrics", "reference", "retrieval", "segment_reduce"]
__all__ += _losses

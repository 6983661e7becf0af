"""How well embeddings retrieve, how two sets of them lie to each other, how they fill their space. No losses."""

from ..losses.in_batch import InBatch
from .embedding import (
    centroid_cosine,
    centroid_distance,
    effective_rank,
    linear_separability,
    positive_cosine,
)
from .retrieved import RetrievalRanks, mean_rank_variance, retrieval_ranks

__all__ = ["InBatch", "RetrievalRanks", "centroid_cosine", "centroid_distance", "effective_rank", "linear_separability"]
__all__ += ["mean_rank_variance", "positive_cosine", "retrieval_ranks"]

"""How well embeddings retrieve, how two sets of them lie to each other, how they fill their space. No losses."""

from ..losses.in_batch import InBatch
from .embedding import (
    centroid_cosine,
    centroid_distance,
    effective_rank,
    linear_separability,
    positive_cosine,
)
from .frechet import frechet_distance, modality_integration_rate
from .kernels import cka, cknna, cycle_knn, mutual_knn
from .retrieved import RetrievalRanks, mean_rank_variance, retrieval_ranks

__all__ = ["InBatch", "RetrievalRanks", "centroid_cosine", "centroid_distance", "cka", "cknna", "cycle_knn"]
__all__ += ["effective_rank", "frechet_distance", "linear_separability", "mean_rank_variance"]
__all__ += ["modality_integration_rate", "mutual_knn", "positive_cosine", "retrieval_ranks"]

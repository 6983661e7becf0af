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
from .scores import mcm_score, neg_label_score, set_similarity
from .spread import anisotropy, tolerance, wasserstein_uniformity

__all__ = ["InBatch", "RetrievalRanks", "anisotropy", "centroid_cosine", "centroid_distance", "cka", "cknna"]
__all__ += ["cycle_knn", "effective_rank", "frechet_distance", "linear_separability", "mcm_score"]
__all__ += ["mean_rank_variance", "modality_integration_rate", "mutual_knn", "neg_label_score", "positive_cosine"]
__all__ += ["retrieval_ranks", "set_similarity", "tolerance", "wasserstein_uniformity"]

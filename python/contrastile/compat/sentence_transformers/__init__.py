"""Losses with the names and arguments of sentence-transformers 6.2 (docs/dropins/sentence_transformers.md).

Everything around the loss (embedding of columns, GradCache, configuration, citation) is the package's own: the classes
extend its classes and replace the stage that turns embeddings into a loss. `multi_vector` has scores of token
embeddings for the losses of multi-vector encoders, which stay the package's.
"""

from .gor import GlobalOrthogonalRegularizationLoss
from .guided import CachedGISTEmbedLoss, GISTEmbedLoss
from .ranking import (
    CachedMultipleNegativesRankingLoss,
    CachedMultipleNegativesSymmetricRankingLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)

__all__ = [
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "GISTEmbedLoss",
    "GlobalOrthogonalRegularizationLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
]

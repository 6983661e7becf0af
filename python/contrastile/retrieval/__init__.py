"""What of a gallery is near a query: the best, its place, negatives drawn and mined; no N x M matrix of scores."""

from .largest import TopK, topk
from .placing import ranks

__all__ = ["TopK", "ranks", "topk"]

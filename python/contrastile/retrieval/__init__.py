"""What of a gallery is near a query: the best, its place, negatives drawn and mined; no N x M matrix of scores."""

from .largest import TopK, topk
from .mining import Mined, mine_hard_negatives
from .placing import ranks
from .sampling import sample_negatives, semi_hard_negatives
from .transport import Potentials, sinkhorn_potentials, swapped_prediction_loss

__all__ = ["Mined", "Potentials", "TopK", "mine_hard_negatives", "ranks", "sample_negatives", "semi_hard_negatives"]
__all__ += ["sinkhorn_potentials", "swapped_prediction_loss", "topk"]

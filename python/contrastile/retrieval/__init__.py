"""What of a gallery is near a query: the best, its place, negatives drawn and mined; no N x M matrix of scores."""

from .areas import triangle_area_matrix
from .graphs import invgc, kmeans_assign, knn_graph, local_adj
from .largest import TopK, topk
from .mining import Mined, mine_hard_negatives
from .normalising import inverted_softmax_bias, querybank_topk
from .placing import ranks
from .repelling import topk_repulsion_loss
from .sampling import sample_negatives, semi_hard_negatives
from .transport import Potentials, sinkhorn_potentials, swapped_prediction_loss

__all__ = ["Mined", "Potentials", "TopK", "inverted_softmax_bias", "invgc", "kmeans_assign", "knn_graph", "local_adj"]
__all__ += ["mine_hard_negatives", "querybank_topk", "ranks", "sample_negatives", "semi_hard_negatives"]
__all__ += ["sinkhorn_potentials", "swapped_prediction_loss", "topk", "topk_repulsion_loss", "triangle_area_matrix"]

"""pytorch-metric-learning 2.9.0: NTXentLoss, SupConLoss and CrossBatchMemory.

Subclasses: regularizers, reducers, wrappers (SelfSupervisedLoss, DistributedLossWrapper) and records stay the
package's. Reducers that only add terms up are given sums over rows, not a list of all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_metric_learning import distances, losses
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import distributed
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor

from ..literals import BackendName
from ..losses.common import inverse, unit, upcast
from ..ops import EngineOptions, softplus
from .common import autocast_feature
from .labels import Labelled, labelled
from .listed import check_indices, listed_lse, unique_pairs
from .pml_reducers import acting_reducer, already_reduced, is_per_anchor, of_row_sums, per_row, takes_row_sums
from .similarities import Similarities

Indices = tuple[Tensor, Tensor, Tensor, Tensor]
LISTED_PER_ROW = 8  # up to so many positives a row on average are listed rather than looked for among all pairs
LONGEST_LOG = 1e30  # stands for the -log of an empty sum: e to the minus that is 0, and 0 times it is no NaN


@dataclass(frozen=True)
class EveryPair:
    """In the place of an indices_tuple: all pairs by label, but positive ones of a row and its own column."""

    own: Tensor | None  # (N,) each row's own column: its copy in a memory, or the one that the package leaves out


class PairLoss:
    """What both losses share: arguments, and the two ways in which pairs are given."""

    distance: Any
    temperature: Any
    backend: BackendName
    memory_budget: int | None

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Any:
        """The package's hook: ref_emb, ref_labels are embeddings, labels themselves where none were given."""
        c_f.labels_or_indices_tuple_required(labels, indices_tuple)
        scores = self.similarities(embeddings, ref_emb)
        if indices_tuple is not None and not isinstance(indices_tuple, EveryPair):
            indices = self.indices(indices_tuple, labels, ref_labels, scores)
            return self.of_list(scores, indices, embeddings, labels)
        assert labels is not None
        if ref_labels is None and ref_emb.shape[0] != labels.shape[0]:
            raise ValueError(f"ref_labels must be given: ref_emb has {ref_emb.shape[0]} rows, labels {len(labels)}")
        columns = labels if ref_labels is None else ref_labels
        if indices_tuple is not None:
            own = indices_tuple.own
        else:  # as the package decides it
            own = torch.arange(labels.shape[0], device=labels.device) if columns is labels else None
        if columns is not labels and scores.y is None:  # rows meet themselves as any other column
            scores = self.similarities(embeddings, ref_emb.view_as(ref_emb))
        return self.of_labels(scores, labelled(labels, columns, own), embeddings, labels)

    def similarities(self, embeddings: Tensor, ref_emb: Tensor) -> Similarities:
        engine = EngineOptions.of(self.memory_budget, self.backend)
        distance = self.distance
        check_distance(distance)
        distance.reset_stats()
        distance.check_shapes(embeddings, ref_emb)
        x = similarity_rows(distance, embeddings)
        y = None if ref_emb is embeddings else similarity_rows(distance, ref_emb)
        distance.set_default_stats(embeddings, ref_emb, x, x if y is None else y)
        engine.compute_dtype = x.dtype if y is None else torch.promote_types(x.dtype, y.dtype)
        return Similarities(upcast(x), None if y is None else upcast(y), inverse(self.temperature, x), engine)

    def indices(self, given: Any, labels: Tensor | None, ref_labels: Tensor | None, scores: Similarities) -> Indices:
        """Anchors and positives, anchors and negatives."""
        a1, p, a2, n = lmu.convert_to_pairs(given, labels, ref_labels)
        sizes = scores.x.shape[0], scores.columns.shape[0]
        a1, p, a2, n = (
            check_indices("indices_tuple", index, sizes[i % 2], scores.x.device)
            for i, index in enumerate((a1, p, a2, n))
        )
        return a1, p, a2, n

    def of_labels(self, scores: Similarities, pairs: Labelled, embeddings: Tensor, labels: Tensor) -> Any:
        """The package's dictionary of terms, all pairs given by labels."""
        raise NotImplementedError

    def of_list(self, scores: Similarities, indices: Indices, embeddings: Tensor, labels: Tensor | None) -> Any:
        """The same for pairs that are listed."""
        raise NotImplementedError


class NTXentLoss(PairLoss, losses.NTXentLoss):
    """One term for every positive pair, with that positive and the row's negatives in its denominator.

        l_ip = log(1 + e^{u_i - z_ip}),     u_i = log sum_{n: other label} e^{z_in}

    Keyword arguments (distance, reducer, embedding_regularizer, collect_stats ..) are the package's; distance must be
    CosineSimilarity or DotProductSimilarity. Returns what the reducer makes of float32 terms.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature=temperature, **kwargs)
        self.backend = backend
        self.memory_budget = memory_budget
        check_distance(self.distance)

    def of_labels(self, scores: Similarities, pairs: Labelled, embeddings: Tensor, labels: Tensor) -> Any:
        if not pairs.rows.shape[0]:
            return self.zero_losses()
        positives, negatives = pairs.counts()
        total, others = torch.stack([positives.sum(), negatives.sum()]).tolist()
        if nothing_to_compare(total, others):
            return self.zero_losses()
        u = scores.reduce(pairs, keep="other_id").rows
        reducer = acting_reducer(self.reducer)
        few = total <= LISTED_PER_ROW * (pairs.rows.shape[0] + pairs.cols.shape[0])
        if few or not takes_row_sums(reducer):
            rows, cols = pairs.positives()
            return self.of_positives(softplus(u[rows] - scores.listed(rows, cols)), rows, cols, embeddings, labels)
        sums = self.row_sums(scores, pairs, u)
        return already_reduced(of_row_sums(reducer, sums, positives.to(sums.dtype), embeddings, labels))

    def row_sums(self, scores: Similarities, pairs: Labelled, u: Tensor) -> Tensor:
        """sum_p log(1 + e^{u_i - z_ip}) over the positives of each row, (N,)."""
        bias = torch.where(u == -torch.inf, LONGEST_LOG, -u)
        sums = scores.reduce(pairs, reduce="softplus", keep="same_id", row_bias=bias).row_positives
        assert sums is not None
        return scores.less_own(sums, pairs, lambda z, row: softplus(u[row] - z))

    def of_list(self, scores: Similarities, indices: Indices, embeddings: Tensor, labels: Tensor | None) -> Any:
        a1, p, a2, n = indices
        if nothing_to_compare(len(a1), len(a2)):
            return self.zero_losses()
        u = listed_lse(scores.listed(a2, n), a2, scores.x.shape[0])
        return self.of_positives(softplus(u[a1] - scores.listed(a1, p)), a1, p, embeddings, labels)

    def of_positives(self, terms: Tensor, rows: Tensor, cols: Tensor, embeddings: Tensor, labels: Tensor | None) -> Any:
        reducer = acting_reducer(self.reducer)
        if is_per_anchor(reducer):  # the package's holds a matrix of the terms
            sums, counts = per_row(terms, rows, cols, embeddings.shape[0])
            return already_reduced(of_row_sums(reducer, sums, counts, embeddings, labels))
        return {"loss": {"losses": terms, "indices": (rows, cols), "reduction_type": "pos_pair"}}


class SupConLoss(PairLoss, losses.SupConLoss):
    """Supervised contrastive loss; one term for every row, 0 for a row without a positive.

    Keyword arguments (distance, reducer, embedding_regularizer, collect_stats ..) are the package's; distance must be
    CosineSimilarity or DotProductSimilarity. Returns what the reducer makes of float32 terms.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature=temperature, **kwargs)
        self.backend = backend
        self.memory_budget = memory_budget
        check_distance(self.distance)

    def of_labels(self, scores: Similarities, pairs: Labelled, embeddings: Tensor, labels: Tensor) -> Any:
        if not pairs.rows.shape[0]:
            return self.zero_losses()
        positives, negatives = pairs.counts()
        total, others, most = torch.stack([positives.sum(), negatives.sum(), positives.amax()]).tolist()
        if nothing_to_compare(total, others):
            return self.zero_losses()
        # beside a single positive, terms come close to 0: then they must not be the difference of large numbers
        single = most == 1
        lse, sums = scores.lse_and_positives(pairs, "other_id") if single else scores.all_but_own(pairs)
        sums = scores.less_own(sums, pairs, lambda z, row: z)
        terms = softplus(lse - sums) if single else lse - sums / positives.clamp_min(1)
        return of_rows(torch.where(positives > 0, terms, 0.0))

    def of_list(self, scores: Similarities, indices: Indices, embeddings: Tensor, labels: Tensor | None) -> Any:
        a1, p, a2, n = indices
        if nothing_to_compare(len(a1), len(a2)):
            return self.zero_losses()
        size, m = scores.x.shape[0], scores.columns.shape[0]
        positive, negative = unique_pairs(a1, p, m), unique_pairs(a2, n, m)
        if torch.isin(positive, negative).any():
            raise AssertionError("indices_tuple lists a pair as positive and as negative")
        rows, anchors = positive // m, negative // m
        z = scores.listed(rows, positive % m)
        count = torch.bincount(rows, minlength=size)
        mean = z.new_zeros(size).index_add(0, rows, z) / count.clamp_min(1)
        peers, others = listed_lse(z, rows, size), listed_lse(scores.listed(anchors, negative % m), anchors, size)
        peers, mean = (torch.where(count > 0, x, 0.0) for x in (peers, mean))
        return of_rows(torch.where(count > 0, softplus(others - peers) + (peers - mean), 0.0))


class CrossBatchMemory(losses.CrossBatchMemory):
    """The package's, without its list of all pairs of batch and memory where the loss does not need one."""

    def create_indices_tuple(
        self,
        embeddings: Tensor,
        labels: Tensor,
        E_mem: Tensor,
        L_mem: Tensor,
        input_indices_tuple: Any,
        do_remove_self_comparisons: bool,
    ) -> Any:
        if self.miner or input_indices_tuple is not None or not isinstance(self.loss, PairLoss):
            return super().create_indices_tuple(
                embeddings, labels, E_mem, L_mem, input_indices_tuple, do_remove_self_comparisons
            )
        return EveryPair(self.curr_batch_idx if do_remove_self_comparisons else None)


class DistributedLossWrapper(distributed.DistributedLossWrapper):
    """The package's; with efficient=True it makes no list of all pairs of own and gathered rows for the losses here."""

    def forward_regular_loss(
        self, emb: Tensor, labels: Any, indices_tuple: Any, ref_emb: Any, ref_labels: Any, world_size: int
    ) -> Any:
        lists = self.efficient and world_size > 1 and indices_tuple is None
        if lists and labels is not None and isinstance(self.loss, PairLoss):
            alone = ref_emb is not None and emb.shape[0] == 1  # there the package leaves the pair in
            own = None if alone else torch.arange(emb.shape[0], device=emb.device)
            indices_tuple = EveryPair(own)
        return super().forward_regular_loss(emb, labels, indices_tuple, ref_emb, ref_labels, world_size)


def check_distance(distance: Any) -> None:
    """Only products of rows have statistics that need no matrix."""
    if type(distance) not in (distances.CosineSimilarity, distances.DotProductSimilarity) or distance.power != 1:
        raise ValueError(
            "distance must be CosineSimilarity or DotProductSimilarity with power=1, got "
            f"{type(distance).__name__} with power={getattr(distance, 'power', None)}"
        )


def similarity_rows(distance: Any, x: Tensor) -> Tensor:
    """Rows as the distance normalises them, in float32 and rounded once."""
    return autocast_feature(unit(x, distance.normalize_embeddings, p=distance.p))


def of_rows(terms: Tensor) -> dict[str, dict[str, Any]]:
    rows = torch.arange(terms.shape[0], device=terms.device)
    return {"loss": {"losses": terms, "indices": rows, "reduction_type": "element"}}


def nothing_to_compare(positives: int, negatives: int) -> bool:
    """Where the package gives 0: without either kind of pair, and with one pair of each."""
    return positives == 0 or negatives == 0 or (positives <= 1 and negatives <= 1)

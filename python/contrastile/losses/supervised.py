"""Supervised contrastive loss: all rows with the same label are positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from ..literals import BackendName, KeysAs, PositiveForm, Reduction, TestName
from ..ops import EngineOptions, Pairs, check
from ..ranks import GlobalBatch, Group, collective, given
from .candidates import extra_columns, promoted
from .common import cleaned, engine_options, inverse, like_statistics, reduced_empty, unit, upcast
from .multi_positive import FORMS
from .positives import Anchors, ManyPositives, counted_positives, equal_ids
from .views import Views, stacked
from .weights import Counted, keep_present


@collective
def sup_con(
    features: Views,
    labels: Tensor,
    *,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    keys_as: KeysAs = "candidates",
    anchor_mask: Tensor | None = None,
    form: PositiveForm = "out",
    per_pair: bool = False,
    temperature: float | Tensor = 0.1,
    detach_keys: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Supervised contrastive loss: every row must find all other rows with its label.

        z_ij = <x_i, x_j> / temperature,   P(i) = other rows with i's label,   N(i) = rows of other labels
        "out"   L_i = log sum_{j != i} e^{z_ij} - 1/|P(i)| sum_{P(i)} z_ip
        "in"    L_i = log sum_{j != i} e^{z_ij} - log sum_{P(i)} e^{z_ip}
        "each"  L_i = 1/|P(i)| sum_{p in P(i)} log(1 + sum_{N(i)} e^{z_ij - z_ip})

    Args:
        features: (N, D), or k views of the same N samples: (k, N, D) or a list of k tensors (N, D). Each view is a row
            with its sample's label. Unit rows, or set normalize=True. The official code takes (N, V, D):
            features.unbind(1) makes a list of views.
        labels: (N,) integers; or label sets, (N, L) bool, where sets that overlap are positives.
        keys, key_labels: Further rows j that are not anchors, (M, D), with labels (M,) or (M, L): from a momentum
            encoder, a queue, or an older model. Keys without gradient cost none. Across ranks they behave like
            `negatives` of info_nce.
        keys_as: "candidates": keys are positives and negatives like other rows. "positives": P(i) is the keys with i's
            label and nothing else; no key enters the sum over j, which has all other rows. "positives" needs
            form="out"; it is not a softmax, so L_i can be negative, and a row alone has no loss.
        anchor_mask: (N,) bool, the samples that have a loss. All samples stay candidates, and positives of the others.
        form: "out" (the paper's): the mean over positives is outside the logarithm. "in": it is inside, so one positive
            is enough. "each": every positive competes with the negatives only.
        per_pair: True: a row counts once per positive, so that the mean of "out" and "each" is the mean over all
            positive pairs.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        detach_keys: Candidates, including positives, get no gradient. Costs 4 (k N)^2 D FLOP as well.
        weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w.
        present: (N,) bool. A sample with False is neither a row nor a candidate; its features may hold anything and get
            gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" over the rows that have a positive (0 if none has one), "sum", or "none": (N,) or (k, N). A
            row without a positive has value 0 and no gradient.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 4 (k N)^2 D FLOP forward and backward; 6 k N (k N + M) D with keys; "each" costs three times as much.

    Example:
        >>> features, labels = torch.randn(8, 16), torch.arange(8) // 2
        >>> loss = sup_con(features, labels, temperature=0.1, normalize=True)

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2; the official code also multiplies by
    temperature / base_temperature. "in": eq. 3, which adds log |P(i)|. "each" with per_pair: pytorch-metric-learning
    NTXentLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    if form != "out":
        check.choice("form", form, FORMS)
    if alone := keys_as != "candidates":
        check.choice("keys_as", keys_as, get_args(KeysAs))
        if keys is None or form != "out":
            raise ValueError("keys_as='positives' needs keys and form='out'")
    views = one_or_more_views(features, labels)
    k, n, _ = views.shape
    counted = Counted.of(weights, present, views[0])
    anchors = None if anchor_mask is None else check.bool_mask("anchor_mask", anchor_mask, (n,), views.device)
    here = None if counted.present is None else counted.present.repeat(k)
    shape = (n,) if isinstance(features, Tensor) and features.dim() == 2 else (k, n)
    x = views.flatten(0, 1)
    if keys is not None:
        x, keys, *_ = promoted(x, extra_columns("keys", keys, x), None, None)
        keys = unit(keys, normalize)
    x = unit(cleaned(x, here), normalize)
    classes = Classes.of(labels, key_labels, n, k, keys, x.device)
    scale, blocks = inverse(temperature, x), [] if keys is None else [keys]
    batches = GlobalBatch.several(
        engine.ranks, [x.shape[0]] if keys is None else [x.shape[0], keys.shape[0]],
        lambda: dict(
            **counted.facts(), detach_keys=bool(detach_keys), keys=given(keys), anchor_mask=given(anchors),
            per_pair=bool(per_pair), label_sets=classes.sets,
        ),
        n,
    )  # fmt: skip
    if batches[0].total == 0:
        return reduced_empty(0, reduction, x, scale, *blocks).reshape(shape if reduction == "none" else ())
    if blocks and not detach_keys:  # rows are columns, too: both gradients meet in float32 and are rounded once
        engine.compute_dtype, x, blocks = x.dtype, upcast(x), [upcast(y) for y in blocks]
    columns = [x, *blocks] if blocks or detach_keys else None
    if detach_keys and columns is not None:
        columns = [y.detach() for y in columns]
    pairs = classes.pairs(x, columns, scale, here, alone)
    counts = classes.positives(pairs, here, batches, engine, alone)
    each = None if counted.weights is None else counted.weights.repeat(k)
    if anchors is not None:
        chosen = like_statistics(anchors.repeat(k), x)
        each = chosen if each is None else chosen * each
    rows = Anchors.of(counts, batches[0], reduction, x, each, bool(per_pair))
    value = ManyPositives(pairs, form, engine, rows, among=not alone).loss(reduction)
    return value.reshape(shape) if reduction == "none" else value


@dataclass
class Classes:
    """Of rows and of keys: labels, or sets of them."""

    rows: Tensor
    keys: Tensor | None
    sets: bool

    @staticmethod
    def of(
        labels: Tensor, key_labels: Tensor | None, n: int, k: int, keys: Tensor | None, device: torch.device
    ) -> Classes:
        """labels: of n samples, with k rows each."""
        if (keys is None) != (key_labels is None):
            raise ValueError("key_labels must be given with keys, and only with keys")
        sets = isinstance(labels, Tensor) and labels.dtype == torch.bool and labels.dim() == 2
        prepared = check.label_sets if sets else check.ids
        rows = prepared("labels", labels, n, device)
        if keys is not None:
            key_labels = prepared("key_labels", key_labels, keys.shape[0], device)
            if sets:
                check.same_width("key_labels", key_labels, "labels", rows)
        return Classes(rows.repeat(k, *[1] * (rows.dim() - 1)), key_labels, sets)

    def pairs(
        self, x: Tensor, columns: list[Tensor] | None, scale: float | Tensor, here: Tensor | None, alone: bool
    ) -> Pairs:
        """here: (rows,) bool, which are there; None: all. alone: keys are the positives, and no candidates."""
        name = "labels" if self.sets else "ids"
        test: TestName = "shared_label" if self.sets else "same_id"
        pairs = Pairs(x, columns, scale, keep="other_index", positives=(test, "other_index"))
        setattr(pairs, f"row_{name}", self.rows)
        if columns is not None:
            of_keys = [] if self.keys is None else [self.keys]
            setattr(pairs, f"col_{name}", [None if alone else self.rows, *of_keys])
        if alone:
            there = x.new_ones(x.shape[0], dtype=torch.bool) if here is None else here
            keep_present(pairs, there, [there, None])
            pairs.col_groups = [(~there).long(), None]
        elif here is not None:
            keep_present(pairs, here, [here, *(None for _ in columns[1:])] if columns else [])
            pairs.positives = (test, "other_index", "same_group")
        return pairs

    def positives(
        self, pairs: Pairs, here: Tensor | None, batches: list[GlobalBatch], engine: EngineOptions, alone: bool
    ) -> Tensor:
        """How many each row has."""
        batch, *others = batches
        if self.sets:
            count, _ = counted_positives(pairs, engine)
        else:
            there = None if here is None else batch.gather(here.long())
            same = equal_ids(self.rows, batch.gather(self.rows), there)
            count = torch.zeros_like(same) if alone else same - 1
            for of_keys in others:
                assert self.keys is not None
                count = count + equal_ids(self.rows, of_keys.gather_negatives(self.keys))
        if here is not None:
            count = torch.where(here, count, 0)
        if alone:  # a row alone has nothing to be compared with
            count = count * ((batch.total if here is None else batch.sum(here.sum())) > 1)
        return count


def one_or_more_views(features: Views, labels: Tensor) -> Tensor:
    """(k, N, D); one view may come as (N, D)."""
    if isinstance(features, Tensor) and features.dim() != 3:
        return check.features("features", features).unsqueeze(0)
    x = stacked(features, name="features", least=1)
    if isinstance(labels, Tensor) and labels.dim() and labels.shape[0] == x.shape[0] != x.shape[1]:
        raise ValueError(
            f"features must have the views first, (k, N, D) with N = {labels.shape[0]} labels, got {tuple(x.shape)}; "
            "features.unbind(1) makes (N, V, D) a list of views"
        )
    return x

"""The losses as modules. packaging/generate_modules.py makes this file from the functions' signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Generator, Tensor

from ..literals import (
    BackendName,
    Direction,
    FixedPoints,
    KeysAs,
    MarginKind,
    PositiveForm,
    Reduction,
    SegmentReduceName,
    TeacherLoss,
)
from ..ranks import Group
from .arcs import Share
from .base import OWN, LossModule, Own
from .clip import clip_loss
from .contrastive import info_nce
from .cosine import CosineForm, cosine_loss
from .debiased import debiased_info_nce, debiased_nt_xent
from .decorrelation import barlow_twins_loss, cross_modal_consistency, in_modal_consistency
from .decoupled import dcl, dclw, dhel
from .dino import dino_loss
from .distill import clip_distill_loss, distill_info_nce
from .fdt import OverItem, Padding, fdt_loss
from .gap import cua, cuaxu
from .gated import hydra_loss
from .grouped import grouped_info_nce, grouped_margin_loss
from .in_batch import InBatch
from .kernel import KernelName, kcl
from .late_arguments import ScoreLoss
from .late_info_nce import late_interaction_info_nce
from .margin import cma_loss, margin_info_nce
from .mil_nce import mil_nce
from .mixup import m2_mix, mixup_info_nce
from .multi_positive import multi_positive
from .multiview import Aggregation, Denominator, mv_dhel, mv_infonce, pvc
from .multiview_clip import multiview_clip_loss
from .pmrl import pmrl_loss
from .private import Candidates
from .prototypes import prototype_loss
from .sigmoid import siglip_loss
from .similarity import cwcl_loss, softclip_loss
from .structured import block_info_nce, global_local_info_nce, m3el_loss
from .supervised import sup_con
from .symile import Sampling, symile_loss
from .tokens import OverTokens
from .triangle import triangle_loss
from .two_views import nt_xent
from .uniform import alignment, joint_entropy, uniformity
from .views import Views
from .vocabulary import linear_cross_entropy
from .volume import gram_loss
from .word_region import OverWords, word_region_loss


class InfoNCE(LossModule):
    """`info_nce` as a module that keeps its options.

    forward takes query, key, and by name negatives, hard_negatives, query_ids, key_ids, negative_ids, query_groups,
    key_groups, negative_groups, key_log_prob, negative_log_prob, weights, present. An option that you pass to forward
    holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> ids = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])  # the first two are the same item
        >>> criterion = InfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(query, key, negatives=queue, query_ids=ids)
    """

    function = staticmethod(info_nce)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        key_temperature: float | None = None,
        positive_log_prob: bool = True,
        false_negative_margin: float | None = None,
        relative_margin: float | None = None,
        num_hard: int | None = None,
        in_batch: bool = True,
        query_query: bool = False,
        key_key: bool = False,
        key_query: bool = False,
        label_smoothing: float = 0.0,
        symmetric: bool = False,
        direction: Direction = "mean",
        detach_keys: bool = False,
        key_offset: int = 0,
        matryoshka: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
        normalize: bool = False,
        report: InBatch | None = None,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            key_temperature: The temperature of the key -> query direction, if it differs: a float, a 0-dim tensor, or
                (N,), one per matched key. Needs symmetric=True. Both directions still take one pass, except with
                matryoshka, query_query, key_key, or key_query.
            positive_log_prob: False leaves the positive's own logit uncorrected; "mean" and "sum" then cost as much as
                "none".
            false_negative_margin: Drops columns of key and negatives with <q_i, k_j> > <q_i, k_i> + margin, in units of
                similarity. No gradient flows through the decision; rounding decides ties.
            relative_margin: Drops columns with <q_i, k_j> > <q_i, k_i> - relative_margin |<q_i, k_i>|: a fraction of
                the positive's similarity. With both margins, the lower limit applies.
            num_hard: K >= 1: of the negatives that ids and margin leave, only the K largest of each row count, plus any
                that tie with the last of them (to rounding). The positive always counts. No gradient flows through the
                choice, which costs one more product of all pairs (two with symmetric=True, where each key has its own K
                queries) and O(N K) memory. Not with hard_negatives, label_smoothing, or log-probabilities.
            in_batch: False: only negatives and hard_negatives are candidates, not the other keys of the batch (MoCo).
                Not with symmetric, label_smoothing, query_query, key_key, key_query, or ids, groups, or
                log-probabilities of keys.
            query_query, key_key, key_query: True adds terms to the sum of pair i, over j != i: the other queries
                e^{<q_i, q_j> / temperature}; the other keys as its key sees them, e^{<k_i, k_j> / temperature}; the
                other queries as its key sees them, e^{<k_i, q_j> / temperature}. All rows of key count as other keys;
                negatives do not. Ids, groups, and margins apply here too. With symmetric=True both directions get the
                same extra terms; key_query does not allow it. Each costs 4 (key_query 8) N^2 D FLOP, and query -> key
                then costs 8. Not with label_smoothing, log-probabilities, num_hard, or in_batch=False.
            label_smoothing: In [0, 1): spreads this share of the target over all candidates of the row, as
                torch.nn.functional.cross_entropy does. Not with ids or a margin.
            symmetric: Adds the key -> query direction, from the same pass. Extra negatives belong to the queries only.
            direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (query -> key only),
                or "cols" (key -> query only). A direction you leave out is not computed.
            detach_keys: Candidates, including the positive, get no gradient. With symmetric=True each direction trains
                only its anchors, in two passes (8 N^2 D FLOP together).
            key_offset: With key (M, D), M >= N, the key of query i is row key_offset + i: this process's keys within
                keys gathered from elsewhere. The other rows are candidates; with symmetric=True they are not anchors.
                Not with group, which gathers by itself.
            matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over
                all prefixes. normalize=True makes every prefix a unit row; a prefix of a unit row is not one by itself.
                On the backends cpu and torch one product serves all prefixes: widths that double take about 1.5 times
                as long as one loss. Other backends, and group, hard_negatives, label_smoothing, margins,
                positive_log_prob=False, and reduction="none", take one pass per prefix.
            matryoshka_weights: A number per prefix; default 1 each.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            report: A contrastile.metrics.InBatch, which the call fills with in-batch recall and similar statistics. Not
                with matryoshka.
            reduction: "mean" or "sum" over rows, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call. Log-probabilities, weights, and present are
                those of this rank's own items.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.key_temperature = key_temperature
        self.positive_log_prob = positive_log_prob
        self.false_negative_margin = false_negative_margin
        self.relative_margin = relative_margin
        self.num_hard = num_hard
        self.in_batch = in_batch
        self.query_query = query_query
        self.key_key = key_key
        self.key_query = key_query
        self.label_smoothing = label_smoothing
        self.symmetric = symmetric
        self.direction = direction
        self.detach_keys = detach_keys
        self.key_offset = key_offset
        self.matryoshka = matryoshka
        self.matryoshka_weights = matryoshka_weights
        self.normalize = normalize
        self.report = report
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        key_temperature: float | Tensor | Own | None = OWN,
        negatives: Tensor | None = None,
        hard_negatives: Tensor | Candidates | None = None,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
        query_groups: Tensor | None = None,
        key_groups: Tensor | None = None,
        negative_groups: Tensor | None = None,
        key_log_prob: Tensor | None = None,
        negative_log_prob: Tensor | None = None,
        positive_log_prob: bool | Own = OWN,
        false_negative_margin: float | Own | None = OWN,
        relative_margin: float | Own | None = OWN,
        num_hard: int | Own | None = OWN,
        in_batch: bool | Own = OWN,
        query_query: bool | Own = OWN,
        key_key: bool | Own = OWN,
        key_query: bool | Own = OWN,
        label_smoothing: float | Own = OWN,
        symmetric: bool | Own = OWN,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        key_offset: int | Own = OWN,
        matryoshka: Sequence[int] | Own | None = OWN,
        matryoshka_weights: Sequence[float] | Own | None = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        report: InBatch | Own | None = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True. key may
                have more rows than query: see key_offset.
            negatives: Columns that all queries share (a queue, other documents), (M, D).
            hard_negatives: Private columns of each query, (N, K, D), or Candidates: lists of any length, rows of a bank
                by index, a bias. Holds N K logits.
            query_ids, key_ids, negative_ids: Integers, (N,), one per row of key, (M,). A column with the row's id is
                not a negative of that row; the row's own positive stays. key_ids default to query_ids. Negatives
                without ids always count.
            query_groups, key_groups, negative_groups: Integers, (N,), one per row of key, (M,). Only candidates in the
                query's group are its negatives (for example, clusters from an earlier stage of training). key_groups
                default to query_groups; negatives must have groups, hard_negatives have none. Not with label_smoothing.
            key_log_prob, negative_log_prob: Log of the probability (or expected count) with which each row of key and
                of negatives was sampled. It is subtracted from the logit, the positive's too, so that the softmax
                estimates the one over all candidates (sampled softmax, logQ correction). Finite, no gradient. Does not
                apply to hard_negatives, nor to the key -> query direction, where it would cancel. Not with
                label_smoothing or false_negative_margin.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return info_nce(
            query,
            key,
            temperature=self.needed("temperature", temperature),
            key_temperature=self.key_temperature if key_temperature is OWN else key_temperature,
            negatives=negatives,
            hard_negatives=hard_negatives,
            query_ids=query_ids,
            key_ids=key_ids,
            negative_ids=negative_ids,
            query_groups=query_groups,
            key_groups=key_groups,
            negative_groups=negative_groups,
            key_log_prob=key_log_prob,
            negative_log_prob=negative_log_prob,
            positive_log_prob=self.positive_log_prob if positive_log_prob is OWN else positive_log_prob,
            false_negative_margin=self.false_negative_margin if false_negative_margin is OWN else false_negative_margin,
            relative_margin=self.relative_margin if relative_margin is OWN else relative_margin,
            num_hard=self.num_hard if num_hard is OWN else num_hard,
            in_batch=self.in_batch if in_batch is OWN else in_batch,
            query_query=self.query_query if query_query is OWN else query_query,
            key_key=self.key_key if key_key is OWN else key_key,
            key_query=self.key_query if key_query is OWN else key_query,
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            symmetric=self.symmetric if symmetric is OWN else symmetric,
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            key_offset=self.key_offset if key_offset is OWN else key_offset,
            matryoshka=self.matryoshka if matryoshka is OWN else matryoshka,
            matryoshka_weights=self.matryoshka_weights if matryoshka_weights is OWN else matryoshka_weights,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            report=self.report if report is OWN else report,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class ClipLoss(LossModule):
    """`clip_loss` as a module that keeps its options.

    forward takes image_features, text_features, and by name image_ids, text_ids, image_groups, text_groups, weights,
    present. An option that you pass to forward holds for that call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image = torch.randn(8, 16, requires_grad=True)
        >>> text = torch.randn(8, 16, requires_grad=True)
        >>> criterion = ClipLoss(learnable_scale=True, normalize=True)
        >>> loss = criterion(image, text)
    """

    function = staticmethod(clip_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        text_logit_scale: float | None = None,
        label_smoothing: float = 0.0,
        direction: Direction = "mean",
        detach_keys: bool = False,
        matryoshka: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
        normalize: bool = False,
        report: InBatch | None = None,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `clip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            text_logit_scale: The scale of the text -> image direction, if it differs: a float, a 0-dim tensor, or (N,).
            label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
                torch.nn.functional.cross_entropy does. Not with ids.
            direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
            detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
            matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over
                all prefixes. normalize=True makes every prefix a unit row.
            matryoshka_weights: A number per prefix; default 1 each.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            report: A contrastile.metrics.InBatch, which the call fills with in-batch recall and similar statistics. Not
                with matryoshka.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.text_logit_scale = text_logit_scale
        self.label_smoothing = label_smoothing
        self.direction = direction
        self.detach_keys = detach_keys
        self.matryoshka = matryoshka
        self.matryoshka_weights = matryoshka_weights
        self.normalize = normalize
        self.report = report
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        text_logit_scale: float | Tensor | Own | None = OWN,
        label_smoothing: float | Own = OWN,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        image_groups: Tensor | None = None,
        text_groups: Tensor | None = None,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        matryoshka: Sequence[int] | Own | None = OWN,
        matryoshka_weights: Sequence[float] | Own | None = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        report: InBatch | Own | None = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`clip_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            image_ids, text_ids: (N,) integers. Pairs with equal ids at different indices are not negatives. text_ids
                default to image_ids.
            image_groups, text_groups: (N,) integers. Only items of the same group are negatives of each other.
                text_groups default to image_groups.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return clip_loss(
            image_features,
            text_features,
            logit_scale=self.needed("logit_scale", logit_scale),
            text_logit_scale=self.text_logit_scale if text_logit_scale is OWN else text_logit_scale,
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            image_ids=image_ids,
            text_ids=text_ids,
            image_groups=image_groups,
            text_groups=text_groups,
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            matryoshka=self.matryoshka if matryoshka is OWN else matryoshka,
            matryoshka_weights=self.matryoshka_weights if matryoshka_weights is OWN else matryoshka_weights,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            report=self.report if report is OWN else report,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DistillInfoNCE(LossModule):
    """`distill_info_nce` as a module that keeps its options.

    forward takes query, key, teacher_query, teacher_key, and by name negatives, teacher_negatives, query_ids, key_ids,
    negative_ids, weights. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> query, key, teacher_query = torch.randn(3, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> criterion = DistillInfoNCE(learnable_temperature=True, alpha=0.4, normalize=True)
        >>> loss = criterion(query, key, teacher_query, negatives=queue)
    """

    function = staticmethod(distill_info_nce)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        teacher_temperature: float | None = None,
        alpha: float = 0.4,
        teacher_loss: TeacherLoss = "ce",
        filter_wrong: bool = False,
        detach_targets: bool = True,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `distill_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            teacher_temperature: The teacher's temperature; None: temperature, without gradient.
            alpha: The teacher's share of the target, in [0, 1]; a float or a 0-dim tensor. ALBEF ramps it up in the
                first epoch.
            teacher_loss: "ce", the cross-entropy above, or "kl", which subtracts the entropy of p_i and is 0 for a
                student that equals the target. No "kl" with ids, unless alpha is 1.
            filter_wrong: True: a query whose teacher does not find its own key (the first of equals counts) has loss 0.
            detach_targets: False lets gradients through the target.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over queries, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.teacher_temperature = teacher_temperature
        self.alpha = alpha
        self.teacher_loss = teacher_loss
        self.filter_wrong = filter_wrong
        self.detach_targets = detach_targets
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        teacher_query: Tensor,
        teacher_key: Tensor | None = None,
        *,
        temperature: float | Tensor | Own = OWN,
        teacher_temperature: float | Tensor | Own | None = OWN,
        alpha: float | Tensor | Own = OWN,
        negatives: Tensor | None = None,
        teacher_negatives: Tensor | None = None,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
        teacher_loss: TeacherLoss | Own = OWN,
        filter_wrong: bool | Own = OWN,
        detach_targets: bool | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`distill_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            teacher_query: (N, T), the teacher's queries.
            teacher_key: (N, T), the teacher's keys. None: key and negatives serve the teacher too.
            negatives: Further candidates of all queries (a queue), (M, D). Without gradient they cost none.
            teacher_negatives: (M, T), the teacher's features of them, if you give teacher_key.
            query_ids, key_ids, negative_ids: Integers, (N,), (N,), (M,). All candidates with the query's id share the
                hard part of the target equally, [id_j = id_i] / count, as for several captions of an image. key_ids
                default to query_ids; negatives without ids have none.
            weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return distill_info_nce(
            query,
            key,
            teacher_query,
            teacher_key,
            temperature=self.needed("temperature", temperature),
            teacher_temperature=self.teacher_temperature if teacher_temperature is OWN else teacher_temperature,
            alpha=self.alpha if alpha is OWN else alpha,
            negatives=negatives,
            teacher_negatives=teacher_negatives,
            query_ids=query_ids,
            key_ids=key_ids,
            negative_ids=negative_ids,
            teacher_loss=self.teacher_loss if teacher_loss is OWN else teacher_loss,
            filter_wrong=self.filter_wrong if filter_wrong is OWN else filter_wrong,
            detach_targets=self.detach_targets if detach_targets is OWN else detach_targets,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class ClipDistillLoss(LossModule):
    """`clip_distill_loss` as a module that keeps its options.

    forward takes image_features, text_features, teacher_image_features, teacher_text_features, and by name weights. An
    option that you pass to forward holds for that call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> teacher_image_features, teacher_text_features = torch.randn(2, 8, 32)
        >>> criterion = ClipDistillLoss(learnable_scale=True, normalize=True)
        >>> loss = criterion(image_features, text_features, teacher_image_features, teacher_text_features)
    """

    function = staticmethod(clip_distill_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        teacher_logit_scale: float | None = None,
        alpha: float = 1.0,
        teacher_loss: TeacherLoss = "ce",
        filter_wrong: bool = False,
        detach_targets: bool = True,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `clip_distill_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            teacher_logit_scale: The teacher's scale; None: logit_scale, without gradient.
            alpha: The teacher's share of the target, in [0, 1]; a float or a 0-dim tensor.
            teacher_loss: "ce", the formula above, or "kl", which subtracts the entropies of p and p'.
            filter_wrong: True: an item whose teacher does not find its partner (the first of equals counts) has loss 0
                in that direction.
            detach_targets: False lets gradients through the targets.
            direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
            normalize: Scale all four sets of rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.teacher_logit_scale = teacher_logit_scale
        self.alpha = alpha
        self.teacher_loss = teacher_loss
        self.filter_wrong = filter_wrong
        self.detach_targets = detach_targets
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        teacher_image_features: Tensor,
        teacher_text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        teacher_logit_scale: float | Tensor | Own | None = OWN,
        *,
        alpha: float | Tensor | Own = OWN,
        teacher_loss: TeacherLoss | Own = OWN,
        filter_wrong: bool | Own = OWN,
        detach_targets: bool | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`clip_distill_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            teacher_image_features, teacher_text_features: (N, T), the teacher's features.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return clip_distill_loss(
            image_features,
            text_features,
            teacher_image_features,
            teacher_text_features,
            logit_scale=self.needed("logit_scale", logit_scale),
            teacher_logit_scale=self.teacher_logit_scale if teacher_logit_scale is OWN else teacher_logit_scale,
            alpha=self.alpha if alpha is OWN else alpha,
            teacher_loss=self.teacher_loss if teacher_loss is OWN else teacher_loss,
            filter_wrong=self.filter_wrong if filter_wrong is OWN else filter_wrong,
            detach_targets=self.detach_targets if detach_targets is OWN else detach_targets,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class SoftClipLoss(LossModule):
    """`softclip_loss` as a module that keeps its options.

    forward takes x, y, and by name weights. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> criterion = SoftClipLoss(learnable_temperature=True)
        >>> loss = criterion(x, y)
    """

    function = staticmethod(softclip_loss)

    def __init__(
        self,
        temperature: float = 0.125,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        detach_targets: bool = False,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `softclip_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            detach_targets: True keeps gradients out of r. The official code lets them through.
            direction: "mean" or "sum" of both directions; "rows": x -> y only; "cols": y -> x only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.detach_targets = detach_targets
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        detach_targets: bool | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`softclip_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: Pairs of two modalities, (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return softclip_loss(
            x,
            y,
            temperature=self.needed("temperature", temperature),
            detach_targets=self.detach_targets if detach_targets is OWN else detach_targets,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CWCL(LossModule):
    """`cwcl_loss` as a module that keeps its options.

    forward takes anchor, other, and by name weight_features, weights. An option that you pass to forward holds for that
    call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> anchor, other = torch.randn(2, 8, 16)  # text is pretrained, speech is trained
        >>> criterion = CWCL(learnable_scale=True, normalize=True)
        >>> loss = criterion(anchor, other)
    """

    function = staticmethod(cwcl_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `cwcl_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        anchor: Tensor,
        other: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        weight_features: Tensor | None = None,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cwcl_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            anchor, other: (N, D), the pretrained modality and the one that is trained; unit rows, or set
                normalize=True.
            weight_features: f, (N, T), unit rows; default anchor. No gradient: the weights are constants. A row whose
                weights have no positive sum has its partner alone as target.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return cwcl_loss(
            anchor,
            other,
            logit_scale=self.needed("logit_scale", logit_scale),
            weight_features=weight_features,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class HydraLoss(LossModule):
    """`hydra_loss` as a module that keeps its options.

    forward takes x, gate, labels, partner_labels, keys, key_labels. An option that you pass to forward holds for that
    call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then.

    Example:
        >>> x, gate = torch.randn(8, 16), torch.rand(8, 16)
        >>> labels, partner_labels = torch.arange(8) % 4, torch.arange(8) % 3
        >>> criterion = HydraLoss(learnable_scale=True)
        >>> loss = criterion(x, gate, labels, partner_labels)
    """

    function = staticmethod(hydra_loss)

    def __init__(
        self,
        logit_scale: float = 10.0,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `hydra_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            reduction: "mean" over all pairs (i, j), "sum", or "none": (N,), the sum per sample; 0 for a sample without
                pairs.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        x: Tensor,
        gate: Tensor,
        labels: Tensor,
        partner_labels: Tensor,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
        *,
        logit_scale: float | Tensor | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`hydra_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x: Samples, (N, D), of any norm.
            gate: g, (N, D), from 0 to 1: how much each sample's pair of classes uses each feature.
            labels, partner_labels: (N,) integers, the class of each sample and the class it is paired with.
            keys, key_labels: (M, D), (M,): what samples are compared with, for example from a momentum encoder.
                Default: x and labels; then a sample whose partner class is its own is its own positive too, as in the
                official code.
        """
        return hydra_loss(
            x,
            gate,
            labels,
            partner_labels,
            keys,
            key_labels,
            logit_scale=self.needed("logit_scale", logit_scale),
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MarginInfoNCE(LossModule):
    """`margin_info_nce` as a module that keeps its options.

    forward takes query, key, and by name negatives, query_ids, key_ids, negative_ids, weights, present. An option that
    you pass to forward holds for that call only.

    Give margin to forward if the module has none.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> criterion = MarginInfoNCE(learnable_temperature=True, margin=0.3, normalize=True)
        >>> loss = criterion(query, key, negatives=queue)
    """

    function = staticmethod(margin_info_nce)

    def __init__(
        self,
        margin: float | None = None,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        kind: MarginKind = "cos",
        in_batch: bool = True,
        symmetric: bool = False,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `margin_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            margin: A number: of the cosine, or ("arc") of the angle in radians, in [-pi, pi]. A negative margin is
                lenient: InterCLR uses -0.5 between images.
            kind: "cos" | "arc". Where the angle would leave [0, pi], "arc" continues as the line c - |margin| sin
                |margin| (plus for a negative margin), as in the official code. Where c is 1 or -1, its gradient is that
                of cos(margin) c.
            in_batch: False: only negatives are candidates, not the other keys of the batch (MoCo, InterCLR).
            symmetric: Adds the key -> query direction, with the same margin, from the same pass.
            direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (query -> key only),
                or "cols" (key -> query only).
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over rows, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.margin = margin
        self.kind = kind
        self.temperature = None if learnable_temperature else temperature
        self.in_batch = in_batch
        self.symmetric = symmetric
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        margin: float | Own = OWN,
        kind: MarginKind | Own = OWN,
        temperature: float | Tensor | Own = OWN,
        negatives: Tensor | None = None,
        in_batch: bool | Own = OWN,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
        symmetric: bool | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`margin_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, key: Pairs, (N, D), unit rows, or set normalize=True.
            negatives: Further candidates that all queries share (a queue, a memory bank), (M, D).
            query_ids, key_ids, negative_ids: Integers, (N,), (N,), (M,). Candidates with the query's id are not
                negatives. key_ids default to query_ids. Negatives without ids always count.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return margin_info_nce(
            query,
            key,
            margin=self.required("margin", margin),
            kind=self.kind if kind is OWN else kind,
            temperature=self.needed("temperature", temperature),
            negatives=negatives,
            in_batch=self.in_batch if in_batch is OWN else in_batch,
            query_ids=query_ids,
            key_ids=key_ids,
            negative_ids=negative_ids,
            symmetric=self.symmetric if symmetric is OWN else symmetric,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CMALoss(LossModule):
    """`cma_loss` as a module that keeps its options.

    forward takes image_features, text_features, and by name image_ids, text_ids, weights, present. An option that you
    pass to forward holds for that call only.

    Give lam to forward if the module has none.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image, text = torch.randn(2, 8, 16)
        >>> criterion = CMALoss(learnable_scale=True, lam=0.001, normalize=True)
        >>> loss = criterion(image, text)
    """

    function = staticmethod(cma_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        lam: float | None = None,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `cma_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            lam: A number in [0, 1]. 0 gives clip_loss; the official code trains with 0.001.
            direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.lam = lam
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        lam: float | Own = OWN,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cma_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            image_ids, text_ids: (N,) integers. Pairs with equal ids at different indices are not negatives. The
                official code uses class names as texts and keeps equal names as negatives.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return cma_loss(
            image_features,
            text_features,
            logit_scale=self.needed("logit_scale", logit_scale),
            lam=self.required("lam", lam),
            image_ids=image_ids,
            text_ids=text_ids,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MixupInfoNCE(LossModule):
    """`mixup_info_nce` as a module that keeps its options.

    forward takes mixed, clean, partner, share, and by name unmixed, unmixed_clean, weights. An option that you pass to
    forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, clean = torch.randn(2, 8, 16)
        >>> partner, share = torch.randperm(8), torch.rand(8)
        >>> mixed = share[:, None] * x + (1 - share[:, None]) * x[partner]
        >>> criterion = MixupInfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(mixed, clean, partner, share)
    """

    function = staticmethod(mixup_info_nce)

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        fixed_points: FixedPoints = "add",
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `mixup_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            fixed_points: Where partner_i = i, "add" makes p_ii the sum of both weights; "overwrite" keeps the partner's
                weight only, as M3CoL's code does, so that an item with share 1 has no target and loss 0.
            direction: "mean" or "sum" of both directions; "rows": mixed -> clean only; "cols": clean -> mixed only,
                which costs as much as both.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over items, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.fixed_points = fixed_points
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        mixed: Tensor,
        clean: Tensor,
        partner: Tensor,
        share: Share,
        *,
        temperature: float | Tensor | Own = OWN,
        unmixed: Tensor | None = None,
        unmixed_clean: Tensor | None = None,
        fixed_points: FixedPoints | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`mixup_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            mixed, clean: (N, D), unit rows, or set normalize=True. mixed_i combines item i, with share_i, and item
                partner_i.
            partner: (N,) integers in [0, N), any of them, including i itself. With a group they count through all
                ranks.
            share: The share of item i, in [0, 1]: a float, a 0-dim tensor, or (N,). Or (N, 2), >= 0: the weights of
                item i and of its partner, which need not add up to 1. No gradient.
            unmixed: (N, D), mixed before mixing: all z_ij except those of the two sources become <unmixed_i, clean_j> /
                temperature.
            unmixed_clean: The same for clean, if clean is mixed too. Needs unmixed.
            weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return mixup_info_nce(
            mixed,
            clean,
            partner,
            share,
            temperature=self.needed("temperature", temperature),
            unmixed=unmixed,
            unmixed_clean=unmixed_clean,
            fixed_points=self.fixed_points if fixed_points is OWN else fixed_points,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class M2Mix(LossModule):
    """`m2_mix` as a module that keeps its options.

    forward takes x, y, share, and by name weights, present. An option that you pass to forward holds for that call
    only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> share = torch.distributions.Beta(0.5, 0.5).sample()
        >>> criterion = M2Mix(learnable_temperature=True, normalize=True)
        >>> loss = criterion(x, y, share)
    """

    function = staticmethod(m2_mix)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        direction: Direction = "sum",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `m2_mix`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            direction: "sum" (the official code) or "mean" of both; "rows": x against the mixed rows only; "cols": y
                only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        share: Share,
        *,
        temperature: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`m2_mix` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: Pairs of two modalities, (N, D), unit rows, or set normalize=True.
            share: The share of x in m, in [0, 1]: a float, a 0-dim tensor (the paper draws one per batch), or (N,). No
                gradient.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return m2_mix(
            x,
            y,
            share,
            temperature=self.needed("temperature", temperature),
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class PrototypeLoss(LossModule):
    """`prototype_loss` as a module that keeps its options.

    forward takes x, prototypes, labels, and by name weights, present. An option that you pass to forward holds for that
    call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, prototypes = torch.randn(8, 16), torch.randn(100, 16)
        >>> labels = torch.randint(100, (8,))
        >>> criterion = PrototypeLoss(learnable_temperature=True, normalize=True)
        >>> loss = criterion(x, prototypes, labels)
    """

    function = staticmethod(prototype_loss)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        label_smoothing: float = 0.0,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `prototype_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            label_smoothing: In [0, 1): spreads this share of the target over all classes, as
                torch.nn.functional.cross_entropy does.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over items, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: items come from all ranks.
                Every rank has all classes, and its gradient of prototypes (C, D) covers its own items: data parallelism
                averages it over ranks.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.label_smoothing = label_smoothing
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        x: Tensor,
        prototypes: Tensor,
        labels: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        label_smoothing: float | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`prototype_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x: (N, D), unit rows, or set normalize=True.
            prototypes: w, (C, D), shared by all items, for any number of classes; or (N, C, D), one set per item
                (prompts that depend on the image). The second form is plain torch, holds N C logits, and ignores
                backend and memory_budget.
            labels: (N,) integers in [0, C). On a GPU their values are not checked.
            weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. An item with False takes no part; its features and label may hold anything, and it gets
                gradient 0.
        """
        return prototype_loss(
            x,
            prototypes,
            labels,
            temperature=self.needed("temperature", temperature),
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class GlobalLocalInfoNCE(LossModule):
    """`global_local_info_nce` as a module that keeps its options.

    forward takes global_features, local_features, mask, and by name weights. An option that you pass to forward holds
    for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> global_features, local_features = torch.randn(8, 16), torch.randn(8, 5, 16)
        >>> mask = torch.rand(8, 5) < 0.8
        >>> criterion = GlobalLocalInfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(global_features, local_features, mask)
    """

    function = staticmethod(global_local_info_nce)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `global_local_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over items, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        global_features: Tensor,
        local_features: Tensor,
        mask: Tensor | None = None,
        *,
        temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`global_local_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            global_features: g, (N, D), one vector per item; unit rows, or set normalize=True.
            local_features: p, (N, L, D), the item's tokens or patches; unit rows, or set normalize=True. For parts of a
                momentum encoder, pass local_features.detach().
            mask: (N, L) bool, True where there is a part. A missing part is no candidate, and its features may hold
                anything. An item without parts has loss 0 and does not count in "mean".
            weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return global_local_info_nce(
            global_features,
            local_features,
            mask,
            temperature=self.needed("temperature", temperature),
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class BlockInfoNCE(LossModule):
    """`block_info_nce` as a module that keeps its options.

    forward takes x, y, and by name weights. An option that you pass to forward holds for that call only.

    Give blocks to forward if the module has none.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, y = torch.randn(2, 16, 16)  # 8 pairs, then the same 8 reversed in time
        >>> criterion = BlockInfoNCE(learnable_temperature=True, blocks=2, same_pair_weight=2.0)
        >>> loss = criterion(x, y)
    """

    function = staticmethod(block_info_nce)

    def __init__(
        self,
        blocks: int | None = None,
        *,
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        same_pair_weight: float = 1.0,
        other_block_weight: float = 1.0,
        direction: Direction = "sum",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `block_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            blocks: The number of blocks. With a group every rank has as many, of its own pairs.
            same_pair_weight, other_block_weight: Numbers >= 0. 1 and 1 give info_nce of all N rows.
            direction: "sum" (the official codes) or "mean" of both directions; "rows": x -> y only; "cols": y -> x
                only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over rows, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.blocks = blocks
        self.same_pair_weight = same_pair_weight
        self.other_block_weight = other_block_weight
        self.temperature = None if learnable_temperature else temperature
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        blocks: int | Own = OWN,
        *,
        same_pair_weight: float | Own = OWN,
        other_block_weight: float | Own = OWN,
        temperature: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`block_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: (N, D): blocks of N / blocks rows, one after the other. Row i of every block is a version of pair i.
                The papers neither normalize nor use a temperature.
            weights: (N,) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return block_info_nce(
            x,
            y,
            blocks=self.required("blocks", blocks),
            same_pair_weight=self.same_pair_weight if same_pair_weight is OWN else same_pair_weight,
            other_block_weight=self.other_block_weight if other_block_weight is OWN else other_block_weight,
            temperature=self.needed("temperature", temperature),
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class M3ELLoss(LossModule):
    """`m3el_loss` as a module that keeps its options.

    forward takes x, y, and by name weights, present. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> x, y = torch.randn(2, 8, 16)  # mentions and entities
        >>> criterion = M3ELLoss(learnable_temperature=True, normalize=True)
        >>> loss = criterion(x, y)
    """

    function = staticmethod(m3el_loss)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        intra_scale: float = 0.8,
        inter_scale: float = 1.0,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `m3el_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            intra_scale, inter_scale: Factors of similarities within a side and across sides, floats or 0-dim tensors.
            direction: "mean" or "sum" of both directions; "rows": x only; "cols": y only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.intra_scale = intra_scale
        self.inter_scale = inter_scale
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        intra_scale: float | Tensor | Own = OWN,
        inter_scale: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`m3el_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: Pairs (mentions, entities), (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return m3el_loss(
            x,
            y,
            temperature=self.needed("temperature", temperature),
            intra_scale=self.intra_scale if intra_scale is OWN else intra_scale,
            inter_scale=self.inter_scale if inter_scale is OWN else inter_scale,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class LateInteractionInfoNCE(LossModule):
    """`late_interaction_info_nce` as a module that keeps its options.

    forward takes queries, documents, and by name query_mask, document_mask, document_offsets, modalities,
    hard_negatives, hard_negative_mask, hard_positives, hard_positive_mask, query_ids, document_ids, teacher_scores. An
    option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> queries, documents = torch.randn(4, 5, 16), torch.randn(8, 9, 16)
        >>> criterion = LateInteractionInfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(queries, documents)
    """

    function = staticmethod(late_interaction_info_nce)

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        num_modalities: int | None = None,
        teacher_loss: ScoreLoss = "kl",
        teacher_temperature: float = 1.0,
        teacher_weight: float = 1.0,
        label_smoothing: float = 0.0,
        direction: Direction = "rows",
        reduce: OverTokens = "sum",
        document_reduce: SegmentReduceName = "max",
        sharpness: float = 1.0,
        top_k: int | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `late_interaction_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            num_modalities: (M, U) integers, the modality of every document token (see modality_maxsim), and how many
                there are: s_ij is the score of the document's best modality. They replace document_mask.
            teacher_loss: D_i over the candidates of query i, with p_i the softmax of the teacher's scores: "kl", KL(p_i
                || softmax z_i); "ce", its cross-entropy; "mse", the mean of (z_ij - t_ij)².
            teacher_temperature: > 0, divides teacher_scores; a float or a 0-dim tensor.
            teacher_weight: The share of D_i, a float or a 0-dim tensor. With 1 the contrast is not in the loss, and
                label_smoothing is refused.
            label_smoothing: In [0, 1): spreads this share of the target over the candidates, as
                torch.nn.functional.cross_entropy does.
            direction: "rows": query -> documents. "cols": document i -> queries, where hard negatives do not count.
                "mean" or "sum" of both.
            reduce: "sum" or "mean" over query tokens.
            document_reduce: Over document tokens: "max", "lse", or "softmax_mean", as `segment_reduce` defines them.
            sharpness: Of "lse" and "softmax_mean": a number or a 0-dim tensor, which may be learned.
            top_k: XTR: scores are xtr_scores(queries, documents, top_k), over all documents. reduce, document_reduce,
                modalities, and documents of each query alone must then keep their defaults.
            normalize: Scale token embeddings to unit length first.
            reduction: "mean" or "sum" over queries, or "none": (N,).
            memory_budget: Bytes up to which scores of query tokens with documents (8 N T M) stay for the backward pass;
                default 64 MiB. Beyond it, blocks of documents are scored one after the other, and again in the backward
                pass; not even the N M scores are held. A graph (torch.compile, torch.export) holds all.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: documents come from all
                ranks, and travel. U must be equal on all ranks.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.num_modalities = num_modalities
        self.teacher_loss = teacher_loss
        self.teacher_temperature = teacher_temperature
        self.teacher_weight = teacher_weight
        self.label_smoothing = label_smoothing
        self.direction = direction
        self.reduce = reduce
        self.document_reduce = document_reduce
        self.sharpness = sharpness
        self.top_k = top_k
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        query_mask: Tensor | None = None,
        document_mask: Tensor | None = None,
        document_offsets: Tensor | None = None,
        modalities: Tensor | None = None,
        num_modalities: int | Own | None = OWN,
        hard_negatives: Tensor | None = None,
        hard_negative_mask: Tensor | None = None,
        hard_positives: Tensor | None = None,
        hard_positive_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        teacher_scores: Tensor | None = None,
        teacher_loss: ScoreLoss | Own = OWN,
        teacher_temperature: float | Tensor | Own = OWN,
        teacher_weight: float | Tensor | Own = OWN,
        label_smoothing: float | Own = OWN,
        direction: Direction | Own = OWN,
        reduce: OverTokens | Own = OWN,
        document_reduce: SegmentReduceName | Own = OWN,
        sharpness: float | Tensor | Own = OWN,
        top_k: int | Own | None = OWN,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`late_interaction_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            queries: (N, T, D), token embeddings, float32 | bfloat16 | float16 | float64; unit, or set normalize=True.
            documents: (M, U, D), M >= N: document i belongs to query i, those from N on are further negatives. Or (N,
                K, U, D): K documents of each query alone, of which the first is its own; there are no other candidates.
            query_mask: (N, T) bool, True = a token. Padding may hold anything. A query without tokens, or whose own
                document has none, has loss 0, does not count in the mean, and is no candidate.
            document_mask: (M, U) or (N, K, U) bool, True = a token. A document without tokens is no candidate.
            document_offsets: (M + 1,): documents are packed, (all tokens, D), without padding.
            modalities: (M, U) integers, the modality of every document token (see modality_maxsim), and how many there
                are: s_ij is the score of the document's best modality. They replace document_mask.
            hard_negatives: (N, K, U', D), documents of each query alone.
            hard_negative_mask: (N, K, U') bool, True = a token.
            hard_positives: (N, P, U', D): positives in place of document i, which is then no candidate of query i. L_i
                is the mean over them, each against the negatives only.
            hard_positive_mask: (N, P, U') bool, True = a token.
            query_ids, document_ids: Integers, (N,) and (M,): another document with the query's id is no candidate.
                document_ids default to query_ids where M = N.
            teacher_scores: Scores of a teacher, (N, candidates): those of documents (of all ranks), then of
                hard_negatives; no gradient. Then the loss is (1 - teacher_weight) L_i + teacher_weight D_i.
        """
        return late_interaction_info_nce(
            queries,
            documents,
            temperature=self.needed("temperature", temperature),
            query_mask=query_mask,
            document_mask=document_mask,
            document_offsets=document_offsets,
            modalities=modalities,
            num_modalities=self.num_modalities if num_modalities is OWN else num_modalities,
            hard_negatives=hard_negatives,
            hard_negative_mask=hard_negative_mask,
            hard_positives=hard_positives,
            hard_positive_mask=hard_positive_mask,
            query_ids=query_ids,
            document_ids=document_ids,
            teacher_scores=teacher_scores,
            teacher_loss=self.teacher_loss if teacher_loss is OWN else teacher_loss,
            teacher_temperature=self.teacher_temperature if teacher_temperature is OWN else teacher_temperature,
            teacher_weight=self.teacher_weight if teacher_weight is OWN else teacher_weight,
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            direction=self.direction if direction is OWN else direction,
            reduce=self.reduce if reduce is OWN else reduce,
            document_reduce=self.document_reduce if document_reduce is OWN else document_reduce,
            sharpness=self.sharpness if sharpness is OWN else sharpness,
            top_k=self.top_k if top_k is OWN else top_k,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class WordRegionLoss(LossModule):
    """`word_region_loss` as a module that keeps its options.

    forward takes regions, words, and by name region_mask, word_mask, class_ids. An option that you pass to forward
    holds for that call only.

    Example:
        >>> regions, words = torch.randn(4, 49, 16), torch.randn(4, 7, 16)
        >>> criterion = WordRegionLoss()
        >>> loss = criterion(regions, words, class_ids=torch.tensor([0, 1, 1, 2]))
    """

    function = staticmethod(word_region_loss)

    def __init__(
        self,
        gamma1: float = 4.0,
        gamma2: float = 5.0,
        gamma3: float = 10.0,
        *,
        over_words: bool = True,
        reduce: OverWords = "sum",
        direction: Direction = "sum",
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        group: Group = None,
    ) -> None:
        """The options of `word_region_loss`.

        Args:
            gamma1: Sharpness of the attention over regions; a float or a 0-dim tensor.
            gamma2: Sharpness of the log-sum-exp over words; a float or a 0-dim tensor.
            gamma3: Multiplies the scores: 10 is a temperature of 0.1. A float or a 0-dim tensor.
            over_words: True: a softmax over the words of the text comes before the one over regions, as in both
                official codes. The formulas of the papers differ: GLoRIA's has none.
            reduce: "sum" over words, or "mean": GLoRIA's aggregation of that name.
            direction: "sum" (both official codes) or "mean" of both directions; "rows": image -> texts; "cols": text ->
                images.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes up to which scores of words with regions stay for the backward pass; default 64 MiB.
                Beyond it, 64 MiB are made at a time (one text's, if they are more), and again in the backward pass;
                neither the N N R T scores nor the N N T D contexts are held. A graph (torch.compile, torch.export)
                holds them.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks; words travel. T must be equal on all ranks.
        """
        super().__init__()
        self.gamma1 = gamma1
        self.gamma2 = gamma2
        self.gamma3 = gamma3
        self.over_words = over_words
        self.reduce = reduce
        self.direction = direction
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.group = group

    def forward(
        self,
        regions: Tensor,
        words: Tensor,
        *,
        region_mask: Tensor | None = None,
        word_mask: Tensor | None = None,
        class_ids: Tensor | None = None,
        gamma1: float | Tensor | Own = OWN,
        gamma2: float | Tensor | Own = OWN,
        gamma3: float | Tensor | Own = OWN,
        over_words: bool | Own = OWN,
        reduce: OverWords | Own = OWN,
        direction: Direction | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`word_region_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            regions: (N, R, D), features of image regions, of any norm whose square is finite.
            words: (N, T, D); those of text i belong to image i.
            region_mask: (N, R) bool, True = there. A missing region takes no part, may hold anything, and gets no
                gradient. A pair with an empty side has loss 0, does not count in the mean, and is no candidate.
            word_mask: (N, T) bool, likewise.
            class_ids: Integers, (N,), the class of each pair: another pair of the same class is no candidate.
        """
        return word_region_loss(
            regions,
            words,
            region_mask=region_mask,
            word_mask=word_mask,
            class_ids=class_ids,
            gamma1=self.gamma1 if gamma1 is OWN else gamma1,
            gamma2=self.gamma2 if gamma2 is OWN else gamma2,
            gamma3=self.gamma3 if gamma3 is OWN else gamma3,
            over_words=self.over_words if over_words is OWN else over_words,
            reduce=self.reduce if reduce is OWN else reduce,
            direction=self.direction if direction is OWN else direction,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class FDTLoss(LossModule):
    """`fdt_loss` as a module that keeps its options.

    forward takes image_tokens, text_tokens, codebook, and by name image_mask, text_mask. An option that you pass to
    forward holds for that call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image_tokens, text_tokens = torch.randn(4, 9, 16), torch.randn(4, 5, 16)
        >>> codebook = torch.nn.Parameter(torch.randn(64, 16))
        >>> criterion = FDTLoss(learnable_scale=True)
        >>> loss = criterion(image_tokens, text_tokens, codebook)
    """

    function = staticmethod(fdt_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        temperature: float = 1.0,
        pool: OverItem = "max",
        padding: Padding = "drop",
        direction: Direction = "mean",
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `fdt_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            temperature: > 0, a float or a 0-dim tensor. A high temperature mixes all vectors alike. The official code
                starts it at 1000.
            pool: "max", "mean", or "sum" over tokens.
            padding: "drop", or "zero": a padded token scores 0, as in the official code.
            direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.temperature = temperature
        self.pool = pool
        self.padding = padding
        self.direction = direction
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        image_tokens: Tensor,
        text_tokens: Tensor,
        codebook: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        temperature: float | Tensor | Own = OWN,
        pool: OverItem | Own = OWN,
        padding: Padding | Own = OWN,
        direction: Direction | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`fdt_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_tokens: (N, R, D), patches, after their own projection to the codebook's width.
            text_tokens: (N, T, D), words, likewise.
            codebook: (K, D), a parameter that both share, of vectors of any length; the same on every rank.
            image_mask: (N, R) bool, True = a token. A pair with an empty side takes no part.
            text_mask: (N, T) bool, likewise.
        """
        return fdt_loss(
            image_tokens,
            text_tokens,
            codebook,
            logit_scale=self.needed("logit_scale", logit_scale),
            image_mask=image_mask,
            text_mask=text_mask,
            temperature=self.temperature if temperature is OWN else temperature,
            pool=self.pool if pool is OWN else pool,
            padding=self.padding if padding is OWN else padding,
            direction=self.direction if direction is OWN else direction,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class GroupedInfoNCE(LossModule):
    """`grouped_info_nce` as a module that keeps its options.

    forward takes query, positive, hard_negatives, and by name weights, present. An option that you pass to forward
    holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> query, positive = torch.randn(2, 8, 16)
        >>> hard_negatives = torch.randn(8, 10, 16)
        >>> criterion = GroupedInfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(query, positive, hard_negatives)
    """

    function = staticmethod(grouped_info_nce)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        group: Group = None,
    ) -> None:
        """The options of `grouped_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over queries, or "none": (N,).
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean is over the queries
                of all ranks; nothing else connects them.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.normalize = normalize
        self.reduction = reduction
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        hard_negatives: Tensor | Candidates,
        *,
        temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`grouped_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, positive: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            hard_negatives: c, (N, K, D), or Candidates: lists of any length, rows of a bank by index, a bias.
            weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return grouped_info_nce(
            query,
            positive,
            hard_negatives,
            temperature=self.needed("temperature", temperature),
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class GroupedMarginLoss(LossModule):
    """`grouped_margin_loss` as a module that keeps its options.

    forward takes query, positive, hard_negatives, and by name weights, present. An option that you pass to forward
    holds for that call only.

    Give margin to forward if the module has none.

    Example:
        >>> query, positive = torch.randn(2, 8, 16)
        >>> hard_negatives = torch.randn(8, 10, 16)
        >>> criterion = GroupedMarginLoss(margin=0.2, normalize=True)
        >>> loss = criterion(query, positive, hard_negatives)
    """

    function = staticmethod(grouped_margin_loss)

    def __init__(
        self,
        margin: float | None = None,
        temperature: float = 1.0,
        *,
        normalize: bool = False,
        reduction: Reduction = "mean",
        group: Group = None,
    ) -> None:
        """The options of `grouped_margin_loss`.

        Args:
            margin: A number in units of z, so of the similarity at temperature 1. FG-CLIP 2 sets it to the average lead
                of the positives in the previous step, from 0 to 10.
            temperature: > 0: a float, a 0-dim tensor, or (N,). Divides the similarity.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over queries, or "none": (N,).
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean is over the queries
                of all ranks; nothing else connects them.
        """
        super().__init__()
        self.margin = margin
        self.temperature = temperature
        self.normalize = normalize
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        hard_negatives: Tensor | Candidates,
        *,
        margin: float | Own = OWN,
        temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`grouped_margin_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, positive: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            hard_negatives: c, (N, K, D), or Candidates: lists of any length, rows of a bank by index, a bias. The mean
                is over the candidates that exist.
            weights: (N,) >= 0, no gradient. The weight of each query: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return grouped_margin_loss(
            query,
            positive,
            hard_negatives,
            margin=self.required("margin", margin),
            temperature=self.temperature if temperature is OWN else temperature,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class NTXent(LossModule):
    """`nt_xent` as a module that keeps its options.

    forward takes z1, z2, and by name weights, present. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = NTXent(learnable_temperature=True, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(nt_xent)

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        direction: Direction = "mean",
        detach_keys: bool = False,
        matryoshka: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `nt_xent`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
                reduction="mean" adds the mean over z1 and the mean over z2 (twice "mean"). "rows": z1 only. "cols": z2
                only.
            detach_keys: Candidates, including the positive, get no gradient. Costs 16 N^2 D FLOP.
            matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over
                all prefixes. normalize=True makes every prefix a unit row.
            matryoshka_weights: A number per prefix; default 1 each.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.direction = direction
        self.detach_keys = detach_keys
        self.matryoshka = matryoshka
        self.matryoshka_weights = matryoshka_weights
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        matryoshka: Sequence[int] | Own | None = OWN,
        matryoshka_weights: Sequence[float] | Own | None = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`nt_xent` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (N,) bool. A instance with a missing view (False) takes no part and is no candidate; its features
                may hold anything and get gradient 0. "mean" covers the others.
        """
        return nt_xent(
            z1,
            z2,
            temperature=self.needed("temperature", temperature),
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            matryoshka=self.matryoshka if matryoshka is OWN else matryoshka,
            matryoshka_weights=self.matryoshka_weights if matryoshka_weights is OWN else matryoshka_weights,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class SigLipLoss(LossModule):
    """`siglip_loss` as a module that keeps its options.

    forward takes image_features, text_features, and by name image_labels, text_labels, image_ids, text_ids, weights,
    present. An option that you pass to forward holds for that call only.

    With learnable=True, logit_scale is the exponential of the parameter log_logit_scale and logit_bias is a parameter;
    do not pass them to forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> criterion = SigLipLoss(learnable=True, normalize=True)
        >>> loss = criterion(image_features, text_features)
    """

    function = staticmethod(siglip_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        *,
        learnable: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `siglip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 10.0).
            logit_bias: Fixed, or where learning starts (None: -10.0).
            learnable: True: learn log_logit_scale and logit_bias.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" divides the sum over all pairs by N (by the sum of the weights, or by the number of items
                that are present), "sum" does not divide, "none": (N,), the sum per image.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable else logit_scale
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable=learnable)
        if learnable:
            self.learn("logit_scale", 10.0 if logit_scale is None else logit_scale)
            self.learn_offset("logit_bias", -10.0 if logit_bias is None else logit_bias)
        else:
            self.logit_bias: float | Tensor | None = logit_bias

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        logit_bias: float | Tensor | Own | None = OWN,
        *,
        image_labels: Tensor | None = None,
        text_labels: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`siglip_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            image_labels, text_labels: (N,) integers. Pairs with equal labels match, and no others do. text_labels
                default to image_labels.
            image_ids, text_ids: (N,) integers. A pair with equal ids is not a negative: it matches if its index is
                equal, and is left out of the sum otherwise. text_ids default to image_ids. Not with labels.
            weights: (N,) >= 0, no gradient. The weight of each image's sum over its pairs; "mean" divides by sum w.
            present: (N,) bool. An item with a missing side (False) is left out with all its pairs; its features may
                hold anything and get gradient 0.
        """
        return siglip_loss(
            image_features,
            text_features,
            logit_scale=self.needed("logit_scale", logit_scale),
            logit_bias=self.factor("logit_bias", logit_bias),
            image_labels=image_labels,
            text_labels=text_labels,
            image_ids=image_ids,
            text_ids=text_ids,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DebiasedInfoNCE(LossModule):
    """`debiased_info_nce` as a module that keeps its options.

    forward takes query, key, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> criterion = DebiasedInfoNCE(tau_plus=0.1, normalize=True)
        >>> loss = criterion(query, key)
    """

    function = staticmethod(debiased_info_nce)

    def __init__(
        self,
        temperature: float = 0.5,
        tau_plus: float = 0.1,
        *,
        hardness: float = 0.0,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `debiased_info_nce`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            tau_plus: Probability that a negative shares the query's class, in [0, 1). 0 gives InfoNCE, except for the
                floor.
            hardness: beta >= 0, a number. Gradients flow through the weights, as in the official code.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over rows, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.hardness = hardness
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        tau_plus: float | Own = OWN,
        hardness: float | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`debiased_info_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, key: Pairs, (N, D), unit rows (the floor e^{-1/temperature} assumes them), or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is not a candidate; K counts the
                pairs that are present.
        """
        return debiased_info_nce(
            query,
            key,
            temperature=self.temperature if temperature is OWN else temperature,
            tau_plus=self.tau_plus if tau_plus is OWN else tau_plus,
            hardness=self.hardness if hardness is OWN else hardness,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DebiasedNTXent(LossModule):
    """`debiased_nt_xent` as a module that keeps its options.

    forward takes z1, z2, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = DebiasedNTXent(tau_plus=0.1, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(debiased_nt_xent)

    def __init__(
        self,
        temperature: float = 0.5,
        tau_plus: float = 0.1,
        *,
        hardness: float = 0.0,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `debiased_nt_xent`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            tau_plus: Probability that a negative shares the row's class, in [0, 1). 0 gives NT-Xent, except for the
                floor.
            hardness: beta >= 0, a number. Gradients flow through the weights, as in the official code.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.hardness = hardness
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        tau_plus: float | Own = OWN,
        hardness: float | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`debiased_nt_xent` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (N,) bool. An instance with a missing view (False) takes no part and is not a candidate; K counts
                the instances that are present.
        """
        return debiased_nt_xent(
            z1,
            z2,
            temperature=self.temperature if temperature is OWN else temperature,
            tau_plus=self.tau_plus if tau_plus is OWN else tau_plus,
            hardness=self.hardness if hardness is OWN else hardness,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class SupCon(LossModule):
    """`sup_con` as a module that keeps its options.

    forward takes features, labels, and by name keys, key_labels, anchor_mask, weights, present. An option that you pass
    to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> features, labels = torch.randn(8, 16), torch.arange(8) // 2
        >>> criterion = SupCon(learnable_temperature=True, normalize=True)
        >>> loss = criterion(features, labels)
    """

    function = staticmethod(sup_con)

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        keys_as: KeysAs = "candidates",
        form: PositiveForm = "out",
        per_pair: bool = False,
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `sup_con`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            keys_as: "candidates": keys are positives and negatives like other rows. "positives": P(i) is the keys with
                i's label and nothing else; no key enters the sum over j, which has all other rows. "positives" needs
                form="out"; it is not a softmax, so L_i can be negative, and a row alone has no loss.
            form: "out" (the paper's): the mean over positives is outside the logarithm. "in": it is inside, so one
                positive is enough. "each": every positive competes with the negatives only.
            per_pair: True: a row counts once per positive, so that the mean of "out" and "each" is the mean over all
                positive pairs.
            detach_keys: Candidates, including positives, get no gradient. Costs 4 (k N)^2 D FLOP as well.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" over the rows that have a positive (0 if none has one), "sum", or "none": (N,) or (k, N).
                A row without a positive has value 0 and no gradient.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.keys_as = keys_as
        self.form = form
        self.per_pair = per_pair
        self.temperature = None if learnable_temperature else temperature
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        features: Views,
        labels: Tensor,
        *,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
        keys_as: KeysAs | Own = OWN,
        anchor_mask: Tensor | None = None,
        form: PositiveForm | Own = OWN,
        per_pair: bool | Own = OWN,
        temperature: float | Tensor | Own = OWN,
        detach_keys: bool | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`sup_con` of these inputs. An option holds for this call only; see the constructor.

        Args:
            features: (N, D), or k views of the same N samples: (k, N, D) or a list of k tensors (N, D). Each view is a
                row with its sample's label. Unit rows, or set normalize=True. The official code takes (N, V, D):
                features.unbind(1) makes a list of views.
            labels: (N,) integers; or label sets, (N, L) bool, where sets that overlap are positives.
            keys, key_labels: Further rows j that are not anchors, (M, D), with labels (M,) or (M, L): from a momentum
                encoder, a queue, or an older model. Keys without gradient cost none. Across ranks they behave like
                `negatives` of info_nce.
            anchor_mask: (N,) bool, the samples that have a loss. All samples stay candidates, and positives of the
                others.
            weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w.
            present: (N,) bool. A sample with False is neither a row nor a candidate; its features may hold anything and
                get gradient 0.
        """
        return sup_con(
            features,
            labels,
            keys=keys,
            key_labels=key_labels,
            keys_as=self.keys_as if keys_as is OWN else keys_as,
            anchor_mask=anchor_mask,
            form=self.form if form is OWN else form,
            per_pair=self.per_pair if per_pair is OWN else per_pair,
            temperature=self.needed("temperature", temperature),
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MultiPositive(LossModule):
    """`multi_positive` as a module that keeps its options.

    forward takes query, key, query_ids, key_ids, and by name query_labels, key_labels, query_groups, key_groups,
    negatives, negative_ids, negative_labels, negative_groups, weights, key_weights. An option that you pass to forward
    holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> query, key = torch.randn(4, 16), torch.randn(12, 16)  # three captions of each image
        >>> query_ids = torch.arange(4)
        >>> key_ids = query_ids.repeat_interleave(3)
        >>> criterion = MultiPositive(learnable_temperature=True, normalize=True)
        >>> loss = criterion(query, key, query_ids, key_ids)
    """

    function = staticmethod(multi_positive)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        form: PositiveForm = "out",
        per_pair: bool = False,
        direction: Direction = "mean",
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `multi_positive`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            form: "out" | "in" | "each".
            per_pair: True: an anchor counts once per positive, so that the mean of "out" and "each" is the mean over
                all positive pairs.
            direction: "mean" or "sum" of the two means (or sums) over queries and over keys; "rows": queries -> keys
                only; "cols": keys -> queries only.
            detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" over the anchors that have a positive (0 if none has one), "sum", or "none": (N,) of
                queries, (M,) of keys, or with both directions (N + M,), queries first. An anchor without a positive has
                value 0 and no gradient.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, and every rank must make the call. A rank may have different numbers of queries and keys.
        """
        super().__init__()
        self.form = form
        self.per_pair = per_pair
        self.temperature = None if learnable_temperature else temperature
        self.direction = direction
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        *,
        query_labels: Tensor | None = None,
        key_labels: Tensor | None = None,
        query_groups: Tensor | None = None,
        key_groups: Tensor | None = None,
        negatives: Tensor | None = None,
        negative_ids: Tensor | None = None,
        negative_labels: Tensor | None = None,
        negative_groups: Tensor | None = None,
        form: PositiveForm | Own = OWN,
        per_pair: bool | Own = OWN,
        temperature: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        weights: Tensor | None = None,
        key_weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`multi_positive` of these inputs. An option holds for this call only; see the constructor.

        Args:
            query, key: (N, D), (M, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            query_ids, key_ids: Integers, (N,), (M,): equal ids are positives. key_ids default to query_ids where M = N.
            query_labels, key_labels: Label sets, (N, L), (M, L) bool: sets that overlap are positives. If you give ids
                as well, ids name pairs to leave out: a pair with equal ids that shares no label is not a negative.
            query_groups, key_groups: Integers, (N,), (M,): only keys in the query's group are negatives. Positives may
                be in any group.
            negatives: Further keys of the queries that are not anchors, (K, D), such as a queue. Without gradient they
                cost none.
            negative_ids, negative_labels, negative_groups: Ids, label sets, and groups of negatives, (K,), (K, L),
                (K,). Those that match a query are its positives too. Without ids or labels they are positives of no
                query. Groups are required with query_groups.
            weights, key_weights: (N,), (M,) >= 0, no gradient. The weight of each query and of each key as an anchor:
                "mean" divides by their sum.
        """
        return multi_positive(
            query,
            key,
            query_ids,
            key_ids,
            query_labels=query_labels,
            key_labels=key_labels,
            query_groups=query_groups,
            key_groups=key_groups,
            negatives=negatives,
            negative_ids=negative_ids,
            negative_labels=negative_labels,
            negative_groups=negative_groups,
            form=self.form if form is OWN else form,
            per_pair=self.per_pair if per_pair is OWN else per_pair,
            temperature=self.needed("temperature", temperature),
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            weights=weights,
            key_weights=key_weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MILNCE(LossModule):
    """`mil_nce` as a module that keeps its options.

    forward takes video, text, and by name mask, weights. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> video, text = torch.randn(4, 16), torch.randn(4, 3, 16)
        >>> criterion = MILNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(video, text)
    """

    function = staticmethod(mil_nce)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        joint: bool = True,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `mil_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            joint: True: one softmax over both directions, as both official codes have it. False: one softmax per
                direction.
            direction: With joint=False, "mean" or "sum" of both; "rows": video -> texts only; "cols": texts -> video
                only.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over videos, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, and every rank must make the call. All ranks must have bags of the same size.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.joint = joint
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        mask: Tensor | None = None,
        joint: bool | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`mil_nce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            video: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            text: (N, K, D), the texts of each video.
            mask: (N, K) bool, True where there is a text. A missing text is no candidate, and its features may hold
                anything. A video without texts has loss 0 and does not count in the mean, but it stays a candidate for
                the others' texts.
            weights: (N,) >= 0, no gradient. The weight of each video: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return mil_nce(
            video,
            text,
            temperature=self.needed("temperature", temperature),
            mask=mask,
            joint=self.joint if joint is OWN else joint,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DCL(LossModule):
    """`dcl` as a module that keeps its options.

    forward takes z1, z2, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = DCL(temperature=0.1, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(dcl)

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        direction: Direction = "mean",
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `dcl`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
                reduction="mean" adds the mean over z1 and the mean over z2 (the paper's sum). "rows": z1 only. "cols":
                z2 only.
            detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.direction = direction
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`dcl` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (N,) bool. A instance with a missing view (False) takes no part and is no candidate; its features
                may hold anything and get gradient 0. "mean" covers the others.
        """
        return dcl(
            z1,
            z2,
            temperature=self.temperature if temperature is OWN else temperature,
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DCLW(LossModule):
    """`dclw` as a module that keeps its options.

    forward takes z1, z2, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = DCLW(temperature=0.1, sigma=0.5, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(dclw)

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        *,
        direction: Direction = "mean",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `dclw`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            sigma: > 0, a number: the temperature of the softmax in w.
            direction: Whose views are anchors; the candidates stay the same. "mean": all 2N. "sum": all, where
                reduction="mean" adds the mean over z1 and the mean over z2. "rows": z1 only. "cols": z2 only. It does
                not change w.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the 2N rows, or "none": (2N,), z1's rows first; (N,) with one direction.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.sigma = sigma
        self.direction = direction
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        sigma: float | Own = OWN,
        direction: Direction | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`dclw` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Two views of the same N instances, (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w. It does not change
                w.
            present: (N,) bool. An instance with a missing view (False) takes no part and is not a candidate; N and the
                softmax of w cover the instances that are present.
        """
        return dclw(
            z1,
            z2,
            temperature=self.temperature if temperature is OWN else temperature,
            sigma=self.sigma if sigma is OWN else sigma,
            direction=self.direction if direction is OWN else direction,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DHEL(LossModule):
    """`dhel` as a module that keeps its options.

    forward takes z1, z2, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = DHEL(temperature=0.3, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(dhel)

    def __init__(
        self,
        temperature: float = 0.3,
        *,
        include_augs: bool = True,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `dhel`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            include_augs: False drops the second sum, so that the positives do not repel each other.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the N pairs, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.include_augs = include_augs
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        include_augs: bool | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`dhel` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Anchors and their positives (augmentations), (N, D), unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return dhel(
            z1,
            z2,
            temperature=self.temperature if temperature is OWN else temperature,
            include_augs=self.include_augs if include_augs is OWN else include_augs,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MVInfoNCE(LossModule):
    """`mv_infonce` as a module that keeps its options.

    forward takes views, and by name weights, present. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> criterion = MVInfoNCE(learnable_temperature=True, normalize=True)
        >>> loss = criterion(views)
    """

    function = staticmethod(mv_infonce)

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        negatives: Denominator = "all",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `mv_infonce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            negatives: "all": m runs over all views, as in the official code. "cross_view": m != l, as in the formula of
                the paper and of the code's README.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.negatives = negatives
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        views: Views,
        *,
        temperature: float | Tensor | Own = OWN,
        negatives: Denominator | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`mv_infonce` of these inputs. An option holds for this call only; see the constructor.

        Args:
            views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
                normalize=True. Types of a list promote as in torch.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (k, N) bool, the views each instance has: all sums cover these. Instances with fewer than two views
                take no part. Missing features may hold anything and get gradient 0.
        """
        return mv_infonce(
            views,
            temperature=self.needed("temperature", temperature),
            negatives=self.negatives if negatives is OWN else negatives,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MVDHEL(LossModule):
    """`mv_dhel` as a module that keeps its options.

    forward takes views, and by name weights, present. An option that you pass to forward holds for that call only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> criterion = MVDHEL(learnable_temperature=True, normalize=True)
        >>> loss = criterion(views)
    """

    function = staticmethod(mv_dhel)

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `mv_dhel`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        views: Views,
        *,
        temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`mv_dhel` of these inputs. An option holds for this call only; see the constructor.

        Args:
            views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
                normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (k, N) bool, the views each instance has. Instances with fewer than two views take no part. A view
                that no other instance has adds nothing to the first sum. Missing features may hold anything and get
                gradient 0.
        """
        return mv_dhel(
            views,
            temperature=self.needed("temperature", temperature),
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class PVC(LossModule):
    """`pvc` as a module that keeps its options.

    forward takes views, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> views = torch.randn(3, 8, 16)
        >>> criterion = PVC(temperature=0.2, normalize=True)
        >>> loss = criterion(views)
    """

    function = staticmethod(pvc)

    def __init__(
        self,
        temperature: float = 0.2,
        *,
        aggregation: Aggregation = "geometric",
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `pvc`.

        Args:
            temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
            aggregation: "geometric" | "arithmetic": where the mean over the other views is taken.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the instances that take part, or "none": (N,), 0 for the others.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = temperature
        self.aggregation = aggregation
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        views: Views,
        *,
        temperature: float | Tensor | Own = OWN,
        aggregation: Aggregation | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`pvc` of these inputs. An option holds for this call only; see the constructor.

        Args:
            views: k >= 2 views of the same N instances, (k, N, D) or a list of k tensors (N, D); unit rows, or set
                normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each instance: "mean" is sum w L / sum w (0 where sum w is
                0).
            present: (k, N) bool, the views each instance has; the means over l and m cover these. Instances with fewer
                than two views take no part. Missing features may hold anything and get gradient 0.
        """
        return pvc(
            views,
            temperature=self.temperature if temperature is OWN else temperature,
            aggregation=self.aggregation if aggregation is OWN else aggregation,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class KCL(LossModule):
    """`kcl` as a module that keeps its options.

    forward takes z1, z2, and by name present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> criterion = KCL(kernel="gaussian", t=2.0, normalize=True)
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(kcl)

    def __init__(
        self,
        kernel: KernelName = "gaussian",
        *,
        t: float = 2.0,
        s: float = 2.0,
        gamma: float = 16.0,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `kcl`.

        Args:
            kernel: One of the five names above.
            t: > 0, a float or a 0-dim tensor: an inverse squared length ("imq": a length, c in the official code).
            s: Not 0, no gradient: the exponent of "riesz" and of the energy of "gaussian_riesz".
            gamma: Weight of the energies, a float or a 0-dim tensor.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.kernel = kernel
        self.t = t
        self.s = s
        self.gamma = gamma
        self.normalize = normalize
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        kernel: KernelName | Own = OWN,
        t: float | Tensor | Own = OWN,
        s: float | Own = OWN,
        gamma: float | Tensor | Own = OWN,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`kcl` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Anchors and their positives, (N, D); unit rows in the paper, or set normalize=True.
            present: (N,) bool: all means cover the pairs that are present. The features of others may hold anything and
                get gradient 0.
        """
        return kcl(
            z1,
            z2,
            kernel=self.kernel if kernel is OWN else kernel,
            t=self.t if t is OWN else t,
            s=self.s if s is OWN else s,
            gamma=self.gamma if gamma is OWN else gamma,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CUA(LossModule):
    """`cua` as a module that keeps its options.

    forward takes image_features, text_features, and by name present. An option that you pass to forward holds for that
    call only.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> criterion = CUA(normalize=True)
        >>> loss = criterion(image_features, text_features)
    """

    function = staticmethod(cua)

    def __init__(
        self,
        logit_scale: float = 100.0,
        *,
        t: float = 2.0,
        clip_weight: float = 1.0,
        uniformity_weight: float = 1.0,
        alignment_weight: float = 1.0,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `cua`.

        Args:
            logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor. The paper keeps
                it at 100.
            t: > 0, an inverse squared length.
            clip_weight, uniformity_weight, alignment_weight: Floats or 0-dim tensors. A term with weight 0.0 is not
                computed.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = logit_scale
        self.t = t
        self.clip_weight = clip_weight
        self.uniformity_weight = uniformity_weight
        self.alignment_weight = alignment_weight
        self.normalize = normalize
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        t: float | Own = OWN,
        clip_weight: float | Tensor | Own = OWN,
        uniformity_weight: float | Tensor | Own = OWN,
        alignment_weight: float | Tensor | Own = OWN,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cua` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            present: (N,) bool. Pairs with a missing side (False) have no part in any term; their features may hold
                anything and get gradient 0.
        """
        return cua(
            image_features,
            text_features,
            logit_scale=self.logit_scale if logit_scale is OWN else logit_scale,
            t=self.t if t is OWN else t,
            clip_weight=self.clip_weight if clip_weight is OWN else clip_weight,
            uniformity_weight=self.uniformity_weight if uniformity_weight is OWN else uniformity_weight,
            alignment_weight=self.alignment_weight if alignment_weight is OWN else alignment_weight,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CUAXU(LossModule):
    """`cuaxu` as a module that keeps its options.

    forward takes image_features, text_features, and by name present. An option that you pass to forward holds for that
    call only.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> criterion = CUAXU(normalize=True)
        >>> loss = criterion(image_features, text_features)
    """

    function = staticmethod(cuaxu)

    def __init__(
        self,
        logit_scale: float = 100.0,
        *,
        t: float = 2.0,
        clip_weight: float = 1.0,
        uniformity_weight: float = 1.0,
        alignment_weight: float = 1.0,
        cross_uniformity_weight: float = 1.0,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `cuaxu`.

        Args:
            logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor. The paper keeps
                it at 100.
            t: > 0, an inverse squared length.
            clip_weight, uniformity_weight, alignment_weight, cross_uniformity_weight: Floats or 0-dim tensors. A term
                with weight 0.0 is not computed.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = logit_scale
        self.t = t
        self.clip_weight = clip_weight
        self.uniformity_weight = uniformity_weight
        self.alignment_weight = alignment_weight
        self.cross_uniformity_weight = cross_uniformity_weight
        self.normalize = normalize
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        *,
        t: float | Own = OWN,
        clip_weight: float | Tensor | Own = OWN,
        uniformity_weight: float | Tensor | Own = OWN,
        alignment_weight: float | Tensor | Own = OWN,
        cross_uniformity_weight: float | Tensor | Own = OWN,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cuaxu` of these inputs. An option holds for this call only; see the constructor.

        Args:
            image_features, text_features: (N, D), unit rows, or set normalize=True.
            present: (N,) bool. Pairs with a missing side (False) have no part in any term; their features may hold
                anything and get gradient 0.
        """
        return cuaxu(
            image_features,
            text_features,
            logit_scale=self.logit_scale if logit_scale is OWN else logit_scale,
            t=self.t if t is OWN else t,
            clip_weight=self.clip_weight if clip_weight is OWN else clip_weight,
            uniformity_weight=self.uniformity_weight if uniformity_weight is OWN else uniformity_weight,
            alignment_weight=self.alignment_weight if alignment_weight is OWN else alignment_weight,
            cross_uniformity_weight=self.cross_uniformity_weight
            if cross_uniformity_weight is OWN
            else cross_uniformity_weight,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class Uniformity(LossModule):
    """`uniformity` as a module that keeps its options.

    forward takes x, y, and by name present. An option that you pass to forward holds for that call only.

    Example:
        >>> x = torch.randn(8, 16)
        >>> criterion = Uniformity(normalize=True)
        >>> loss = criterion(x)
    """

    function = staticmethod(uniformity)

    def __init__(
        self,
        t: float = 2.0,
        *,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `uniformity`.

        Args:
            t: > 0, an inverse squared length; a float or a 0-dim tensor.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.t = t
        self.normalize = normalize
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        t: float | Tensor | Own = OWN,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`uniformity` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: (N, D). They are normalized only with normalize=True and need not be unit. An exponent -t |x - y|^2
                comes from a dot product and norms, with an error up to t (|x|^2 + |y|^2) 2^-22 (float64: 2^-51).
            present: (N,) bool: the mean covers pairs of items that are present (with y, items with both x and y). The
                features of others may hold anything and get gradient 0.
        """
        return uniformity(
            x,
            y,
            t=self.t if t is OWN else t,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class Alignment(LossModule):
    """`alignment` as a module that keeps its options.

    forward takes x, y, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> criterion = Alignment(normalize=True)
        >>> loss = criterion(x, y)
    """

    function = staticmethod(alignment)

    def __init__(
        self, alpha: float = 2.0, *, normalize: bool = False, reduction: Reduction = "mean", group: Group = None
    ) -> None:
        """The options of `alignment`.

        Args:
            alpha: >= 1: below 1 the gradient at distance 0 would be infinite. From 1 on it is 0 there.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over pairs, or "none": (N,).
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the pairs of
                all ranks. Only matched rows are compared, so there is no backend and no memory_budget to choose.
        """
        super().__init__()
        self.alpha = alpha
        self.normalize = normalize
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        alpha: float | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`alignment` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: (N, D), pairs. They are normalized only with normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return alignment(
            x,
            y,
            alpha=self.alpha if alpha is OWN else alpha,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class JointEntropy(LossModule):
    """`joint_entropy` as a module that keeps its options.

    forward takes x, and by name weights, present. An option that you pass to forward holds for that call only.

    Example:
        >>> common, salient = torch.randn(2, 8, 16)
        >>> x = torch.cat([common, salient], dim=1)
        >>> criterion = JointEntropy()
        >>> loss = criterion(x)
    """

    function = staticmethod(joint_entropy)

    def __init__(
        self,
        t: float = 1.0,
        *,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `joint_entropy`.

        Args:
            t: > 0, an inverse squared length; a float or a 0-dim tensor. SepCLR's tau is 1 / (2 t).
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over points, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.t = t
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        x: Tensor,
        *,
        t: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`joint_entropy` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x: (N, D). It is normalized only with normalize=True. Exponents round like those of `uniformity`; a pair of
                a point with itself is exact.
            weights: (N,) >= 0, no gradient. The weight of each point: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool: N and the sum cover the points that are present. The features of others may hold
                anything and get gradient 0.
        """
        return joint_entropy(
            x,
            t=self.t if t is OWN else t,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class BarlowTwinsLoss(LossModule):
    """`barlow_twins_loss` as a module that keeps its options.

    forward takes z1, z2, and by name present. An option that you pass to forward holds for that call only.

    Example:
        >>> z1, z2 = torch.randn(2, 32, 16)
        >>> criterion = BarlowTwinsLoss()
        >>> loss = criterion(z1, z2)
    """

    function = staticmethod(barlow_twins_loss)

    def __init__(self, off_diagonal_weight: float = 0.005, *, standardize: bool = True, group: Group = None) -> None:
        """The options of `barlow_twins_loss`.

        Args:
            off_diagonal_weight: A float or a 0-dim tensor.
            standardize: False uses u = z1 and v = z2, for features that a batch normalization has standardized
                (BarLIP).
            group: None: this process only. "world", a process group, or distributed.Ranks: batch statistics and C cover
                all ranks. D x D numbers travel, or, where the global batch has at most D / 2 instances, the features.
        """
        super().__init__()
        self.off_diagonal_weight = off_diagonal_weight
        self.standardize = standardize
        self.group = group

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        *,
        off_diagonal_weight: float | Tensor | Own = OWN,
        standardize: bool | Own = OWN,
        present: Tensor | None = None,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`barlow_twins_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            z1, z2: Two views of the same N instances, (N, D); rows need not be unit.
            present: (N,) bool: all means cover the instances that are present. The features of others may hold anything
                and get gradient 0.
        """
        return barlow_twins_loss(
            z1,
            z2,
            off_diagonal_weight=self.off_diagonal_weight if off_diagonal_weight is OWN else off_diagonal_weight,
            standardize=self.standardize if standardize is OWN else standardize,
            present=present,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class InModalConsistency(LossModule):
    """`in_modal_consistency` as a module that keeps its options.

    forward takes x, y, and by name present. An option that you pass to forward holds for that call only.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> criterion = InModalConsistency()
        >>> loss = criterion(x, y)
    """

    function = staticmethod(in_modal_consistency)

    def __init__(self, *, normalize: bool = False, group: Group = None) -> None:
        """The options of `in_modal_consistency`.

        Args:
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all
                ranks; 3 D^2 numbers travel.
        """
        super().__init__()
        self.normalize = normalize
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`in_modal_consistency` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: Pairs of two modalities, (N, D); unit rows in the paper, or set normalize=True.
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return in_modal_consistency(
            x,
            y,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CrossModalConsistency(LossModule):
    """`cross_modal_consistency` as a module that keeps its options.

    forward takes x, y, and by name present. An option that you pass to forward holds for that call only.

    Example:
        >>> x, y = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
        >>> criterion = CrossModalConsistency()
        >>> loss = criterion(x, y)
    """

    function = staticmethod(cross_modal_consistency)

    def __init__(self, *, normalize: bool = False, group: Group = None) -> None:
        """The options of `cross_modal_consistency`.

        Args:
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all
                ranks; 3 D^2 numbers travel.
        """
        super().__init__()
        self.normalize = normalize
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cross_modal_consistency` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: Pairs of two modalities, (N, D); unit rows in the paper, or set normalize=True.
            present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may
                hold anything and get gradient 0. "mean" covers the others.
        """
        return cross_modal_consistency(
            x,
            y,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class CosineLoss(LossModule):
    """`cosine_loss` as a module that keeps its options.

    forward takes x, y, and by name mask, weights. An option that you pass to forward holds for that call only.

    Example:
        >>> x, y = torch.randn(2, 8, 16)
        >>> criterion = CosineLoss(form="negative", detach_target=True)
        >>> loss = criterion(x, y)
    """

    function = staticmethod(cosine_loss)

    def __init__(
        self,
        form: CosineForm = "distance",
        *,
        detach_target: bool = False,
        reduction: Reduction = "mean",
        group: Group = None,
    ) -> None:
        """The options of `cosine_loss`.

        Args:
            form: "squared" is the squared distance of the unit rows (BYOL), "negative" is SimSiam's. The gradients of
                the forms differ by a constant factor at most.
            detach_target: True: y gets no gradient.
            reduction: "mean" over all rows that take part, "sum", or "none": (N,) or (N, L).
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the rows of
                all ranks.
        """
        super().__init__()
        self.form = form
        self.detach_target = detach_target
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        form: CosineForm | Own = OWN,
        detach_target: bool | Own = OWN,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        reduction: Reduction | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`cosine_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            x, y: (N, D), or (N, L, D) for tokens of items, where L_i is per token. They need not be unit.
            mask: (N,) or (N, L) bool, True for rows that take part. The others may hold anything.
            weights: (N,) or (N, L) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w.
        """
        return cosine_loss(
            x,
            y,
            form=self.form if form is OWN else form,
            detach_target=self.detach_target if detach_target is OWN else detach_target,
            mask=mask,
            weights=weights,
            reduction=self.reduction if reduction is OWN else reduction,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class MultiviewClipLoss(LossModule):
    """`multiview_clip_loss` as a module that keeps its options.

    forward takes images, texts, and by name weights, present. An option that you pass to forward holds for that call
    only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> images, texts = torch.randn(2, 3, 8, 16)
        >>> criterion = MultiviewClipLoss(learnable_scale=True, local_logit_scale=10.0, normalize=True)
        >>> loss = criterion(images, texts)
    """

    function = staticmethod(multiview_clip_loss)

    def __init__(
        self,
        logit_scale: float | None = None,
        *,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        local_logit_scale: float | None = None,
        local_weight: float | None = None,
        label_smoothing: float = 0.0,
        direction: Direction = "mean",
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `multiview_clip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            local_logit_scale: The scale of local views; None: logit_scale.
            local_weight: w >= 0; None: sqrt((k - 1) (l - 1)).
            label_smoothing: In [0, 1), for local views only: spreads this share of the target over all candidates.
            direction: "mean" or "sum" of image -> text and text -> image ("sum" is the official recipe for CC12M and
                YFCC); "rows" or "cols": one direction only.
            detach_keys: Candidates get no gradient, as in the official code on several processes. Takes two passes.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over items, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.local_logit_scale = local_logit_scale
        self.local_weight = local_weight
        self.label_smoothing = label_smoothing
        self.direction = direction
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        images: Views,
        texts: Views,
        logit_scale: float | Tensor | Own = OWN,
        *,
        local_logit_scale: float | Tensor | Own | None = OWN,
        local_weight: float | Own | None = OWN,
        label_smoothing: float | Own = OWN,
        direction: Direction | Own = OWN,
        detach_keys: bool | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`multiview_clip_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            images: (k, N, D) or a list of k tensors (N, D): the global view first, then the local views, k - 1 >= 0.
            texts: (l, N, D) or a list, likewise. l = 1 if and only if k = 1.
            weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool. An item with False takes no part and is no candidate; its features may hold anything and
                get gradient 0.
        """
        return multiview_clip_loss(
            images,
            texts,
            logit_scale=self.needed("logit_scale", logit_scale),
            local_logit_scale=self.local_logit_scale if local_logit_scale is OWN else local_logit_scale,
            local_weight=self.local_weight if local_weight is OWN else local_weight,
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            direction=self.direction if direction is OWN else direction,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            weights=weights,
            present=present,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class LinearCrossEntropy(LossModule):
    """`linear_cross_entropy` as a module that keeps its options.

    forward takes hidden, weight, labels, and by name bias, weights. An option that you pass to forward holds for that
    call only.

    Example:
        >>> hidden, weight = torch.randn(4, 7, 16), torch.randn(1000, 16)
        >>> labels = torch.randint(0, 1000, (4, 7))
        >>> criterion = LinearCrossEntropy(ignore_index=0)
        >>> loss = criterion(hidden, weight, labels)
    """

    function = staticmethod(linear_cross_entropy)

    def __init__(
        self,
        ignore_index: int = -100,
        *,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `linear_cross_entropy`.

        Args:
            ignore_index: As in torch.nn.functional.cross_entropy. CoCa uses the padding index, 0.
            label_smoothing: In [0, 1): spreads this share of the target over the vocabulary.
            reduction: "mean" over the rows that take part (0 if none does, where torch gives NaN), "sum", or "none":
                (N,) or (B, T).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the rows of
                all ranks; weight and bias are the same on every rank and stay there.
        """
        super().__init__()
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        *,
        bias: Tensor | None = None,
        ignore_index: int | Own = OWN,
        label_smoothing: float | Own = OWN,
        weights: Tensor | None = None,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`linear_cross_entropy` of these inputs. An option holds for this call only; see the constructor.

        Args:
            hidden: h, (N, D), or (B, T, D) for tokens of texts.
            weight: w, (V, D), the weight of torch.nn.Linear(D, V).
            labels: (N,) or (B, T) integers in [0, V), or ignore_index: such a row takes no part and may hold anything.
            bias: b, (V,).
            weights: (N,) or (B, T) >= 0, no gradient. The weight of each row: "mean" is sum w L / sum w.
        """
        return linear_cross_entropy(
            hidden,
            weight,
            labels,
            bias=bias,
            ignore_index=self.ignore_index if ignore_index is OWN else ignore_index,
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            weights=weights,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class DinoLoss(LossModule):
    """`dino_loss` as a module that keeps its options.

    forward takes student, teacher, prototypes, teacher_prototypes, and by name center, weights, present. An option that
    you pass to forward holds for that call only.

    Example:
        >>> student, teacher = torch.randn(4, 8, 16), torch.randn(2, 8, 16)  # two global views, two local ones
        >>> prototypes, teacher_prototypes = torch.randn(2, 100, 16)
        >>> center = torch.zeros(100)
        >>> criterion = DinoLoss()
        >>> loss = criterion(student, teacher, prototypes, teacher_prototypes, center=center)
    """

    function = staticmethod(dino_loss)

    def __init__(
        self,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        *,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `dino_loss`.

        Args:
            student_temperature, teacher_temperature: > 0, floats or 0-dim tensors; the teacher's gets no gradient.
            reduction: "mean" or "sum" over items, or "none": (N,).
            memory_budget: With prototypes: bytes of scores to keep from forward to backward; what does not fit is
                computed again. None: up to 64 MiB; 0: keep none.
            backend: With prototypes: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run;
                a named backend raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the items of
                all ranks; prototypes and center are the same on every rank.
        """
        super().__init__()
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        prototypes: Tensor | None = None,
        teacher_prototypes: Tensor | None = None,
        *,
        center: Tensor | None = None,
        student_temperature: float | Tensor | Own = OWN,
        teacher_temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`dino_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            student, teacher: With prototypes, the features, (N, D) and (N, T): s_ik = <student_i, prototypes_k>, t_ik =
                <teacher_i, teacher_prototypes_k>. No logits are held: the center is one more feature of the teacher.
                Without prototypes, the logits s and t themselves, (N, K). Views come first: (V, N, ...) and (U, N,
                ...), where teacher view u is student view u. Then L_i is the mean over all pairs of a teacher view with
                a different student view.
            prototypes, teacher_prototypes: (K, D) and (K, T), the last layers of both heads.
            center: (K,), DINO's running mean of t; None: 0.
            weights: (N,) >= 0, no gradient. The weight of each item (image, masked patch): "mean" is sum w L / sum w.
            present: (N,) bool. An item with False takes no part; its features may hold anything and get gradient 0.
        """
        return dino_loss(
            student,
            teacher,
            prototypes,
            teacher_prototypes,
            center=center,
            student_temperature=self.student_temperature if student_temperature is OWN else student_temperature,
            teacher_temperature=self.teacher_temperature if teacher_temperature is OWN else teacher_temperature,
            weights=weights,
            present=present,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class GramLoss(LossModule):
    """`gram_loss` as a module that keeps its options.

    forward takes anchor, *others, and by name weights, present. An option that you pass to forward holds for that call
    only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> anchor, video, audio = torch.randn(3, 8, 16)
        >>> criterion = GramLoss(learnable_temperature=True, normalize=True)
        >>> loss = criterion(anchor, video, audio)
    """

    function = staticmethod(gram_loss)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        label_smoothing: float = 0.1,
        symmetric: bool = True,
        direction: Direction = "mean",
        key_offset: int = 0,
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `gram_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
                torch.nn.functional.cross_entropy does. The official code uses 0.1.
            symmetric: True: both directions in one pass. False: anchor -> others only.
            direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (anchor -> others
                only), or "cols" (others -> anchor only).
            key_offset: The tuple of anchor i is row key_offset + i of the others. Only the N own tuples look for their
                anchor among the N anchors.
            detach_keys: As the official training code gathers, candidates get no gradient, even on one device: each
                direction trains only its queries. Takes two passes.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the samples that take part, or "none": (N,), 0 for the others.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.label_smoothing = label_smoothing
        self.symmetric = symmetric
        self.direction = direction
        self.key_offset = key_offset
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        anchor: Tensor,
        *others: Tensor,
        temperature: float | Tensor | Own = OWN,
        label_smoothing: float | Own = OWN,
        symmetric: bool | Own = OWN,
        direction: Direction | Own = OWN,
        key_offset: int | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        detach_keys: bool | Own = OWN,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`gram_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            anchor: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            others: k - 1 >= 1 tensors (N, D), or (M, D) with M >= N for keys gathered from elsewhere.
            weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N, k) bool, column 0 is the anchor: a tuple's volume covers the modalities it has. Samples without
                their anchor, or with nothing else, take no part. Missing features may hold anything. Only with M = N.
        """
        return gram_loss(
            anchor,
            *others,
            temperature=self.needed("temperature", temperature),
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            symmetric=self.symmetric if symmetric is OWN else symmetric,
            direction=self.direction if direction is OWN else direction,
            key_offset=self.key_offset if key_offset is OWN else key_offset,
            weights=weights,
            present=present,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class TriangleLoss(LossModule):
    """`triangle_loss` as a module that keeps its options.

    forward takes anchor, x, y, and by name weights, present. An option that you pass to forward holds for that call
    only.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; do not pass it to
    forward then.

    Example:
        >>> anchor, x, y = torch.randn(3, 8, 16)
        >>> criterion = TriangleLoss(learnable_temperature=True, normalize=True)
        >>> loss = criterion(anchor, x, y)
    """

    function = staticmethod(triangle_loss)

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float | None = None,
        label_smoothing: float = 0.1,
        squared: bool = True,
        symmetric: bool = True,
        direction: Direction = "mean",
        key_offset: int = 0,
        detach_keys: bool = False,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `triangle_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: True: learn log_temperature.
            max_scale: For a learned temperature: the largest 1 / temperature (CLIP: 100). forward clamps the parameter
                in place, as CLIP does after a step.
            label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
                torch.nn.functional.cross_entropy does. The official code uses 0.1.
            squared: True: the official training logit, whose gradient is bounded and vanishes at area 0. False: the
                area.
            symmetric: True: both directions in one pass. False: anchor -> others only.
            direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (anchor -> others
                only), or "cols" (others -> anchor only).
            key_offset: The pair of anchor i is row key_offset + i of x and y. Only the N own pairs look for their
                anchor among the N anchors.
            detach_keys: Candidates get no gradient: each direction trains only its queries. Takes two passes.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over the samples that take part, or "none": (N,), 0 for the others.
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.temperature = None if learnable_temperature else temperature
        self.label_smoothing = label_smoothing
        self.squared = squared
        self.symmetric = symmetric
        self.direction = direction
        self.key_offset = key_offset
        self.detach_keys = detach_keys
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_temperature=learnable_temperature)
        if learnable_temperature:
            self.learn("temperature", temperature)

    def forward(
        self,
        anchor: Tensor,
        x: Tensor,
        y: Tensor,
        *,
        temperature: float | Tensor | Own = OWN,
        label_smoothing: float | Own = OWN,
        squared: bool | Own = OWN,
        symmetric: bool | Own = OWN,
        direction: Direction | Own = OWN,
        key_offset: int | Own = OWN,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        detach_keys: bool | Own = OWN,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`triangle_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            anchor: (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
            x, y: (N, D), or (M, D) with M >= N for keys gathered from elsewhere.
            weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
            present: (N,) bool: a sample that lacks a modality (False) has no triangle and takes no part. Only with M =
                N.
        """
        return triangle_loss(
            anchor,
            x,
            y,
            temperature=self.needed("temperature", temperature),
            label_smoothing=self.label_smoothing if label_smoothing is OWN else label_smoothing,
            squared=self.squared if squared is OWN else squared,
            symmetric=self.symmetric if symmetric is OWN else symmetric,
            direction=self.direction if direction is OWN else direction,
            key_offset=self.key_offset if key_offset is OWN else key_offset,
            weights=weights,
            present=present,
            detach_keys=self.detach_keys if detach_keys is OWN else detach_keys,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class PMRL(LossModule):
    """`pmrl_loss` as a module that keeps its options.

    forward takes *modalities, and by name weights. An option that you pass to forward holds for that call only.

    Example:
        >>> image, text, audio = torch.randn(3, 8, 16)
        >>> criterion = PMRL(normalize=True)
        >>> loss = criterion(image, text, audio)
    """

    function = staticmethod(pmrl_loss)

    def __init__(
        self,
        singular_temperature: float = 0.05,
        instance_temperature: float = 0.1,
        *,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `pmrl_loss`.

        Args:
            singular_temperature: > 0, a float or a 0-dim tensor. The paper uses 0.05 for fine-tuning and 0.01 for
                pre-training.
            instance_temperature: > 0, a float or a 0-dim tensor.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over samples, or "none": (N,).
            memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None:
                up to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all
                ranks, in rank order, and every rank must make the call.
        """
        super().__init__()
        self.singular_temperature = singular_temperature
        self.instance_temperature = instance_temperature
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group

    def forward(
        self,
        *modalities: Tensor,
        singular_temperature: float | Tensor | Own = OWN,
        instance_temperature: float | Tensor | Own = OWN,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`pmrl_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            modalities: Two or more tensors (N, D); row i of each belongs to sample i. Unit rows, or set normalize=True.
            weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return pmrl_loss(
            *modalities,
            singular_temperature=self.singular_temperature if singular_temperature is OWN else singular_temperature,
            instance_temperature=self.instance_temperature if instance_temperature is OWN else instance_temperature,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward


class Symile(LossModule):
    """`symile_loss` as a module that keeps its options.

    forward takes *modalities, and by name generator, permutations, weights. An option that you pass to forward holds
    for that call only.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; do not pass it to
    forward then. Otherwise give a logit_scale to forward if the module has none.

    Example:
        >>> image, text, audio = torch.randn(3, 8, 16)
        >>> criterion = Symile(learnable_scale=True, normalize=True)
        >>> loss = criterion(image, text, audio)
    """

    function = staticmethod(symile_loss)

    def __init__(
        self,
        negatives: Sampling = "n",
        *,
        logit_scale: float | None = None,
        learnable_scale: bool = False,
        max_scale: float | None = None,
        normalize: bool = False,
        reduction: Reduction = "mean",
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        """The options of `symile_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: True: learn log_logit_scale.
            max_scale: For a learned logit_scale: the largest value (CLIP: 100). forward clamps the parameter in place,
                as CLIP does after a step.
            negatives: "n" or "n_squared", see above.
            normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
            reduction: "mean" or "sum" over items, or "none": (N,), the mean over anchors of each item.
            memory_budget: Bytes of scores to keep from forward to backward, over all anchors. None or 0: compute them
                again.
            backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
                raises BackendUnsupported instead of falling back.
            group: None: this process only. "world", a process group, or distributed.Ranks: items come from all ranks,
                in rank order, and every rank must make the call.
        """
        super().__init__()
        self.logit_scale = None if learnable_scale else logit_scale
        self.negatives = negatives
        self.normalize = normalize
        self.reduction = reduction
        self.memory_budget = memory_budget
        self.backend = backend
        self.group = group
        self.bound(max_scale, learnable_scale=learnable_scale)
        if learnable_scale:
            self.learn("logit_scale", 1.0 / 0.07 if logit_scale is None else logit_scale)

    def forward(
        self,
        *modalities: Tensor,
        logit_scale: float | Tensor | Own = OWN,
        negatives: Sampling | Own = OWN,
        generator: Generator | None = None,
        permutations: Tensor | None = None,
        weights: Tensor | None = None,
        normalize: bool | Own = OWN,
        reduction: Reduction | Own = OWN,
        memory_budget: int | Own | None = OWN,
        backend: BackendName | Own = OWN,
        group: Group | Own = OWN,
    ) -> Tensor:
        """`symile_loss` of these inputs. An option holds for this call only; see the constructor.

        Args:
            modalities: k >= 2 batches of the same N items, each (N, D), float32 | bfloat16 | float16 | float64. Unit
                rows or not, as the model needs (normalize=True makes them unit); the score has no factor 1 / D.
            generator: Draws the permutations; default: torch's global generator of the features' device. The draws come
                in the official code's order, so that equal seeds give equal permutations on a CPU.
            permutations: (k, k - 1, N) int64 row numbers to use instead of drawing: permutations[m, j] is pi of the
                j-th of the modalities other than m. "n_squared" takes neither generator nor permutations.
            weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        """
        return symile_loss(
            *modalities,
            logit_scale=self.needed("logit_scale", logit_scale),
            negatives=self.negatives if negatives is OWN else negatives,
            generator=generator,
            permutations=permutations,
            weights=weights,
            normalize=self.normalize if normalize is OWN else normalize,
            reduction=self.reduction if reduction is OWN else reduction,
            memory_budget=self.memory_budget if memory_budget is OWN else memory_budget,
            backend=self.backend if backend is OWN else backend,
            group=self.group if group is OWN else group,
        )

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward

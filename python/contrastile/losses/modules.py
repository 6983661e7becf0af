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
    """`info_nce` as a module with options of its own.

        loss = InfoNCE(learnable_temperature=True)
        loss(query, key, negatives=queue)

    forward takes query, key, and by name negatives, hard_negatives, query_ids, key_ids, negative_ids, query_groups,
    key_groups, negative_groups, key_log_prob, negative_log_prob, weights, present. An option that is given to forward
    holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`info_nce`. An option holds for this call."""
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
    """`clip_loss` as a module with options of its own.

        loss = ClipLoss(learnable_scale=True)
        loss(image_features, text_features)

    forward takes image_features, text_features, and by name image_ids, text_ids, image_groups, text_groups, weights,
    present. An option that is given to forward holds for that call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `clip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`clip_loss`. An option holds for this call."""
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
    """`distill_info_nce` as a module with options of its own.

        loss = DistillInfoNCE(learnable_temperature=True)
        loss(query, key, teacher_query, negatives=queue)

    forward takes query, key, teacher_query, teacher_key, and by name negatives, teacher_negatives, query_ids, key_ids,
    negative_ids, weights. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `distill_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`distill_info_nce`. An option holds for this call."""
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
    """`clip_distill_loss` as a module with options of its own.

        loss = ClipDistillLoss(learnable_scale=True)
        loss(image_features, text_features, teacher_image_features, teacher_text_features)

    forward takes image_features, text_features, teacher_image_features, teacher_text_features, and by name weights. An
    option that is given to forward holds for that call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `clip_distill_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`clip_distill_loss`. An option holds for this call."""
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
    """`softclip_loss` as a module with options of its own.

        loss = SoftClipLoss(learnable_temperature=True)
        loss(x, y)

    forward takes x, y, and by name weights. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `softclip_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`softclip_loss`. An option holds for this call."""
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
    """`cwcl_loss` as a module with options of its own.

        loss = CWCL(learnable_scale=True)
        loss(anchor, other)

    forward takes anchor, other, and by name weight_features, weights. An option that is given to forward holds for that
    call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `cwcl_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`cwcl_loss`. An option holds for this call."""
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
    """`hydra_loss` as a module with options of its own.

        loss = HydraLoss(learnable_scale=True)
        loss(x, gate, labels, partner_labels)

    forward takes x, gate, labels, partner_labels, keys, key_labels. An option that is given to forward holds for that
    call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then.
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
        """The options are those of `hydra_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`hydra_loss`. An option holds for this call."""
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
    """`margin_info_nce` as a module with options of its own.

        loss = MarginInfoNCE(margin=0.3, learnable_temperature=True)
        loss(query, key, negatives=queue)

    forward takes query, key, and by name negatives, query_ids, key_ids, negative_ids, weights, present. An option that
    is given to forward holds for that call.

    Forward must be given margin where the module has none.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `margin_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`margin_info_nce`. An option holds for this call."""
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
    """`cma_loss` as a module with options of its own.

        loss = CMALoss(lam=0.001, learnable_scale=True)
        loss(image_features, text_features)

    forward takes image_features, text_features, and by name image_ids, text_ids, weights, present. An option that is
    given to forward holds for that call.

    Forward must be given lam where the module has none.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `cma_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`cma_loss`. An option holds for this call."""
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
    """`mixup_info_nce` as a module with options of its own.

        loss = MixupInfoNCE(learnable_temperature=True)
        loss(mixed, clean, partner, share)

    forward takes mixed, clean, partner, share, and by name unmixed, unmixed_clean, weights. An option that is given to
    forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `mixup_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`mixup_info_nce`. An option holds for this call."""
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
    """`m2_mix` as a module with options of its own.

        loss = M2Mix(learnable_temperature=True)
        loss(x, y, share)

    forward takes x, y, share, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `m2_mix`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`m2_mix`. An option holds for this call."""
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
    """`prototype_loss` as a module with options of its own.

        loss = PrototypeLoss(learnable_temperature=True)
        loss(x, prototypes, labels)

    forward takes x, prototypes, labels, and by name weights, present. An option that is given to forward holds for that
    call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `prototype_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`prototype_loss`. An option holds for this call."""
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
    """`global_local_info_nce` as a module with options of its own.

        loss = GlobalLocalInfoNCE(learnable_temperature=True)
        loss(global_features, local_features, mask)

    forward takes global_features, local_features, mask, and by name weights. An option that is given to forward holds
    for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `global_local_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`global_local_info_nce`. An option holds for this call."""
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
    """`block_info_nce` as a module with options of its own.

        loss = BlockInfoNCE(2, learnable_temperature=True)
        loss(x, y)

    forward takes x, y, and by name weights. An option that is given to forward holds for that call.

    Forward must be given blocks where the module has none.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `block_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`block_info_nce`. An option holds for this call."""
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
    """`m3el_loss` as a module with options of its own.

        loss = M3ELLoss(learnable_temperature=True)
        loss(x, y)

    forward takes x, y, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `m3el_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`m3el_loss`. An option holds for this call."""
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
    """`late_interaction_info_nce` as a module with options of its own.

        loss = LateInteractionInfoNCE(learnable_temperature=True)
        loss(queries, documents)

    forward takes queries, documents, and by name query_mask, document_mask, document_offsets, modalities,
    hard_negatives, hard_negative_mask, hard_positives, hard_positive_mask, query_ids, document_ids, teacher_scores. An
    option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `late_interaction_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`late_interaction_info_nce`. An option holds for this call."""
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
    """`word_region_loss` as a module with options of its own.

        loss = WordRegionLoss()
        loss(regions, words)

    forward takes regions, words, and by name region_mask, word_mask, class_ids. An option that is given to forward
    holds for that call.
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
        """The options are those of `word_region_loss`."""
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
        """`word_region_loss`. An option holds for this call."""
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
    """`fdt_loss` as a module with options of its own.

        loss = FDTLoss(learnable_scale=True)
        loss(image_tokens, text_tokens, codebook)

    forward takes image_tokens, text_tokens, codebook, and by name image_mask, text_mask. An option that is given to
    forward holds for that call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `fdt_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`fdt_loss`. An option holds for this call."""
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
    """`grouped_info_nce` as a module with options of its own.

        loss = GroupedInfoNCE(learnable_temperature=True)
        loss(query, positive, hard_negatives)

    forward takes query, positive, hard_negatives, and by name weights, present. An option that is given to forward
    holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `grouped_info_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`grouped_info_nce`. An option holds for this call."""
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
    """`grouped_margin_loss` as a module with options of its own.

        loss = GroupedMarginLoss(margin=0.2)
        loss(query, positive, hard_negatives)

    forward takes query, positive, hard_negatives, and by name weights, present. An option that is given to forward
    holds for that call.

    Forward must be given margin where the module has none.
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
        """The options are those of `grouped_margin_loss`."""
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
        """`grouped_margin_loss`. An option holds for this call."""
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
    """`nt_xent` as a module with options of its own.

        loss = NTXent(learnable_temperature=True)
        loss(z1, z2)

    forward takes z1, z2, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `nt_xent`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`nt_xent`. An option holds for this call."""
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
    """`siglip_loss` as a module with options of its own.

        loss = SigLipLoss(learnable=True)
        loss(image_features, text_features)

    forward takes image_features, text_features, and by name image_labels, text_labels, image_ids, text_ids, weights,
    present. An option that is given to forward holds for that call.

    With learnable=True, logit_scale is the exponential of the parameter log_logit_scale and logit_bias is a parameter;
    forward must not be given them then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `siglip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 10.0).
            logit_bias: Fixed, or where learning starts (None: -10.0).
            learnable: Whether there are parameters: log_logit_scale and logit_bias.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`siglip_loss`. An option holds for this call."""
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
    """`debiased_info_nce` as a module with options of its own.

        loss = DebiasedInfoNCE()
        loss(query, key)

    forward takes query, key, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `debiased_info_nce`."""
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
        """`debiased_info_nce`. An option holds for this call."""
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
    """`debiased_nt_xent` as a module with options of its own.

        loss = DebiasedNTXent()
        loss(z1, z2)

    forward takes z1, z2, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `debiased_nt_xent`."""
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
        """`debiased_nt_xent`. An option holds for this call."""
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
    """`sup_con` as a module with options of its own.

        loss = SupCon(learnable_temperature=True)
        loss(features, labels)

    forward takes features, labels, and by name keys, key_labels, anchor_mask, weights, present. An option that is given
    to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `sup_con`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`sup_con`. An option holds for this call."""
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
    """`multi_positive` as a module with options of its own.

        loss = MultiPositive(learnable_temperature=True)
        loss(query, key, query_ids, key_ids)

    forward takes query, key, query_ids, key_ids, and by name query_labels, key_labels, query_groups, key_groups,
    negatives, negative_ids, negative_labels, negative_groups, weights, key_weights. An option that is given to forward
    holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `multi_positive`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`multi_positive`. An option holds for this call."""
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
    """`mil_nce` as a module with options of its own.

        loss = MILNCE(learnable_temperature=True)
        loss(video, text)

    forward takes video, text, and by name mask, weights. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `mil_nce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`mil_nce`. An option holds for this call."""
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
    """`dcl` as a module with options of its own.

        loss = DCL()
        loss(z1, z2)

    forward takes z1, z2, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `dcl`."""
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
        """`dcl`. An option holds for this call."""
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
    """`dclw` as a module with options of its own.

        loss = DCLW()
        loss(z1, z2)

    forward takes z1, z2, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `dclw`."""
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
        """`dclw`. An option holds for this call."""
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
    """`dhel` as a module with options of its own.

        loss = DHEL()
        loss(z1, z2)

    forward takes z1, z2, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `dhel`."""
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
        """`dhel`. An option holds for this call."""
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
    """`mv_infonce` as a module with options of its own.

        loss = MVInfoNCE(learnable_temperature=True)
        loss(views)

    forward takes views, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `mv_infonce`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`mv_infonce`. An option holds for this call."""
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
    """`mv_dhel` as a module with options of its own.

        loss = MVDHEL(learnable_temperature=True)
        loss(views)

    forward takes views, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `mv_dhel`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`mv_dhel`. An option holds for this call."""
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
    """`pvc` as a module with options of its own.

        loss = PVC()
        loss(views)

    forward takes views, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `pvc`."""
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
        """`pvc`. An option holds for this call."""
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
    """`kcl` as a module with options of its own.

        loss = KCL()
        loss(z1, z2)

    forward takes z1, z2, and by name present. An option that is given to forward holds for that call.
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
        """The options are those of `kcl`."""
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
        """`kcl`. An option holds for this call."""
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
    """`cua` as a module with options of its own.

        loss = CUA()
        loss(image_features, text_features)

    forward takes image_features, text_features, and by name present. An option that is given to forward holds for that
    call.
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
        """The options are those of `cua`."""
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
        """`cua`. An option holds for this call."""
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
    """`cuaxu` as a module with options of its own.

        loss = CUAXU()
        loss(image_features, text_features)

    forward takes image_features, text_features, and by name present. An option that is given to forward holds for that
    call.
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
        """The options are those of `cuaxu`."""
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
        """`cuaxu`. An option holds for this call."""
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
    """`uniformity` as a module with options of its own.

        loss = Uniformity()
        loss(x)

    forward takes x, y, and by name present. An option that is given to forward holds for that call.
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
        """The options are those of `uniformity`."""
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
        """`uniformity`. An option holds for this call."""
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
    """`alignment` as a module with options of its own.

        loss = Alignment()
        loss(x, y)

    forward takes x, y, and by name weights, present. An option that is given to forward holds for that call.
    """

    function = staticmethod(alignment)

    def __init__(
        self, alpha: float = 2.0, *, normalize: bool = False, reduction: Reduction = "mean", group: Group = None
    ) -> None:
        """The options are those of `alignment`."""
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
        """`alignment`. An option holds for this call."""
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
    """`joint_entropy` as a module with options of its own.

        loss = JointEntropy()
        loss(x)

    forward takes x, and by name weights, present. An option that is given to forward holds for that call.
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
        """The options are those of `joint_entropy`."""
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
        """`joint_entropy`. An option holds for this call."""
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
    """`barlow_twins_loss` as a module with options of its own.

        loss = BarlowTwinsLoss()
        loss(z1, z2)

    forward takes z1, z2, and by name present. An option that is given to forward holds for that call.
    """

    function = staticmethod(barlow_twins_loss)

    def __init__(self, off_diagonal_weight: float = 0.005, *, standardize: bool = True, group: Group = None) -> None:
        """The options are those of `barlow_twins_loss`."""
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
        """`barlow_twins_loss`. An option holds for this call."""
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
    """`in_modal_consistency` as a module with options of its own.

        loss = InModalConsistency()
        loss(x, y)

    forward takes x, y, and by name present. An option that is given to forward holds for that call.
    """

    function = staticmethod(in_modal_consistency)

    def __init__(self, *, normalize: bool = False, group: Group = None) -> None:
        """The options are those of `in_modal_consistency`."""
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
        """`in_modal_consistency`. An option holds for this call."""
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
    """`cross_modal_consistency` as a module with options of its own.

        loss = CrossModalConsistency()
        loss(x, y)

    forward takes x, y, and by name present. An option that is given to forward holds for that call.
    """

    function = staticmethod(cross_modal_consistency)

    def __init__(self, *, normalize: bool = False, group: Group = None) -> None:
        """The options are those of `cross_modal_consistency`."""
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
        """`cross_modal_consistency`. An option holds for this call."""
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
    """`cosine_loss` as a module with options of its own.

        loss = CosineLoss()
        loss(x, y)

    forward takes x, y, and by name mask, weights. An option that is given to forward holds for that call.
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
        """The options are those of `cosine_loss`."""
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
        """`cosine_loss`. An option holds for this call."""
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
    """`multiview_clip_loss` as a module with options of its own.

        loss = MultiviewClipLoss(learnable_scale=True)
        loss(images, texts)

    forward takes images, texts, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `multiview_clip_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`multiview_clip_loss`. An option holds for this call."""
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
    """`linear_cross_entropy` as a module with options of its own.

        loss = LinearCrossEntropy()
        loss(hidden, weight, labels)

    forward takes hidden, weight, labels, and by name bias, weights. An option that is given to forward holds for that
    call.
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
        """The options are those of `linear_cross_entropy`."""
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
        """`linear_cross_entropy`. An option holds for this call."""
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
    """`dino_loss` as a module with options of its own.

        loss = DinoLoss()
        loss(student, teacher, prototypes, teacher_prototypes, center=center)

    forward takes student, teacher, prototypes, teacher_prototypes, and by name center, weights, present. An option that
    is given to forward holds for that call.
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
        """The options are those of `dino_loss`."""
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
        """`dino_loss`. An option holds for this call."""
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
    """`gram_loss` as a module with options of its own.

        loss = GramLoss(learnable_temperature=True)
        loss(anchor, video, audio)

    forward takes anchor, *others, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `gram_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`gram_loss`. An option holds for this call."""
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
    """`triangle_loss` as a module with options of its own.

        loss = TriangleLoss(learnable_temperature=True)
        loss(anchor, x, y)

    forward takes anchor, x, y, and by name weights, present. An option that is given to forward holds for that call.

    With learnable_temperature=True, temperature is the exponential of the parameter log_temperature; forward must not
    be given it then.
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
        """The options are those of `triangle_loss`.

        Args:
            temperature: Fixed, or where learning starts.
            learnable_temperature: Whether there are parameters: log_temperature.
            max_scale: Of a learned temperature: The largest 1 / temperature (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`triangle_loss`. An option holds for this call."""
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
    """`pmrl_loss` as a module with options of its own.

        loss = PMRL()
        loss(image, text, audio)

    forward takes *modalities, and by name weights. An option that is given to forward holds for that call.
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
        """The options are those of `pmrl_loss`."""
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
        """`pmrl_loss`. An option holds for this call."""
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
    """`symile_loss` as a module with options of its own.

        loss = Symile(learnable_scale=True)
        loss(image, text, audio)

    forward takes *modalities, and by name generator, permutations, weights. An option that is given to forward holds
    for that call.

    With learnable_scale=True, logit_scale is the exponential of the parameter log_logit_scale; forward must not be
    given it then. Otherwise forward must be given a logit_scale where the module has none.
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
        """The options are those of `symile_loss`.

        Args:
            logit_scale: Fixed, or where learning starts (None: 1.0 / 0.07).
            learnable_scale: Whether there are parameters: log_logit_scale.
            max_scale: Of a learned logit_scale: The largest value (CLIP: 100). forward clamps the
                parameter in place, as CLIP does after a step.
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
        """`symile_loss`. An option holds for this call."""
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

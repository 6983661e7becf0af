"""CLIP: the cross entropy of matched pairs in both directions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check
from ..ranks import GlobalBatch, Group, collective, given
from .candidates import check_direction, pair_ids, smoothing_share
from .common import engine_options, feature_pair, is_per_row, reduced_empty, scale_of
from .in_batch import InBatch, given_report
from .matryoshka import Matryoshka, prefix_facts
from .softmax import Softmax, softmax_loss
from .weights import Counted


@collective
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    *,
    text_logit_scale: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    image_groups: Tensor | None = None,
    text_groups: Tensor | None = None,
    direction: Direction = "mean",
    detach_keys: bool = False,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    report: InBatch | None = None,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """CLIP: the mean of the image -> text and text -> image cross-entropies over the batch.

        L = 1/2N sum_i [ log sum_j e^{z_ij} + log sum_j e^{z_ji} - 2 z_ii ],      z_ij = logit_scale * <image_i, text_j>

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float, a 0-dim tensor with gradient, or (N,),
            one per pair.
        text_logit_scale: The scale of the text -> image direction, if it differs: a float, a 0-dim tensor, or (N,).
        label_smoothing: In [0, 1): spreads this share of the target over all candidates, as
            torch.nn.functional.cross_entropy does. Not with ids.
        image_ids, text_ids: (N,) integers. Pairs with equal ids at different indices are not negatives. text_ids
            default to image_ids.
        image_groups, text_groups: (N,) integers. Only items of the same group are negatives of each other. text_groups
            default to image_groups.
        direction: "mean" or "sum" of both directions; "rows": image -> text only; "cols": text -> image only.
        detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
        matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over all
            prefixes. normalize=True makes every prefix a unit row.
        matryoshka_weights: A number per prefix; default 1 each.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        report: A contrastile.metrics.InBatch, which the call fills with in-batch recall and similar statistics. Not
            with matryoshka.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 8 N^2 D FLOP forward and backward (6 where the scores fit memory_budget), 6 in one direction.

    Example:
        >>> image = torch.randn(8, 16, requires_grad=True)
        >>> text = torch.randn(8, 16, requires_grad=True)
        >>> clip_loss(image, text, 14.3, normalize=True).backward()
        >>> image.grad.shape
        torch.Size([8, 16])

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3; open_clip ClipLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("image_features", image_features))
    prefixes = None
    if matryoshka is not None or matryoshka_weights is not None:
        prefixes = Matryoshka.of(matryoshka, matryoshka_weights, image_features.shape[1], normalize)
    image, text = feature_pair(
        "image_features", image_features, "text_features", text_features, normalize and prefixes is None,
        counted.present,
    )  # fmt: skip
    check_direction(direction, True, "text_logit_scale", text_logit_scale)
    smoothing = smoothing_share(label_smoothing)
    if smoothing > 0.0 and image_ids is not None:
        raise ValueError("label_smoothing cannot be combined with ids")
    if smoothing > 0.0 and image_groups is not None:
        raise ValueError("label_smoothing cannot be combined with image_groups: it is spread over all candidates")
    row_ids, col_ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    groups: tuple[Tensor | None, Tensor | None] = (None, None)
    if image_groups is not None or text_groups is not None:
        groups = pair_ids(image, "image_groups", image_groups, "text_groups", text_groups)
    scale = scale_of("logit_scale", logit_scale, image, counted.present)
    key_scale = None
    if text_logit_scale is not None:
        key_scale = scale_of("text_logit_scale", text_logit_scale, image, counted.present)
    if report is not None:
        report = given_report(report, prefixes)
    batch = GlobalBatch.of(
        engine.ranks, image.shape[0],
        facts=lambda: dict(
            **counted.facts(), image_ids=given(row_ids), image_groups=given(image_groups),
            label_smoothing=given(smoothing or None), text_logit_scale=given(key_scale), detach_keys=bool(detach_keys),
            report=given(report),
            **prefix_facts(prefixes),
        ),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, key_scale)
    problem = Softmax(
        batch, engine, image, text, scale, counted, [], None, row_ids, col_ids, *groups, smoothing=smoothing,
        prefixes=prefixes, report=report,
    )  # fmt: skip
    if key_scale is None and is_per_row(logit_scale, batch):
        key_scale = scale
    return softmax_loss(problem, reduction, direction, True, key_scale, detach_keys)

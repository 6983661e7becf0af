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
        image_features, text_features: (N, D), unit rows expected, or normalize=True.
        logit_scale: The multiplier itself (already exponentiated), float or 0-dim tensor with gradient; or (N,), one
            per pair.
        text_logit_scale: That of the text -> image direction, where it is another one: float, 0-dim tensor or (N,).
        direction: "mean" | "sum" of both; "rows": image -> text alone, "cols": text -> image alone.
        image_groups, text_groups: (N,) integers: only items of the same group are negatives of each other, as
            query_groups and key_groups of info_nce.
        label_smoothing, image_ids, text_ids, detach_keys, matryoshka, matryoshka_weights, weights, present, report,
            reduction, memory_budget, backend, group: As in info_nce.

    Returns: float32, nats. Cost: 8 N^2 D FLOP forward and backward (6 where the scores fit memory_budget), 6 in one
    direction.

    Source: Radford et al. 2021, arXiv 2103.00020, figure 3; open_clip ClipLoss.
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

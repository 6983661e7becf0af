"""What mypy must see of calls: the types of results, and mistakes. `make lint` checks this file; nothing runs it.

An ignore that nothing needs is an error there, so each of `mistakes` is one that mypy finds.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import assert_type

import contrastile
from contrastile.distributed import Ranks


def results(x: Tensor, y: Tensor, ids: Tensor) -> None:
    clip = contrastile.ClipLoss(learnable_scale=True, reduction="none")
    assert_type(clip(x, y), Tensor)
    assert_type(clip.forward(text_features=y, image_features=x, image_ids=ids, reduction="sum"), Tensor)
    assert_type(contrastile.InfoNCE()(x, y, temperature=0.1, negatives=y, memory_budget=None), Tensor)
    assert_type(contrastile.GramLoss()(x, y, y, present=ids > 0), Tensor)
    assert_type(contrastile.Symile("n_squared")(x, y, y, logit_scale=10.0), Tensor)
    assert_type(contrastile.MVInfoNCE()([x, y]), Tensor)
    assert_type(contrastile.SupCon(group="world")(x, ids, group=Ranks(strategy="ring")), Tensor)
    assert_type(contrastile.clip_loss(x, y, 10.0, backend="torch"), Tensor)


def mistakes(x: Tensor, y: Tensor) -> None:
    clip = contrastile.ClipLoss()
    clip(x)  # type: ignore[call-arg]
    clip(x, texts=y)  # type: ignore[call-arg]
    clip(x, 1.0)  # type: ignore[arg-type]
    clip(x, y, logit_scale="10")  # type: ignore[arg-type]
    clip(x, y, reduction="max")  # type: ignore[arg-type]
    clip(x, y, negatives=y)  # type: ignore[call-arg]
    contrastile.ClipLoss(temperature=0.07)  # type: ignore[call-arg]
    contrastile.ClipLoss(reduction="max")  # type: ignore[arg-type]
    contrastile.InfoNCE(learnable_scale=True)  # type: ignore[call-arg]
    contrastile.PVC()(x, y)  # type: ignore[call-arg]
    contrastile.GramLoss()(x, y, others=y)  # type: ignore[call-arg]


def words(x: Tensor) -> None:
    """Of every argument that takes one of some words."""
    contrastile.alignment(x, x, reduction="max")  # type: ignore[arg-type]
    contrastile.nt_xent(x, x, backend="gpu")  # type: ignore[arg-type]
    contrastile.maxsim(x, x, reduce="max")  # type: ignore[arg-type]
    contrastile.segment_reduce(x, x, 1, backend="gpu")  # type: ignore[arg-type]
    contrastile.kcl(x, x, kernel="cauchy")  # type: ignore[arg-type]
    contrastile.mv_infonce([x, x], negatives="n")  # type: ignore[arg-type]
    contrastile.pvc([x, x], aggregation="harmonic")  # type: ignore[arg-type]
    contrastile.pairwise_aggregate([x, x], contrastile.nt_xent, mode="all")  # type: ignore[arg-type]
    contrastile.symile_loss(x, x, logit_scale=1.0, negatives="all")  # type: ignore[arg-type]
    contrastile.pair_reduce(x, reduce="sum")  # type: ignore[arg-type]
    contrastile.pair_reduce(x, keep="not_same")  # type: ignore[arg-type]
    contrastile.pair_loss(x, positives="same")  # type: ignore[arg-type]
    contrastile.pair_loss(x, score="cosine")  # type: ignore[arg-type]
    Ranks(strategy="tree")  # type: ignore[arg-type]

"""A weighted sum over prefixes of the features, whose scores come from one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends import select
from . import autograd, check, library
from .arguments import Pairs
from .options import EngineOptions
from .pair import LOSS_BUDGET, Weights, weighted
from .record import needs_of

FEW_PAIRS = 1 << 14  # up to so many a call for each prefix is faster, if it is a small one; measured on CPUs


@dataclass(frozen=True)
class Prefixes:
    """Of the features: which, what each weighs, and what multiplies its scores in place of pairs.scale and
    pairs.col_scale."""

    ends: Sequence[int]  # ascending
    weights: Sequence[float]
    scale: Tensor  # (P, N)
    col_scale: Tensor | None = None  # (P, M)


def prefix_sum(pairs: Pairs, weights: Weights, engine: EngineOptions, prefixes: Prefixes) -> Tensor | None:
    """The sum over prefixes of what weighted_sum gives for their features and scales; None where this is not offered,
    or a call for each prefix is better.

    For scores of products and without thresholds, which would be others for each prefix.
    """
    if engine.ranks is not None:
        return None
    args, given = weighted(pairs, weights, engine)
    backend = select(args.backend, args.a.device, args.compute, args.n * args.m)
    # float16 score gradients would need one factor against underflow for all prefixes
    factor = backend.writes_halves and backend.compute_dtype(args.compute, args.a.device) == torch.float16
    if factor or len(prefixes.ends) > backend.most_slices:
        return None
    # in a graph a look at sizes would bind it to them
    few = check.plain(args.a) and args.n * args.m <= FEW_PAIRS
    if few and library.small_loss(args, given, needs_of(args)) is not None:
        return None
    args.prefixes, args.prefix_weights = list(prefixes.ends), list(prefixes.weights)
    args.scale, args.col_scale = prefixes.scale, prefixes.col_scale
    budget = LOSS_BUDGET if engine.memory_budget is None else engine.memory_budget
    value: Tensor = autograd.loss(args, given, budget, needs_of(args))
    return value

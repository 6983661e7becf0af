"""Kernel contrastive losses: the mean kernel of positive pairs against that of all pairs within each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import EngineOptions, Pairs, Weights, check, pair_stats, weighted_sum
from ..ranks import GlobalBatch, Group, collective
from ..spec import FLOOR
from .common import at_least_one, distance_origin, feature_pair, number, upcast, zero
from .weights import Counted, keep_present

KernelName: TypeAlias = Literal["gaussian", "log", "imq", "riesz", "gaussian_riesz"]


@collective
def kcl(
    z1: Tensor,
    z2: Tensor,
    *,
    kernel: KernelName = "gaussian",
    t: float | Tensor = 2.0,
    s: float = 2.0,
    gamma: float | Tensor = 16.0,
    present: Tensor | None = None,
    normalize: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Kernel contrastive loss: one kernel pulls positives together and spreads out the items of each view.

        L = -2 mean_i K(a_i, b_i) + gamma [ mean_{i<j} E(a_i, a_j) + mean_{i<j} E(b_i, b_j) ],      a = z1, b = z2

        kernel            K, of positives           E, of pairs within a view        d = distance
        "gaussian"        e^{-t d^2}                the same
        "log"             -log(t d^2 + 1)           -1/2 log(t d^2 + 1)
        "imq"             t / sqrt(t^2 + d^2)       the same
        "riesz"           d^-s (s < 0: -d^-s)       the same
        "gaussian_riesz"  e^{-t d^2}                d^-s (s < 0: -d^-s)

    The factor 1/2 in the "log" row is the official code's. Where E is a power, its mean is the exponential of a
    log-sum-exp of -log d^2, so a single close pair cannot overflow the sum before it overflows the mean.

    Args:
        z1, z2: Anchors and their positives, (N, D); unit rows in the paper, or set normalize=True.
        kernel: One of the five names above.
        t: > 0, a float or a 0-dim tensor: an inverse squared length ("imq": a length, c in the official code).
        s: Not 0, no gradient: the exponent of "riesz" and of the energy of "gaussian_riesz".
        gamma: Weight of the energies, a float or a 0-dim tensor.
        present: (N,) bool: all means cover the pairs that are present. The features of others may hold anything and get
            gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), one number for the batch. With N = 1 there are no pairs within a
    view: their mean counts as 0. Squared distances within a view are differences of squared norms. In float32, those
    below 2^-20 (|x|^2 + |y|^2) are raised to that bound, with gradient 0 (float64: 2^-46), which keeps "riesz" finite
    for duplicates; for two rows of zeros the bound is 1e-30. The Gaussian energy has no bound: its exponents round like
    those of `uniformity`.
    Cost: 8 N^2 D FLOP forward and backward, since each unordered pair is computed once.

    Example:
        >>> z1, z2 = torch.randn(2, 8, 16)
        >>> loss = kcl(z1, z2, kernel="gaussian", t=2.0, normalize=True)

    Source: Koromilas et al. 2024, https://arxiv.org/abs/2405.18045; official code pakoromilas/DHEL-KCL, KCL, which has
    one number for t and s, and t = 2 for the positives of "gaussian_riesz".
    """
    engine = EngineOptions.of(memory_budget, backend, group)
    check.choice("kernel", kernel, get_args(KernelName))
    counted = Counted.of(None, present, check.features("z1", z1))
    a, b = feature_pair("z1", z1, "z2", z2, normalize, counted.present)
    # features are widened so that the two parts of a distance's gradient cancel before rounding
    engine.compute_dtype, a, b = a.dtype, upcast(a), upcast(b)
    width, power = number("t", t, a, positive=True), exponent(s)
    weight = number("gamma", gamma, a)
    batch = GlobalBatch.of(engine.ranks, a.shape[0], facts=counted.facts)
    if batch.total == 0:
        return zero(a, b, width, weight)
    inner = outer = kernel
    if kernel == "gaussian_riesz":
        inner, outer = "riesz", "gaussian"
    energies = [Kernel(inner, width, power).energy(x, batch, engine, counted) for x in (a, b)]
    alignment = counted.reduced(batch, Kernel(outer, width, power).of_pairs(a, b), "mean")
    return weight * (energies[0] + energies[1]) - 2.0 * alignment


def exponent(s: float) -> float:
    value = check.scalar("s", s)
    if isinstance(value, Tensor) or value == 0.0:
        raise ValueError(f"s must be a number other than 0, got {s}")
    return value


@dataclass(frozen=True)
class Kernel:
    """A function of the distance of two points, and its means."""

    name: KernelName
    t: float | Tensor
    s: float

    def of_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """K(a_i, b_i), (N,)."""
        square = (a - b).square().sum(1)
        if self.name == "gaussian":
            return torch.exp(-self.t * square)
        if self.name == "log":
            return -torch.log1p(self.t * square)
        if self.name == "imq":
            return self.t * torch.rsqrt(self.t * self.t + square)
        floor = FLOOR[a.dtype] * (a.square().sum(1) + b.square().sum(1)) + 1e-30
        return self.sign() * torch.maximum(square, floor.detach()).pow(-0.5 * self.s)

    def energy(self, x: Tensor, batch: GlobalBatch, engine: EngineOptions, counted: Counted) -> Tensor:
        """mean_{i < j} E(x_i, x_j); 0 without pairs. Each score is linear in log E, or E itself for "log"."""
        if batch.total < 2:
            return zero(x, self.t)
        engine.exact_stats = True
        if self.name != "riesz":  # its floor is a share of the norms
            x = x - distance_origin(x, batch, engine)
        norms = x.square().sum(1)
        if self.name == "log":  # log(t d^2 + 1) = log t + log(d^2 + 1/t)
            bias = norms + 0.5 / self.t
            pairs = Pairs(x, row_bias=bias, col_bias=bias, score="log_distance", keep="other_index", positives="kept")
            keep_present(pairs, counted.present)
            each, others = counted.weight(batch, "mean", x, least=2), at_least_one(counted.count(batch) - 1)
            total = weighted_sum(pairs, Weights(0.0, each / others), engine)
            return counted.if_pairs(-0.5 * (total + check.as_tensor("t", self.t, x).log()), batch)
        pairs = Pairs(x, keep="other_index")
        if self.name == "gaussian":  # -t d^2 is a dot product and biases
            pairs.scale, bias = 2.0 * self.t, -self.t * norms
        else:
            pairs.score, (pairs.scale, bias) = "log_distance", self.of_log_distance(norms)
        pairs.row_bias = pairs.col_bias = bias
        keep_present(pairs, counted.present)
        mean = torch.exp(counted.log_mean(pair_stats(pairs, engine).rows, batch)).to(x.dtype)
        return counted.if_pairs(self.t * mean if self.name == "imq" else self.sign() * mean, batch)

    def of_log_distance(self, norms: Tensor) -> tuple[float | Tensor, Tensor]:
        """Factor of log q that makes log E, and the share of each point in q: |x|^2, for "imq" of t^2 + d^2."""
        return (-0.5, norms + 0.5 * self.t * self.t) if self.name == "imq" else (-0.5 * self.s, norms)

    def sign(self) -> float:
        return -1.0 if self.name == "riesz" and self.s < 0.0 else 1.0

"""DINO's cross-entropy between two softmaxes over prototypes, of logits or of what they are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, Targets, Weights, check, no_autocast, pair_stats, weighted_sum
from ..ranks import Group, collective, given
from .common import engine_options, inverse, own_columns, reduced_empty, upcast
from .soft_targets import frozen_scale
from .views import cleaned_views
from .weights import Counted


@collective
def dino_loss(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = None,
    teacher_prototypes: Tensor | None = None,
    *,
    center: Tensor | None = None,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """DINO: the student's softmax over prototypes should match the teacher's, centered and sharpened.

        L_i = - sum_k q_ik log softmax_k(s_ik / student_temperature)
        q_ik = softmax_k((t_ik - center_k) / teacher_temperature)

    Args:
        student, teacher: With prototypes, the features, (N, D) and (N, T): s_ik = <student_i, prototypes_k>, t_ik =
            <teacher_i, teacher_prototypes_k>. No logits are held: the center is one more feature of the teacher.
            Without prototypes, the logits s and t themselves, (N, K). Views come first: (V, N, ...) and (U, N, ...),
            where teacher view u is student view u. Then L_i is the mean over all pairs of a teacher view with a
            different student view.
        prototypes, teacher_prototypes: (K, D) and (K, T), the last layers of both heads.
        center: (K,), DINO's running mean of t; None: 0.
        student_temperature, teacher_temperature: > 0, floats or 0-dim tensors; the teacher's gets no gradient.
        weights: (N,) >= 0, no gradient. The weight of each item (image, masked patch): "mean" is sum w L / sum w.
        present: (N,) bool. An item with False takes no part; its features may hold anything and get gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,).
        memory_budget: With prototypes: bytes of scores to keep from forward to backward; what does not fit is computed
            again. None: up to 64 MiB; 0: keep none.
        backend: With prototypes: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a
            named backend raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the mean covers the items of all
            ranks; prototypes and center are the same on every rank.

    Returns: float32 (float64 for float64 features), nats. teacher, teacher_prototypes, and center get no gradient.
    Cost with prototypes: 8 N K D FLOP forward and backward for T = D and each pair of views.

    Example:
        >>> student, teacher = torch.randn(4, 8, 16), torch.randn(2, 8, 16)  # two global views, two local ones
        >>> prototypes, teacher_prototypes = torch.randn(2, 100, 16)
        >>> center = torch.zeros(100)
        >>> loss = dino_loss(student, teacher, prototypes, teacher_prototypes, center=center)
        >>> center = 0.9 * center + 0.1 * teacher_prototypes @ teacher.mean((0, 1))

    Source: Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, algorithm 1; official code, DINOLoss. SILC and
    TIPS in SigLIP 2.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    views = isinstance(student, Tensor) and student.dim() == 3
    s, t = (as_views(name, x, views) for name, x in (("student", student), ("teacher", teacher)))
    check.same_device("teacher", t, s.device)
    pairs = [(u, v) for u in range(t.shape[0]) for v in range(s.shape[0]) if u != v or not views]
    if not pairs:
        raise ValueError("student must have a view that is not teacher's, got one of each")
    counted = Counted.of(weights, present, s[0])
    heads = checked_heads(s, t, prototypes, teacher_prototypes)
    if center is not None:
        count = s.shape[2] if heads is None else heads[0].shape[0]
        center = upcast(check.vector("center", center, count, s.device)).detach()
    scale = inverse(student_temperature, s, name="student_temperature")
    sharpness = frozen_scale(inverse(teacher_temperature, s, name="teacher_temperature"), True)
    batch = own_columns(
        engine, s.shape[1],
        lambda: dict(**counted.facts(), prototypes=given(prototypes), center=given(center), pairs=len(pairs)),
    )  # fmt: skip
    if batch.total == 0:
        return reduced_empty(0, reduction, s, scale, prototypes)
    s, t = (cleaned_views(x, counted.present) for x in (s, t.detach()))
    if heads is None:
        rows = logit_rows(upcast(s) * scale, teacher_logits(t, center) * sharpness, pairs)
        return counted.reduced(batch, rows, reduction)
    problem = matched(s, t, heads, center, scale, sharpness, pairs, engine)
    if reduction == "none":
        loss = pair_stats(problem, engine).row_target_loss
        assert loss is not None
        return counted.reduced(batch, loss.view(len(pairs), -1).mean(0), reduction)
    weight = counted.weight(batch, reduction, s)
    weight = (weight.repeat(len(pairs)) if isinstance(weight, Tensor) else weight) / len(pairs)
    return weighted_sum(problem, Weights(weight, row_target=-weight), engine)


def as_views(name: str, x: Tensor, views: bool) -> Tensor:
    """(views, N, D)."""
    check.features(name, x, ndim=3 if views else 2)
    return x if views else x.unsqueeze(0)


def checked_heads(
    s: Tensor, t: Tensor, prototypes: Tensor | None, teacher_prototypes: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The last layers; None: s and t are logits."""
    if (prototypes is None) != (teacher_prototypes is None):
        raise ValueError("prototypes and teacher_prototypes must be given together")
    if prototypes is None or teacher_prototypes is None:
        check.same_shape("teacher", t[0], "student", s[0])
        return None
    if s.shape[1] != t.shape[1]:
        raise ValueError(f"teacher must have the {s.shape[1]} items of student, got {t.shape[1]}")
    check.same_width("prototypes", check.features("prototypes", prototypes), "student", s)
    check.same_width("teacher_prototypes", check.features("teacher_prototypes", teacher_prototypes), "teacher", t)
    for name, x in (("prototypes", prototypes), ("teacher_prototypes", teacher_prototypes)):
        check.same_device(name, x, s.device)
    if prototypes.shape[0] != teacher_prototypes.shape[0]:
        raise ValueError(f"teacher_prototypes must have {prototypes.shape[0]} rows, got {teacher_prototypes.shape[0]}")
    return prototypes, teacher_prototypes.detach()


def teacher_logits(t: Tensor, center: Tensor | None) -> Tensor:
    return upcast(t) if center is None else upcast(t) - center


def logit_rows(z: Tensor, t: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """(N,), from logits of views (V, N, K) and (U, N, K)."""
    log_p, q = z.log_softmax(2), t.softmax(2)
    return -torch.stack([(q[u] * log_p[v]).sum(1) for u, v in pairs]).mean(0)


def matched(
    s: Tensor, t: Tensor, heads: tuple[Tensor, Tensor], center: Tensor | None, scale: float | Tensor,
    sharpness: float | Tensor, pairs: list[tuple[int, int]], engine: EngineOptions,
) -> Pairs:  # fmt: skip
    """A row for each item of every pair of views, all of the first pair before those of the second."""
    dtype = s.dtype
    for x in (t, *heads):
        dtype = torch.promote_types(dtype, x.dtype)
    s, t, columns, taught = (x.to(dtype) for x in (s, t, *heads))
    if len(pairs) > 1:  # a view is in several pairs: their gradients meet in float32 and are rounded once
        engine.compute_dtype, s = dtype, upcast(s)
    with no_autocast(s):
        rows, targets = torch.cat([s[v] for _, v in pairs]), torch.cat([t[u] for u, _ in pairs])
        if center is not None:
            parts = summands(-center, dtype)
            targets = torch.cat([targets, targets.new_ones(targets.shape[0], len(parts))], 1)
            taught = torch.cat([taught, torch.stack(parts, 1)], 1)
    return Pairs(rows, columns, scale, targets=Targets(targets, taught, sharpness))


def summands(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """x as a sum of numbers of a type: three of half precision have the digits of one float32."""
    parts = []
    for _ in range(1 if dtype.itemsize >= 4 else 3):
        parts.append(x.to(dtype))
        x = x - parts[-1].to(x.dtype)
    return parts

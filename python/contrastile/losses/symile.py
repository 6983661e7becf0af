"""Symile: k modalities at once, scored by the multilinear inner product of one row of each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Generator, Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, matmul, pair_stats, softplus
from ..ops.multilinear import tuple_margins
from ..ranks import GlobalBatch, Group, collective
from .common import engine_options, feature_batches, reduced_empty, upcast
from .weights import Counted

Sampling: TypeAlias = Literal["n", "n_squared"]


@collective
def symile_loss(
    *modalities: Tensor,
    logit_scale: float | Tensor,
    negatives: Sampling = "n",
    generator: Generator | None = None,
    permutations: Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Symile: each modality in turn is the anchor; its rows must tell their own tuple from mixed ones.

        L_i = mean_m [ log sum_{t in T_m(i)} e^{z_t} - z_(i, .., i) ],      z_t = logit_scale sum_d prod_l x_l[t_l, d]

    T_m(i) holds the true tuple (i, .., i) and tuples with t_m = i of the other modalities' rows:

    - negatives="n": N - 1 of them. There is one random permutation pi per anchor m and other modality l; column j != i
      is t_l = pi_ml(j). As in the official code, a true tuple may come back as a negative by chance.
    - negatives="n_squared": all others of the N^(k-1) tuples (N^2 for three modalities).

    Args:
        modalities: k >= 2 batches of the same N items, each (N, D), float32 | bfloat16 | float16 | float64. Unit rows
            or not, as the model needs (normalize=True makes them unit); the score has no factor 1 / D.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        negatives: "n" or "n_squared", see above.
        generator: Draws the permutations; default: torch's global generator of the features' device. The draws come in
            the official code's order, so that equal seeds give equal permutations on a CPU.
        permutations: (k, k - 1, N) int64 row numbers to use instead of drawing: permutations[m, j] is pi of the j-th of
            the modalities other than m. "n_squared" takes neither generator nor permutations.
        weights: (N,) >= 0, no gradient. The weight of each item: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over items, or "none": (N,), the mean over anchors of each item.
        memory_budget: Bytes of scores to keep from forward to backward, over all anchors. None or 0: compute them
            again.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: items come from all ranks, in
            rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. A batch of one item, or none, gives 0. Products of rows are
    not exact in half precision, so half-precision features are multiplied in float32.
    Cost: forward and backward, "n" 8 N^2 D FLOP per anchor, 8 k N^2 D together; "n_squared" 8 N^k D for all anchors
    together. Memory O(k^2 N D) and O(k N D).

    Example:
        >>> image, text, audio = torch.randn(3, 8, 16)
        >>> loss = symile_loss(image, text, audio, logit_scale=10.0, normalize=True)

    Source: Saporta et al. 2024, https://arxiv.org/abs/2411.01053; rajesh-lab/symile, symile/loss.py.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("negatives", negatives, get_args(Sampling))
    features = [upcast(x) for x in feature_batches("modalities", modalities, normalize)]
    first = features[0]
    scale = check.scalar("logit_scale", logit_scale, device=first.device)
    counted = Counted.of(weights, None, first)
    batch = GlobalBatch.of(
        engine.ranks, first.shape[0], facts=lambda: dict(**counted.facts(), modalities=len(features))
    )
    if negatives == "n":
        orders = row_orders(features, batch, generator, permutations)
    elif batch.ranks is not None:
        raise NotImplementedError("negatives='n_squared' is not offered with group")
    elif generator is not None or permutations is not None:
        raise ValueError("generator and permutations must be None with negatives='n_squared': it draws nothing")
    if batch.total <= 1:
        return reduced_empty(batch.n, reduction, first, *features[1:], scale)
    if negatives == "n":
        engine.memory_budget = (engine.memory_budget or 0) // len(features)
        margins = shuffled_margins(features, scale, orders, batch, engine)
    else:
        scale = upcast(check.as_tensor("logit_scale", scale, first))
        margins = tuple_margins(features, scale, memory_budget=engine.memory_budget or 0, backend=engine.backend)
    rows = softplus(margins).mean(0)
    return counted.reduced(batch, rows, reduction)


def row_orders(
    features: Sequence[Tensor], batch: GlobalBatch, generator: Generator | None, permutations: Tensor | None
) -> Tensor:
    """(k, k - 1, N) permutations of the non-anchor modalities, given or drawn anchor by anchor; the same on all ranks:
    those of the first."""
    k, n, device = len(features), batch.total, features[0].device
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if permutations is None:
        source = device if generator is None else generator.device
        # without a generator the argument is left out: its overload would bind an exported graph to this n
        draw = torch.randperm if generator is None else partial(torch.randperm, generator=generator)
        drawn = [draw(n, device=source) for _ in range(k * (k - 1))]
        return batch.from_first(torch.stack(drawn).view(k, k - 1, n).to(device))
    if generator is not None:
        raise ValueError("generator must be None where permutations are given")
    given = check.tensor("permutations", permutations)
    if given.dtype != torch.int64:
        raise TypeError(f"permutations must be int64, got {given.dtype}")
    if tuple(given.shape) != (k, k - 1, n):
        raise ValueError(f"permutations must have shape ({k}, {k - 1}, {n}), got {tuple(given.shape)}")
    check.same_device("permutations", given, device)
    if given.device.type == "cpu" and check.plain(given):  # else nobody looks, and sorting would be for nothing
        complete = given.sort(2).values == torch.arange(n)
        check.condition(
            lambda: f"permutations must hold every row number from 0 to {n - 1} once in each of their rows", complete
        )
    return given


def shuffled_margins(
    features: Sequence[Tensor], scale: float | Tensor, orders: Tensor, batch: GlobalBatch, engine: EngineOptions
) -> Tensor:
    """What a row's N - 1 shuffled tuples weigh against its true one, (k, N): log sum_negatives e^z - z_true."""
    true = scale * product_of(features).sum(1)
    every, own = [batch.gather(x) for x in features], slice(batch.offset, batch.offset + batch.n)
    margins = []
    for m, anchor in enumerate(features):
        others = [*every[:m], *every[m + 1 :]]
        # index_select, not indexing: its gradient has one term per row of a permutation and so a fixed order
        product = product_of([x.index_select(0, order) for x, order in zip(others, orders[m][:, own], strict=True)])
        # the diagonal belongs to the true tuple: without it, small losses come from no difference of large numbers
        stats = pair_stats(Pairs(anchor, product, scale, keep="other_index"), engine)
        margins.append(stats.rows - true)
    return torch.stack(margins)


def product_of(rows: Sequence[Tensor]) -> Tensor:
    product = rows[0]
    for x in rows[1:]:
        product = product * x
    return product


def mip_similarity(candidates: Tensor, queries: Sequence[Tensor], *, logit_scale: float | Tensor = 1.0) -> Tensor:
    """Multilinear inner products of every candidate with every tuple of queries, for retrieval and zero-shot use.

        s_ij = logit_scale sum_d c_j[d] prod_l q_l[i, d]

    Args:
        candidates: (M, D), the modality to find.
        queries: The other modalities, each (N, D), or (D,) for a row that all queries share.
        logit_scale: Multiplies the scores; a float or a 0-dim tensor.

    Returns: (N, M), or (1, M) where every query is a (D,) vector; float32 (float64 for float64 features). Dense plain
    torch, differentiable: for the sizes of retrieval, not of a training batch.

    Example:
        >>> mip_similarity(torch.randn(9, 16), [torch.randn(4, 16), torch.randn(4, 16)]).shape
        torch.Size([4, 9])

    Source: Saporta et al. 2024, https://arxiv.org/abs/2411.01053; rajesh-lab/symile, symile/similarity.py.
    """
    check.features("candidates", candidates)
    if isinstance(queries, Tensor) or not isinstance(queries, Sequence):
        raise TypeError(f"queries must be a list of tensors, one per modality, got {type(queries).__name__}")
    if not queries:
        raise ValueError("queries must hold at least one tensor, got an empty sequence")
    scale = check.scalar("logit_scale", logit_scale, device=candidates.device)
    rows = [query_rows(f"queries[{index}]", x, candidates) for index, x in enumerate(queries)]
    lengths = sorted({len(x) for x in rows} - {1})
    if len(lengths) > 1:
        raise ValueError(f"queries must have one number of rows, got {lengths}")
    product = product_of([upcast(x) for x in rows])
    dtype = torch.promote_types(product.dtype, upcast(candidates).dtype)
    return scale * matmul(product.to(dtype), candidates.to(dtype).T)


def query_rows(name: str, x: Tensor, candidates: Tensor) -> Tensor:
    """(N, D) or (1, D) rows of one query modality."""
    rows = check.tensor(name, x)
    rows = check.features(name, rows.unsqueeze(0) if rows.dim() == 1 else rows)
    check.same_width(name, rows, "candidates", candidates)
    check.same_device(name, rows, candidates.device)
    return rows

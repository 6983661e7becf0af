"""Documents of all ranks: segment reduces and late interaction, uneven and empty ranks, gradients to the owners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile import reference
from support.launch import gather_from

pytestmark = pytest.mark.dist
WORLD = 3
QUERIES, DOCUMENTS, LENGTHS = (2, 3, 0), (3, 0, 2), (4, 6, 5)  # of each rank; tokens of its longest document
D = 6
WAYS: dict[str, dict[str, Any]] = {
    "max": {}, "recomputed": {"keep_argmax": False}, "lse": {"document_reduce": "lse"},
    "mean": {"document_reduce": "softmax_mean", "reduce": "mean"},
}  # fmt: skip


def tokens(rank: int, n: int, length: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(10 * rank + seed)
    return F.normalize(torch.randn(n, length, D, generator=g, dtype=torch.float64), dim=2)


def kept(rank: int, long: int) -> Tensor:
    """Tokens of documents, padded to a length."""
    mask = torch.arange(long) < LENGTHS[rank] - torch.arange(DOCUMENTS[rank]).clamp_max(2)[:, None]
    return mask & (torch.arange(long) != 1)


def padded(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, 0, 0, length - x.shape[1]))


def compared(rank: int, form: str, options: dict[str, Any]) -> float:
    """Largest difference of scores and gradients from those of one process."""
    soft = (
        {"sharpness": torch.tensor(3.0, dtype=torch.float64).requires_grad_()} if "document_reduce" in options else {}
    )
    queries = [tokens(r, n, 3, 1).requires_grad_() for r, n in enumerate(QUERIES)]
    documents = [tokens(r, n, LENGTHS[r], 2).requires_grad_() for r, n in enumerate(DOCUMENTS)]
    weights = torch.randn(sum(QUERIES), sum(DOCUMENTS), 2, generator=torch.Generator().manual_seed(5)).double()
    own, mine = slice(sum(QUERIES[:rank]), sum(QUERIES[: rank + 1])), kept(rank, LENGTHS[rank])
    kinds = torch.where(mine, torch.arange(LENGTHS[rank]) % 2, -1)
    call = {**options, **soft, "group": "world"}
    q, d = (x[rank].detach().requires_grad_() for x in (queries, documents))
    if form == "modalities":
        scores = contrastile.modality_maxsim(q, d, kinds, 2, **call)
    elif form == "packed":
        offsets = F.pad(torch.arange(1, DOCUMENTS[rank] + 1) * LENGTHS[rank], (1, 0))
        flat = d.flatten(0, 1)
        if rank == 1:  # tokens of nobody
            flat, offsets = torch.ones(2, D).double().requires_grad_(), torch.ones(1, dtype=torch.int64)
        scores = contrastile.maxsim(q, flat, document_offsets=offsets, document_mask=ones(flat, mine), **call)
    else:
        scores = contrastile.maxsim(q, d, document_mask=mine, **call)
    wanted = [q, flat if form == "packed" and rank == 1 else d]
    value = (masked(scores) * weights[own, :, : scores.shape[2] if scores.dim() == 3 else 1].view_as(scores)).sum()
    grads = torch.autograd.grad(value, [*wanted, *soft.values()], allow_unused=True, materialize_grads=True)
    # one process
    shared = {name: x for name, x in options.items() if name != "keep_argmax"} | soft
    every, masks = torch.cat([padded(x, 6) for x in documents]), torch.cat([kept(r, 6) for r in range(WORLD)])
    if form == "modalities":
        all_kinds = torch.where(masks, torch.arange(6) % 2, -1)
        truth = reference.modality_maxsim(torch.cat(queries), every, all_kinds, 2, **shared)
    else:
        truth = reference.maxsim(torch.cat(queries), every, document_mask=masks, **shared)
    terms = masked(truth) * (weights if form == "modalities" else weights[..., 0])
    expected = list(torch.autograd.grad(terms.sum(), [queries[rank], documents[rank]], retain_graph=True))
    if form == "packed" and rank == 1:
        expected[1] = torch.zeros_like(flat)
    expected += torch.autograd.grad(terms[own].sum(), list(soft.values())) if soft else []
    errors = [largest(scores - truth[own]), *(largest(x - y) for x, y in zip(grads, expected, strict=True))]
    return max(errors)


def ones(flat: Tensor, mask: Tensor) -> Tensor:
    return torch.ones(len(flat), dtype=torch.bool) if len(flat) != mask.numel() else mask.flatten()


def masked(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores == -torch.inf, 0.0)


def largest(x: Tensor) -> float:
    return x.nan_to_num(0.0).abs().amax().item() if x.numel() else 0.0


def everything(rank: int) -> dict[str, float]:
    return {
        f"{form} {way}": compared(rank, form, options)
        for form in ("padded", "packed", "modalities")
        for way, options in WAYS.items()
    }


def refusals(rank: int) -> dict[str, str]:
    """What differs between ranks is refused on every rank, and a rank's own error reaches the others."""
    found = {}
    rows, cols = torch.randn(3, 4), torch.randn(4, 4)
    for name, options in {
        "reduce": {"reduce": "lse" if rank else "max"}, "mask": {"mask": torch.ones(4).bool() if rank else None},
        "offsets": {"segments": torch.tensor([0, 9 if rank == 1 else 4])},
    }.items():  # fmt: skip
        try:
            contrastile.segment_reduce(rows, cols, **{"segments": 2, **options}, group="world")
        except (ValueError, RuntimeError) as error:
            found[name] = str(error)
    return found


def test_documents_of_all_ranks():
    for errors in gather_from(WORLD, everything):
        assert errors and all(error < 1e-12 for error in errors.values()), errors


def test_ranks_that_disagree_are_told():
    for rank, said in enumerate(gather_from(WORLD, refusals)):
        assert "all ranks must give the same reduce" in said["reduce"]
        assert "all ranks must give the same mask" in said["mask"]
        assert ("do not decrease" if rank == 1 else "rank 1 refused its arguments") in said["offsets"]

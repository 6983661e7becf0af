"""Late interaction across ranks beyond the catalog: packed documents, more of them than queries, a teacher's scores of
the documents of all ranks, blocks; and what ranks refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from contrastile import late_interaction_info_nce, reference
from contrastile.losses import score_contrast
from support.launch import gather_from
from support.sharding import span

pytestmark = pytest.mark.dist
QUERIES, DOCUMENTS, T, U, D = (3, 0, 2), (4, 1, 2), 3, 4, 6


def inputs() -> tuple[Tensor, ...]:
    """Queries and documents of all ranks; each rank's first documents are its queries'."""
    g = torch.Generator().manual_seed(0)
    q, d = (
        F.normalize(torch.randn(sum(n), u, D, generator=g).double(), dim=2) for n, u in ((QUERIES, T), (DOCUMENTS, U))
    )
    mask = torch.arange(U) < torch.randint(1, U + 1, (sum(DOCUMENTS), 1), generator=g)
    ids, document_ids = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, 1, 2, 3, 9, 3, 0])
    teacher = torch.randn(sum(QUERIES), sum(DOCUMENTS), generator=g).double()
    return q.requires_grad_(), d.requires_grad_(), mask, ids, document_ids, teacher


# the documents that are queries' come first in the reference
ORDER = torch.tensor([0, 1, 2, 5, 6, 3, 4])
OPTIONS: dict[str, dict[str, Any]] = {
    "ids": {"direction": "mean"}, "teacher": {"teacher_weight": 0.5}, "packed": {"direction": "sum"},
    "retrieved": {"top_k": 3}, "blocks": {"direction": "mean", "memory_budget": 0},
}  # fmt: skip


def run(rank: int) -> dict[str, Any]:
    score_contrast.WORKSPACE = 8 * 3 * T * 2
    found = {}
    for name, options in OPTIONS.items():
        q, d, mask, ids, document_ids, teacher = inputs()
        mine, own = span(QUERIES, rank), span(DOCUMENTS, rank)
        given: dict[str, Any] = {"query_ids": ids[mine], "document_ids": document_ids[own], **options}
        documents = d[own]
        if name == "teacher":
            given["teacher_scores"] = teacher[mine]
        if name == "packed":
            documents = documents[mask[own]]
            given["document_offsets"] = F.pad(mask[own].sum(1).cumsum(0), (1, 0))
        else:
            given["document_mask"] = mask[own]
        loss = late_interaction_info_nce(q[mine], documents, group="world", **given)
        grads = torch.autograd.grad(loss, (q, d), allow_unused=True)
        total = [
            loss.detach().clone(),
            *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, (q, d), strict=True)),
        ]
        for x in total:
            dist.all_reduce(x)
        found[name] = [x / len(QUERIES) for x in total]
    return found


@pytest.fixture(scope="module")
def found() -> list[Any]:
    return gather_from(len(QUERIES), run)


@pytest.mark.parametrize("name", OPTIONS)
def test_three_uneven_ranks(found, name):
    q, d, mask, ids, document_ids, teacher = inputs()
    options = {key: x for key, x in OPTIONS[name].items() if key != "memory_budget"}
    if name == "teacher":
        options["teacher_scores"] = teacher[:, ORDER]
    loss = reference.late_interaction_info_nce(
        q, d[ORDER], document_mask=mask[ORDER], query_ids=ids, document_ids=document_ids[ORDER], **options
    )
    expected = [loss, *torch.autograd.grad(loss, (q, d))]
    for result in found:
        for x, y in zip(result[name], expected, strict=True):
            torch.testing.assert_close(x, y.detach(), rtol=1e-10, atol=1e-12)


def widths(rank: int) -> str:
    """One rank's documents have another number of tokens."""
    try:
        late_interaction_info_nce(torch.ones(2, T, D), torch.ones(2, U + (rank == 1), D), group="world")
    except ValueError as error:
        return str(error)
    return "accepted"


def test_ranks_agree_on_tokens():
    for message in gather_from(2, widths):
        assert "tokens" in message and "4" in message and "5" in message

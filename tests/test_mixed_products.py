"""Halves multiplied into float32, as torch's tensor-core products on a GPU do: here the CPU stands in for them, with
operators of the same schema, so that what the torch backend makes of them is shown without a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from contrastile import driver, info_nce, pair_loss
from contrastile.backends import products, torch_tiles
from contrastile.spec import Limits
from contrastile.testing import check_card
from support import distances
from support.cases import EXTRAS, make_call
from support.combinations import by_default, each_once, in_turn
from support.loss_cases import PAIR_LOSSES, id_of
from support.oracle import check, check_float16_range
from support.rules import KEEPS, POSITIVES

HALVES = (torch.bfloat16, torch.float16)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=lambda x: str(x).removeprefix("torch."))

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.aten.mm, "dtype_out"), reason="torch 2.8 brought the operators")


def wide(x: Tensor, y: Tensor, out_dtype: torch.dtype) -> Tensor:
    assert x.dtype == y.dtype and x.dtype in HALVES and out_dtype == torch.float32
    return x.float() @ y.float()


@pytest.fixture(params=[True, False], ids=["in place", "through a second matrix"])
def ran(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each operator ran."""
    counts: Counter[str] = Counter()

    def mm(x: Tensor, y: Tensor, out_dtype: torch.dtype) -> Tensor:
        counts["mm"] += 1
        return wide(x, y, out_dtype)

    def mm_out(x: Tensor, y: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        counts["mm_out"] += 1
        return out.copy_(wide(x, y, out_dtype))

    def addmm_out(to: Tensor, x: Tensor, y: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        counts["addmm_out"] += 1
        return out.copy_(to + wide(x, y, out_dtype))

    library = torch.library.Library("aten", "IMPL")
    for name, operator in (("mm.dtype", mm), ("mm.dtype_out", mm_out), ("addmm.dtype_out", addmm_out)):
        library.impl(name, operator, "CPU")
    for module in (products, torch_tiles):
        monkeypatch.setattr(module, "mixed_product", lambda device, dtype: dtype in HALVES)
    if request.param:
        assert products.writes_in_place.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(products, "writes_in_place", lambda device: request.param)
    counts.clear()
    yield counts
    library._destroy()


@each_half
@pytest.mark.parametrize("reduce", ["lse", "softplus", "relu", "max"])
@pytest.mark.parametrize("turn", by_default(range(2 * len(POSITIVES)), 0))
def test_every_keep_and_positives(ran, dtype, reduce, turn):
    for keep, (positives, blocks) in in_turn(KEEPS, list(product(POSITIVES, (1, 2))), turn):
        options = {"reduce": reduce, "keep": keep, "cols": True} | ({} if reduce == "max" else {"positives": positives})
        check(make_call(37, 53, 19, dtype, *EXTRAS, blocks=blocks, **options), backend="torch")
    assert ran["mm"] or ran["mm_out"]


@each_half
@pytest.mark.parametrize("m", [120, None])
@pytest.mark.parametrize("turn", by_default(range(4), 0))
def test_many_pieces(ran, dtype, m, turn, monkeypatch):
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 40 * 64, 40, 40, 32))
    for keep, (cols, budget) in in_turn(KEEPS, list(product((False, True), (0, 10_000))), turn):
        call = make_call(90, m, 6, dtype, *EXTRAS[:4], keep=keep, positives="same_id", cols=cols)
        check(call, backend="torch", memory_budget=budget)


@each_half
@pytest.mark.parametrize("score", distances.SCORES)
def test_every_score(ran, dtype, score):
    for tiles, offset in ((1, True), (2, False), (3, True)):
        distances.check(distances.problem(13, 33, 5, tiles, dtype, offset), score, offset, backend="torch")


@pytest.mark.parametrize("card, dtype", each_once(PAIR_LOSSES, HALVES), ids=id_of)
def test_losses_of_the_catalog(ran, card, dtype):
    found = check_card(card, "torch", dtype, 40, 12)
    assert found.ok, found.detail


@each_half
def test_no_product_widens_its_factors(ran, dtype, monkeypatch):
    """Three products of a loss and its gradients, all by tensor cores, and score gradients of the features' type."""
    kinds, put = [], torch_tiles.set_float_product
    monkeypatch.setattr(
        torch_tiles, "set_float_product", lambda o, x, y: kinds.append((x.dtype, y.dtype)) or put(o, x, y)
    )
    a, b = (torch.nn.functional.normalize(torch.randn(40, 16), dim=1).to(dtype).requires_grad_() for _ in range(2))
    pair_loss(a, b, scale=5.0, backend="torch").backward()
    assert kinds == [(dtype, dtype)] * 2
    assert sum(ran.values()) == 3


@pytest.mark.parametrize("weight", [1e-7, 1.0, 1e7])
def test_float16_score_gradients_neither_underflow_nor_overflow(ran, weight):
    check_float16_range(weight, "torch")


def test_float64_and_float32_are_multiplied_as_they_are(ran):
    for dtype in (torch.float32, torch.float64):
        check(make_call(37, 53, 19, dtype, *EXTRAS, positives="same_index", cols=True), backend="torch")
    assert not ran


def test_float16_is_widened_where_torch_was_told_to_add_up_in_float16(monkeypatch):
    """torch refuses to give such sums out as float32."""
    device = torch.device("cuda")
    monkeypatch.setattr(products, "mixed_products", lambda device: True)
    assert all(products.mixed_product(device, dtype) for dtype in HALVES)
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    try:
        assert [products.mixed_product(device, dtype) for dtype in HALVES] == [True, False]
        assert torch_tiles.TorchBackend().compute_dtype(torch.float16, device) == torch.float32
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = False


def test_small_slopes_do_not_underflow_in_chunks(ran, monkeypatch):
    """A converged model's slopes, known after a chunk's statistics, are far below the smallest float16 number."""
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 40 * 96, 40, 40, 32))
    n, scale, upstream = 96, 36.0, 2.0**30
    image = torch.eye(n).half().requires_grad_()
    text = (torch.eye(n) + 1e-3 * torch.rand(n, n, generator=torch.Generator().manual_seed(2))).half()
    loss = info_nce(image, text, temperature=1 / scale, reduction="sum", backend="torch")
    (found,) = torch.autograd.grad(loss * upstream, image)
    z = scale * image.detach().double() @ text.double().T
    share = z.softmax(1).fill_diagonal_(0.0)
    share = share - share.sum(1).diag()
    right = upstream * scale * share @ text.double()
    assert (found.double() - right).norm() < 2.0**-9 * right.norm()

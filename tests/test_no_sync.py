"""Losses never wait for a device: nothing reads a value back, and nothing made on the host is copied over.

The device is torch's meta device, which has no values to read, so it stands for any GPU. The kernels of triton and cuda
are left out there; what Python does around them is what is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import contrastile
from contrastile.backends import cuda as cuda_module
from contrastile.backends import triton_segments
from contrastile.metrics import InBatch
from contrastile.ops import basis, gathered, hardest, library, multilinear, segment_operators
from support.combinations import crossed, each_once
from support.loss_cases import (
    PAIR_LOSSES,
    call,
    default,
    differentiable,
    each_tensor,
    every_variant,
    every_variant_once,
    id_of,
    make,
    moved,
    takes,
)

READS = (
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount", "histc",
    # these look at what the solver reports
    "linalg_eigh", "_linalg_eigh", "linalg_eigvalsh", "linalg_svd", "_linalg_svd", "linalg_cholesky", "linalg_inv",
    "linalg_solve",
)  # fmt: skip
IMPLEMENTATIONS = {
    "pair_loss": library.pair_loss,
    "pair_stats": library.pair_stats,
    "pair_stats_backward": library.pair_stats_backward,
    "basis": basis.basis_forward,
    "basis_backward": basis.basis_backward,
    "segment_maxima": segment_operators.maxima,
    "segment_maxima_backward": segment_operators.maxima_backward,
    "segment_softmax": segment_operators.softmax,
    "segment_softmax_backward": segment_operators.softmax_backward,
    "gathered_dots": gathered.forward_dots,
    "gathered_dots_backward": gathered.backward_dots,
    "hardest": hardest.hardest_operator,
    "tuple_margins": multilinear.margins_forward,
    "tuple_margins_backward": multilinear.margins_backward,
}
WAITS = {"pmrl_loss": "linalg_eigh"}  # losses that do wait, and for what
COPIES = ("_to_copy", "to", "copy_", "_copy_from")


class Watch(TorchDispatchMode):
    """Fails where an operator waits for the device; runs this package's operators through their Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if func.namespace == "contrastile":
            with self:
                return IMPLEMENTATIONS[name](*args, **kwargs)
        assert name not in READS, f"{func} reads a value"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} counts the true elements of a mask"
        assert name != "repeat_interleave" or "output_size" in kwargs or isinstance(args[1], int), f"{func} sums counts"
        devices = {x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor)} | {
            torch.device(x) for x in (*args, *kwargs.values()) if isinstance(x, torch.device)
        }
        assert name not in COPIES or len(devices) <= 1, f"{func} copies between {devices}"
        return func(*args, **kwargs)


class NothingFromTheHost(TorchFunctionMode):
    """torch.tensor(x, device=...) copies from unpinned memory: it waits, and no CUDA graph can hold it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], Tensor):
            device = torch.device(kwargs.get("device") or "cpu")
            assert device.type == "cpu", f"{func.__name__} copies from the host to {device}"
        return func(*args, **kwargs)


def needs(backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")


def on(device: str, case: Any) -> Any:
    return differentiable(moved(case, device))


def watched(card: Any, case: Any, **options: Any) -> None:
    waits = WAITS.get(card.name)
    with pytest.raises(AssertionError, match=waits) if waits else nullcontext(), NothingFromTheHost(), Watch():
        call(card, case, **options).sum().backward()


@every_variant_once("device", ["cpu", "meta"])
def test_no_loss_waits_for_the_device(card, variant, device):
    watched(card, on(device, make(card, variant, 9, 6)), **({"backend": "torch"} if takes(card, "backend") else {}))


@pytest.mark.parametrize(
    "card, backend, dtype, reduction",
    each_once(
        crossed(PAIR_LOSSES, ("torch", "triton", "cuda")), crossed((torch.float32, torch.bfloat16), ("mean", "none"))
    ),
    ids=id_of,
)
def test_no_backend_waits_for_the_device(card, backend, dtype, reduction, kernels_left_out):
    """More rows than one chunk of the torch backend."""
    needs(backend)
    options = {"reduction": reduction} if takes(card, "reduction") else {}
    case = each_tensor(default(card, 900, 16), lambda x: x.to(dtype) if x.dim() > 1 else x)
    watched(card, on("meta", case), backend=backend, **options)


@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_report_does_not_wait_for_the_device(backend, reduction, kernels_left_out):
    needs(backend)
    card, report = next(card for card in PAIR_LOSSES if card.name == "clip_loss"), InBatch()
    watched(card, on("meta", default(card, 900, 16)), backend=backend, reduction=reduction, report=report)
    assert all(x.is_meta for x in vars(report).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=id_of)
@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
def test_maxsim_does_not_wait_for_the_device(backend, dtype, kernels_left_out, monkeypatch):
    """With padding on both sides; also segments of any length, but on `torch`, whose reduction the device has not."""
    needs(backend)
    if backend == "triton":
        from contrastile.triton_kernels import segments as kernels

        for name in ("reduce", "score_grad"):
            monkeypatch.setattr(kernels, name, defaultdict(lambda: lambda *args, **options: None))
        monkeypatch.setattr(triton_segments, "architecture", lambda device: "sm_90")
        monkeypatch.setattr(triton_segments, "copies_tensors", lambda device, kind: True)
        monkeypatch.setattr(triton_segments, "on_device", lambda device: nullcontext())
    if backend == "cuda":
        monkeypatch.setattr(cuda_module.CudaBackend, "place", lambda self, device: (0, 0))
    q, d = (torch.empty(n, 70, 16, dtype=dtype, device="meta", requires_grad=True) for n in (5, 2))
    masks = {name: torch.empty(n, 70, dtype=torch.bool, device="meta") for name, n in (("query", 5), ("document", 2))}
    own = torch.empty(5, 2, 70, 16, dtype=dtype, device="meta", requires_grad=True)
    offsets = torch.empty(3, dtype=torch.int64, device="meta")
    rows, cols = q.flatten(0, 1), d.flatten(0, 1)
    sharpness = torch.empty((), device="meta", requires_grad=True)
    soft = {"document_reduce": "softmax_mean", "sharpness": sharpness}
    for options in ({}, soft):
        with NothingFromTheHost(), Watch():
            contrastile.maxsim(
                q, d, query_mask=masks["query"], document_mask=masks["document"], backend=backend, **options
            ).sum().backward()
            contrastile.maxsim_candidates(q, own, backend=backend, **options).sum().backward()
            if backend != "torch":
                contrastile.maxsim(q, cols, document_offsets=offsets, backend=backend, **options).sum().backward()
    if backend != "torch":
        with NothingFromTheHost(), Watch():
            contrastile.segment_reduce(rows, cols, offsets, keep_argmax=False, backend=backend).sum().backward()


@pytest.mark.parametrize("kind", ["mask", "index"])
def test_private_candidates_do_not_wait_for_the_device(kind):
    x, y, bank = (torch.empty(n, 8, device="meta", requires_grad=True) for n in (5, 5, 9))
    with NothingFromTheHost(), Watch():
        if kind == "mask":
            features, mask = torch.empty(5, 4, 8, device="meta"), torch.empty(5, 4, dtype=torch.bool, device="meta")
            own = contrastile.Candidates(features, mask, bias=0.5)
        else:
            own = contrastile.Candidates.of_bank(bank, torch.empty(5, 4, dtype=torch.int64, device="meta"))
        contrastile.info_nce(x, y, hard_negatives=own, label_smoothing=0.1, backend="torch").backward()
        contrastile.grouped_info_nce(x, y, own).backward()


@every_variant
def test_numbers_are_not_copied_to_the_device(card, variant):
    """Temperatures and scales as plain numbers, as most callers give them."""

    def number(x: Any) -> Any:
        return float(x) if isinstance(x, Tensor) and x.dim() == 0 else x

    case = make(card, variant, 9, 6)
    kwargs = {name: number(x) for name, x in case.kwargs.items()}
    case = replace(case, args=tuple(map(number, case.args)), kwargs=kwargs)
    watched(card, on("meta", case), **({"backend": "torch"} if takes(card, "backend") else {}))


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.masked_select(x > 0),
    ],
)
def test_the_watch_sees_what_waits(waits):
    with Watch(), pytest.raises(AssertionError):
        waits(torch.ones(3))


def test_the_watch_sees_copies_from_the_host():
    with NothingFromTheHost(), pytest.raises(AssertionError):
        torch.tensor(0.5, device="meta")
    with Watch(), pytest.raises(AssertionError):
        torch.ones(3).to("meta")


def test_the_watch_sees_into_the_operators(monkeypatch):
    """Reading a value inside the engine is found, too."""
    original = library.driver.scalar

    def reading(*args: Any) -> Any:
        found = original(*args)
        found[0].item()
        return found

    monkeypatch.setattr(library.driver, "scalar", reading)
    with Watch(), pytest.raises(AssertionError, match="reads a value"):
        contrastile.info_nce(torch.ones(3, 2), torch.ones(3, 2), backend="torch")

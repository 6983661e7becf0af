"""Products of features that give float32, whatever the features' type, on every device torch has."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def mixed_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies this type into float32; else it is widened first. Sums in float16, which a switch of
    torch's allows, are nobody's wish here, and torch refuses to give them out as float32."""
    narrow_sums = dtype == torch.float16 and getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False)
    return dtype in HALVES and not narrow_sums and mixed_products(device)


def mixes(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and mixed_product(x.device, x.dtype)


@cache
def mixed_products(device: torch.device) -> bool:
    """torch >= 2.8 on CUDA devices with tensor cores for bfloat16."""
    there = device.type == "cuda" and torch.version.hip is None and hasattr(torch.ops.aten.mm, "dtype")
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


def float_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y in float32 (float64 of float64), products and sums not rounded to half precision."""
    if x.dtype == y.dtype and x.dtype not in HALVES:
        return torch.mm(x, y)
    if mixes(x, y):
        return torch.mm(x, y, out_dtype=torch.float32)
    return x.float() @ y.float()


@cache
def writes_in_place(device: torch.device) -> bool:
    """Whether torch writes and adds products of halves to a float32 matrix; early versions of the overloads refuse."""
    if not all(hasattr(operator, "dtype_out") for operator in (torch.ops.aten.mm, torch.ops.aten.addmm)):
        return False
    x = torch.zeros(16, 16, dtype=torch.bfloat16, device=device)
    out = x.float()
    try:
        torch.ops.aten.mm.dtype_out(x, x, torch.float32, out=out)
        torch.ops.aten.addmm.dtype_out(out, x, x, torch.float32, out=out)
    except torch.OutOfMemoryError:
        raise  # says nothing about the operators
    except RuntimeError:
        return False
    return True


def set_float_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out = float_product(x, y), without a second matrix where torch can."""
    if x.dtype == y.dtype == out.dtype:
        torch.mm(x, y, out=out)
    elif mixes(x, y) and writes_in_place(x.device):
        torch.ops.aten.mm.dtype_out(x, y, torch.float32, out=out)
    else:
        out.copy_(float_product(x, y))


def add_float_product(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out += float_product(x, y), without a second matrix where torch can."""
    if x.dtype == y.dtype == out.dtype:
        out.addmm_(x, y)
    elif mixes(x, y) and writes_in_place(x.device):
        torch.ops.aten.addmm.dtype_out(out, x, y, torch.float32, out=out)
    elif mixes(x, y):
        out.add_(float_product(x, y))
    else:
        out.addmm_(x.float(), y.float())


def feature_gradients(
    a: Tensor, b: Tensor, grad: Tensor, rows: bool, cols: bool, square: bool
) -> tuple[Tensor | None, Tensor | None]:
    """(G b, G^T a), those that are wanted, with a (n, d), b (m, d) and G (n, m) or (1, n, m), or of tiles (t, m, d) and
    (t, n, m), whose products with b add up. In a square call, where b is a, (their sum, None)."""
    if b.dim() == 2:
        grad = grad if grad.dim() == 2 else grad[0]
        found = float_product(grad, b) if rows else None
        if square:
            if found is not None:
                add_float_product(found, grad.T, a)
            return found, None
        return found, float_product(grad.T, a) if cols else None
    total = float_product(grad[0], b[0]) if rows else None
    each = torch.empty(b.shape, dtype=torch.float32, device=b.device) if cols else None
    for tile, (score_gradients, directions) in enumerate(zip(grad, b, strict=True)):
        if total is not None and tile:
            add_float_product(total, score_gradients, directions)
        if each is not None:
            set_float_product(each[tile], score_gradients.T, a)
    return total, each

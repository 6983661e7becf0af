"""A dense float64 oracle of pair_reduce and pair_loss, and an error budget for each number.

The oracle is written from the docstrings. The budget is a rounding analysis of the very data,
element by element: z is off by about eps * |z| (with all signs positive, as sums may cancel), a
slope by that much times itself, and gradients of features once more by the rounding of score gradients
to the type they are multiplied in. ROUNDINGS is the only free constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import PairStats, pair_loss, pair_reduce
from contrastile.testing import EPS, SMALLEST

ROUNDINGS = 4.0  # how many worst-case roundings of one product, sum or exponential may meet in a number
VECTORS = ("scale", "col_scale", "row_bias", "col_bias")  # options that take gradients
STATISTICS = ("rows", "cols", "row_positives", "col_positives")
APART = ("row_negatives", "col_negatives", "row_positives_lse", "col_positives_lse")
COUNTS = ("row_kept", "col_kept", "row_positive_count", "col_positive_count")


@dataclass(frozen=True)
class Call:
    """Arguments of pair_reduce: b is a tuple of column blocks, or None for a itself."""

    a: Tensor
    b: tuple[Tensor, ...] | None
    options: dict[str, Any] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()  # names of tensors that take no gradient

    def tensors(self) -> dict[str, Tensor]:
        """What could take a gradient; a bias that serves rows and columns appears once."""
        found = {"a": self.a} | {f"b[{i}]": x for i, x in enumerate(self.b or ())}
        given = {name: x for name in VECTORS if isinstance(x := self.options.get(name), Tensor)}
        if self.shared_bias():
            del given["col_bias"]
        return found | given

    def leaves(self) -> list[str]:
        return [name for name in self.tensors() if name not in self.constant]

    def shared_bias(self) -> bool:
        bias = self.options.get("row_bias")
        return bias is not None and bias is self.options.get("col_bias")

    def using(self, tensors: dict[str, Tensor]) -> Call:
        b = None if self.b is None else tuple(tensors[f"b[{i}]"] for i in range(len(self.b)))
        options = self.options | {name: x for name, x in tensors.items() if name in VECTORS}
        if self.shared_bias():
            options["col_bias"] = options["row_bias"]
        return replace(self, a=tensors["a"], b=b, options=options)

    def compute_dtype(self) -> torch.dtype:
        dtype = self.a.dtype
        for x in self.b or ():
            dtype = torch.promote_types(dtype, x.dtype)
        return self.options.get("compute_dtype") or dtype

    def stat_dtype(self) -> torch.dtype:
        return torch.float64 if self.a.dtype == torch.float64 else torch.float32

    def to(self, device: str | torch.device) -> Call:
        """The call on another device; one tensor given twice stays one."""
        moved: dict[int, Tensor] = {}

        def move(x: Any) -> Any:
            if isinstance(x, list):
                return list(map(move, x))
            return moved.setdefault(id(x), x.to(device)) if isinstance(x, Tensor) else x

        b = None if self.b is None else tuple(map(move, self.b))
        return replace(self, a=move(self.a), b=b, options={name: move(x) for name, x in self.options.items()})

    def double(self) -> Call:
        """The same call in float64 on the values the engine multiplies."""
        compute = self.compute_dtype()
        tensors = {
            name: (x.detach().to(compute) if name[0] in "ab" else x.detach()).double()
            for name, x in self.tensors().items()
        }
        return self.using(tensors)


@dataclass(frozen=True)
class Result:
    values: dict[str, Tensor]
    grads: dict[str, Tensor]

    def cpu(self) -> Result:
        parts = ({name: x.cpu() for name, x in part.items()} for part in (self.values, self.grads))
        return Result(*parts)


# ---- the docstring of pair_reduce


def logits(call: Call, absolute: bool = False) -> Tensor:
    """z_ij = scale_i * col_scale_j * <a_i, b_j> + row_bias_i + col_bias_j, (2, N, M): as rows and as columns see it.
    own_scales: with the scale of that side alone."""
    a, b = call.a, call.a if call.b is None else torch.cat(call.b)
    scale, col_scale = call.options.get("scale", 1.0), call.options.get("col_scale")
    if not isinstance(scale, Tensor) and absolute:
        scale = abs(scale)
    row = scale.unsqueeze(1) if isinstance(scale, Tensor) and scale.dim() else scale
    col = 1.0 if col_scale is None else col_scale
    bias = a.new_zeros(())
    for name, dim in (("row_bias", 1), ("col_bias", 0)):
        if (x := call.options.get(name)) is not None:
            bias = bias + x.unsqueeze(dim)
    both = (row, col) if call.options.get("own_scales") else (row * col, row * col)
    return torch.stack([(a @ b.T) * scale + bias for scale in both])


def operand(call: Call, name: str) -> tuple[Tensor, Tensor]:
    """What a test compares, of rows and of all columns; a block without it is unlike every row."""
    row = call.options[f"row_{name}"]
    col = row if call.b is None else call.options[f"col_{name}"]
    if isinstance(col, (list, tuple)):
        unlike = False if name == "labels" else 1 << 40
        col = torch.cat([
            torch.full((len(b), *row.shape[1:]), unlike, dtype=row.dtype) if x is None else x
            for x, b in zip(col, call.b, strict=True)
        ])  # fmt: skip
    return row, col


def passes(call: Call, rule: Any, n: int, m: int) -> Tensor:
    """Which pairs pass every test of a rule."""
    found = torch.ones(n, m, dtype=torch.bool)
    for test in (rule,) if isinstance(rule, str) else rule:
        kind = test.rpartition("_")[2]
        if kind == "partner":
            equal = at_partners(call, torch.ones(call.options["partner"].shape), m) > 0
        elif kind == "index":
            equal = torch.arange(n)[:, None] == torch.arange(m)
        elif kind == "order":
            row, col = (x.double() if x.is_floating_point() else x for x in operand(call, "order"))
            equal = col < row[:, None]
        elif kind == "label":
            row, col = operand(call, "labels")
            equal = (row.double() @ col.double().T) > 0
        else:
            row, col = operand(call, f"{kind}s")
            equal = row[:, None] == col
        found &= ~equal if test.startswith(("other", "no_")) else equal
    return found


def at_partners(call: Call, values: Tensor, m: int) -> Tensor:
    """(n, m): the values of every partner, where it is."""
    found = torch.zeros(len(values), m, dtype=torch.float64)
    for i, (columns, own) in enumerate(zip(call.options["partner"].tolist(), values.tolist(), strict=True)):
        for column, value in zip(columns, own, strict=True):
            if column >= 0:
                found[i, column] += value
    return found


def rules(call: Call, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs each row keeps, which each column keeps, which are positive."""
    n, m = z.shape[1:]
    none = torch.zeros(n, m, dtype=torch.bool)
    rule, positives = call.options.get("keep", "all"), call.options.get("positives")
    keep = ~none if rule == "all" else passes(call, rule, n, m)
    if (mask := call.options.get("mask")) is not None:
        keep = keep & mask
    if positives == "kept":
        return *limited(call, z, keep, none), keep
    positive = none if positives is None else passes(call, positives, n, m)
    if call.b is None:
        positive = positive & ~torch.eye(n, m, dtype=torch.bool)  # an item is never its own positive
    return *limited(call, z, keep, positive), positive


def limited(call: Call, z: Tensor, keep: Tensor, positive: Tensor) -> list[Tensor]:
    """What rows keep and what columns keep: low < z <= high."""
    keeps = []
    for name, dim, own in (("row", 1, z[0]), ("col", 0, z[1])):
        inside = keep
        if (high := call.options.get(f"{name}_high")) is not None:
            inside = inside & (own <= high.double().unsqueeze(dim))
        if (low := call.options.get(f"{name}_low")) is not None:
            inside = inside & (own > low.double().unsqueeze(dim))
        keeps.append(inside | positive if call.options.get("keep_positives") else inside)
    return keeps


def reduced(reduce: str, z: Tensor, keep: Tensor, dim: int) -> Tensor:
    if reduce == "softplus":
        return torch.where(keep, torch.logaddexp(z, torch.zeros_like(z)), 0.0).sum(dim)
    if reduce == "relu":
        return torch.where(keep, F.relu(z), 0.0).sum(dim)
    z = z.masked_fill(~keep, -torch.inf)
    if reduce == "lse":
        return z.logsumexp(dim)
    nothing = z.new_full((z.shape[0], 1) if dim else (1, z.shape[1]), -torch.inf)
    return torch.cat([z, nothing], dim).max(dim).values  # the first of equals


def statistics(call: Call, z: Tensor) -> dict[str, Tensor]:
    keep_rows, keep_cols, positive = rules(call, z.detach())
    reduce = call.options.get("reduce", "lse")
    term = torch.logaddexp(-z, torch.zeros_like(z)) if reduce == "softplus" else z
    if (share := call.options.get("share")) is not None:
        term = term * at_partners(call, share, z.shape[2])
    chosen = torch.where(positive, term, 0.0)
    found = {"rows": reduced(reduce, z[0], keep_rows, 1)}
    if call.options.get("cols"):
        found["cols"] = reduced(reduce, z[1], keep_cols, 0)
    if call.options.get("positives"):
        found["row_positives"] = chosen[0].sum(1)
        if call.options.get("cols"):
            found["col_positives"] = chosen[1].sum(0)
    if call.options.get("split"):
        for side, keep, dim in (("row", keep_rows, 1), ("col", keep_cols, 0)):
            if f"{side}s" in found:
                found[f"{side}_negatives"] = reduced("lse", z[1 - dim], keep & ~positive, dim)
                found[f"{side}_positives_lse"] = reduced("lse", z[1 - dim], keep & positive, dim)
    return found


def counts(call: Call) -> dict[str, Tensor]:
    call = call.double()
    keep_rows, keep_cols, positive = rules(call, logits(call).detach())
    found = {"row_kept": keep_rows.sum(1), "row_positive_count": positive.sum(1)}
    if call.options.get("cols"):
        found |= {"col_kept": keep_cols.sum(0), "col_positive_count": positive.sum(0)}
    return found


def largest_negatives(call: Call) -> dict[str, Tensor]:
    call = call.double()
    z = logits(call).detach()
    keep_rows, keep_cols, positive = rules(call, z)
    found = {"row_negative_max": reduced("max", z[0], keep_rows & ~positive, 1)}
    if call.options.get("cols"):
        found["col_negative_max"] = reduced("max", z[1], keep_cols & ~positive, 0)
    return found


# ---- truth and budget


def upstream(call: Call, seed: int = 7) -> dict[str, Tensor]:
    """A weight of either sign for every statistic: its upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    found = statistics(call.double(), logits(call.double()))
    return {
        name: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(call.stat_dtype())
        for name, x in found.items()
    }


def differentiated(
    outputs: Iterable[Tensor], weights: Iterable[Tensor], leaves: dict[str, Tensor]
) -> dict[str, Tensor]:
    pairs = [(x, w.to(x.dtype)) for x, w in zip(outputs, weights, strict=True) if x.requires_grad]
    if pairs:
        torch.autograd.backward([x for x, _ in pairs], [w for _, w in pairs])
    return {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}


def with_leaves(call: Call) -> tuple[Call, dict[str, Tensor]]:
    """The call on new leaves with the strides and offsets of its tensors."""
    names = call.leaves()
    tensors = {name: x.detach().requires_grad_(name in names) for name, x in call.tensors().items()}
    return call.using(tensors), {name: tensors[name] for name in names}


def oracle(call: Call, weights: dict[str, Tensor]) -> tuple[Result, Result]:
    """Truth and budget."""
    exact, leaves = with_leaves(call.double())
    z = logits(exact)
    if z.requires_grad:
        z.retain_grad()
    values = statistics(exact, z)
    grads = differentiated(values.values(), weights.values(), leaves)
    truth = Result({name: x.detach() for name, x in values.items()}, grads)
    dz = torch.zeros_like(z) if z.grad is None else z.grad
    return truth, budget(call, truth, weights, z.detach(), dz)


def budget(call: Call, truth: Result, weights: dict[str, Tensor], z: Tensor, dz: Tensor) -> Result:
    low = ROUNDINGS * EPS[call.stat_dtype()]
    double = call.double()
    absolute, leaves = with_leaves(double.using({name: x.abs() for name, x in double.tensors().items()}))
    size = logits(absolute, absolute=True)
    largest = size.max().item() if size.numel() else 0.0
    values, score_gradient = {}, torch.zeros_like(z)
    for name, x in truth.values.items():
        dim = 1 if name.startswith("row") else 0
        slope = slopes(double, z, name)  # on the other side 0
        one = 1.0 if name in ("rows", "cols", *APART) and call.options.get("reduce", "lse") == "lse" else 0.0
        finite = torch.where(x.isfinite(), x, 0.0)
        rounding = low * ((slope * size.detach()).sum((0, 1 + dim)) + finite.abs() + one)
        values[name] = rounding + 2 * z.shape[1 + dim] * SMALLEST[call.stat_dtype()]
        score_gradient += slope * weights[name].double().abs().unsqueeze(dim)
    fine = low * (1.0 + largest) * score_gradient
    # b=None: what a gets as rows and as columns may be rounded apart
    rounded = 2 * score_gradient if call.b is None else rounded_gradients(call, dz)
    coarse = fine + EPS[call.compute_dtype()] * rounded
    grads = {}
    for kind, error in (("features", coarse), ("vectors", fine)):
        names = [name for name in leaves if (name[0] in "ab") == (kind == "features")]
        found = torch.autograd.grad(
            size, [leaves[name] for name in names], error, retain_graph=True, allow_unused=True
        ) if names and size.requires_grad else []  # fmt: skip
        for name, share in zip(names, found, strict=True):
            dtype = call.tensors()[name].dtype
            grads[name] = share + EPS[dtype] * truth.grads[name].abs() + SMALLEST[dtype] * (1.0 + largest)
    return Result(values, grads)


def rounded_gradients(call: Call, dz: Tensor) -> Tensor:
    """|dL/dz| as it is rounded: where both sides have one z, once for both."""
    if call.options.get("own_scales"):
        return dz.abs()
    both = dz.sum(0).abs()
    return torch.stack([both, torch.zeros_like(both)])


def slopes(call: Call, z: Tensor, name: str) -> Tensor:
    """|d statistic / dz|, (2, N, M)."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(statistics(call, z)[name].sum(), z)[0].abs()


# ---- the engine against it


def engine(call: Call, weights: dict[str, Tensor], **options: Any) -> Result:
    """pair_reduce, differentiated with the weights as upstream gradients."""
    call, leaves = with_leaves(call)
    if call.options.get("reduce") == "max":  # its backward needs no scores
        options.pop("memory_budget", None)
    found = pair_reduce(call.a, call.b, **call.options, **options)
    values = {name: x for name in (*STATISTICS, *APART) if (x := getattr(found, name)) is not None}
    assert values.keys() == weights.keys()
    check_constants(call, found)
    grads = differentiated(values.values(), [weights[name] for name in values], leaves)
    return Result({name: x.detach() for name, x in values.items()}, grads)


def check_constants(call: Call, found: PairStats) -> None:
    """What has no gradient: counts are exact, largest negatives as exact as their z."""
    right = counts(call) if call.options.get("counts") else {}
    assert {name for name in COUNTS if getattr(found, name) is not None} == set(right)
    for name, x in right.items():
        assert torch.equal(getattr(found, name).cpu(), x.cpu()), name
    if not call.options.get("split"):
        return
    for name, x in largest_negatives(call).items():
        torch.testing.assert_close(getattr(found, name).double(), x, rtol=1e-5, atol=1e-5)


def engine_loss(call: Call, weights: dict[str, Tensor], **options: Any) -> Result:
    """pair_loss with the weights: rows -> row_weight, row_positives -> row_positive_weight."""
    call, leaves = with_leaves(call)
    named = {f"{name[:-1]}_weight": weight for name, weight in weights.items()}
    found = pair_loss(call.a, call.b, **named, **call.options, **options)
    return Result({"loss": found.detach()}, differentiated([found], [torch.ones_like(found)], leaves))


def scalar_of(truth: Result, limit: Result, weights: dict[str, Tensor], low: float) -> tuple[Result, Result]:
    """Truth and budget of the weighted sum; an empty row contributes 0."""
    value, error = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for name, weight in weights.items():
        finite = torch.where(truth.values[name] == -torch.inf, 0.0, truth.values[name])
        value += weight.double() @ finite
        error += weight.double().abs() @ (limit.values[name] + ROUNDINGS * low * finite.abs())
    return Result({"loss": value}, truth.grads), Result({"loss": error}, limit.grads)


def check(call: Call, device: str | torch.device = "cpu", **options: Any) -> float:
    """Asserts that all pair_reduce and pair_loss return on the device is within its budget; the worst ratio."""
    weights = upstream(call)
    truth, limit = oracle(call, weights)
    there, given = call.to(device), {name: x.to(device) for name, x in weights.items()}
    worst = compare(call, engine(there, given, **options).cpu(), truth, limit)
    if call.options.get("reduce") == "max":  # pair_loss does not offer it
        return worst
    if "split" in call.options or "counts" in call.options:  # nor these
        plain = {name: x for name, x in call.options.items() if name not in ("split", "counts")}
        call = replace(call, options=plain)
        there, weights = call.to(device), upstream(call)
        truth, limit = oracle(call, weights)
        given = {name: x.to(device) for name, x in weights.items()}
    truth, limit = scalar_of(truth, limit, weights, EPS[call.stat_dtype()])
    return max(worst, compare(call, engine_loss(there, given, **options).cpu(), truth, limit))


def check_float16_range(weight: float, backend: str) -> None:
    """float16 score gradients neither underflow nor overflow, whatever weight a loss scaler repairs in backward."""
    a, b = (torch.nn.functional.normalize(torch.randn(40, 16), dim=1).half().requires_grad_() for _ in range(2))
    loss = pair_loss(a, b, row_weight=torch.full((40,), weight), scale=5.0, backend=backend)
    (loss / weight).backward()
    true = [x.detach().double().requires_grad_() for x in (a, b)]
    (5.0 * true[0] @ true[1].T).logsumexp(1).sum().backward()
    for x, y in zip((a, b), true, strict=True):
        assert (x.grad.double() - y.grad).norm() < 2.0**-10 * y.grad.norm()


def compare(call: Call, found: Result, truth: Result, limit: Result) -> float:
    for name, x in found.values.items():
        assert x.dtype == call.stat_dtype(), f"{name}: dtype {x.dtype}"
    for name, x in found.grads.items():
        assert x.dtype == call.tensors()[name].dtype, f"d{name}: dtype {x.dtype}"
    values = [within(k, x, truth.values[k], limit.values[k]) for k, x in found.values.items()]
    grads = [within(f"d{k}", x, truth.grads[k], limit.grads[k]) for k, x in found.grads.items()]
    return max(values + grads)


def within(name: str, found: Tensor, truth: Tensor, limit: Tensor) -> float:
    """Error over budget, at most 1; infinities must agree exactly, and NaN is never right."""
    assert found.shape == truth.shape, f"{name}: shape {tuple(found.shape)}, expected {tuple(truth.shape)}"
    infinite = truth.isinf()
    assert torch.equal(found[infinite].double(), truth[infinite]), f"{name}: {found[infinite]} for {truth[infinite]}"
    assert found[~infinite].isfinite().all(), f"{name}: {int((~found[~infinite].isfinite()).sum())} values not finite"
    ratio = torch.where(infinite, 0.0, (found.double() - truth).abs() / limit.clamp_min(1e-300))
    ratio = torch.where(found.double() == truth, 0.0, ratio)
    worst = ratio.max().item() if ratio.numel() else 0.0
    if worst > 1.0:
        at = tuple(i.item() for i in torch.unravel_index(ratio.argmax(), ratio.shape))
        numbers = f"{found[at].item()} for {truth[at].item()}"
        raise AssertionError(f"{name}{list(at)}: {numbers}, {worst:.3g} times the budget")
    return worst

"""Losses of converged models: value and every gradient keep their digits, down to losses that a difference of two
log-sum-exps rounds to 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile.testing import EPS

N, D = 48, 64
FEATURES = {torch.float32: 8 * EPS[torch.float32], torch.bfloat16: 0.0, torch.float16: 0.0}
ROUNDED = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
Loss = Callable[..., Tensor]


def pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Orthogonal items whose two views are nearly the same: the loss is N e^(-scale) or so."""
    g = torch.Generator().manual_seed(1)
    image = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0][:N]
    text = F.normalize(image + 0.004 * torch.randn(N, D, generator=g, dtype=torch.float64), dim=1)
    return image.to(dtype), text.to(dtype)


def apart(z: Tensor, keep: Tensor | None = None) -> Tensor:
    """Cross entropy of the diagonal, each direction as log(1 + sum of the others / the positive)."""
    eye = torch.eye(len(z), z.shape[1], dtype=torch.bool)
    others = z.masked_fill(eye if keep is None else eye | ~keep, -torch.inf).logsumexp(1) - z.diagonal()
    return torch.logaddexp(others, torch.zeros_like(others))


def matches(x: Tensor, y: Tensor, s: Tensor, form: str, **options: Any) -> Tensor:
    """With one positive each. Both directions are rows of "none"."""
    ids = torch.arange(N)
    rows = contrastile.multi_positive(x, y, ids, ids, form=form, temperature=1 / s, **options)
    return 2.0 * rows if options["reduction"] == "none" else rows


def clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    z = scale * image @ text.T
    return 0.5 * (apart(z).mean() + apart(z.T).mean())


def info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return apart(scale * image @ text.T).mean()


def queue(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return apart(scale * image[:40] @ torch.cat([text[:40], text[40:]]).T).mean()


def ids(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    own = torch.arange(N) // 2
    return apart(scale * image @ text.T, own[:, None] != own).mean()


def views(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    x = torch.cat([image, text])
    z = scale * x @ torch.cat([text, image]).T  # column i is the other view of row i
    return apart(z, ~torch.eye(2 * N, dtype=torch.bool).roll(N, 1)).mean()


WEIGHTS, ROWS = torch.linspace(0.0, 2.0, N), torch.linspace(0.9, 1.1, N)
LOG_PROB = torch.linspace(-3.0, -1.0, N)


def weighted(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    z = scale * image @ text.T
    return 0.5 * (WEIGHTS.double() * (apart(z) + apart(z.T))).sum() / WEIGHTS.double().sum()


def rows_scaled(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    z, back = (scale * x.double()[:, None] for x in (ROWS, ROWS.flip(0)))
    return 0.5 * (apart(z * (image @ text.T)).mean() + apart(back * (text @ image.T)).mean())


def sampled(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    z = scale * image @ text.T
    return 0.5 * (apart(z - LOG_PROB.double()).mean() + apart(z.T).mean())


def as_mean(rows: Tensor, reduction: str) -> Tensor:
    """The mean of weighted losses, from the losses of rows as well."""
    return rows.sum() / WEIGHTS.sum() if reduction == "none" else rows


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "clip_loss": (lambda x, y, s, **o: contrastile.clip_loss(x, y, s, **o), clip),
    "info_nce": (lambda x, y, s, **o: contrastile.info_nce(x, y, temperature=1 / s, **o), info_nce),
    "queue": (
        lambda x, y, s, **o: contrastile.info_nce(x[:40], y[:40], negatives=y[40:], temperature=1 / s, **o), queue,
    ),
    "ids": (
        lambda x, y, s, **o: contrastile.info_nce(x, y, temperature=1 / s, query_ids=torch.arange(N) // 2, **o), ids,
    ),
    "sup_con": (
        lambda x, y, s, **o: contrastile.sup_con(torch.cat([x, y]), torch.arange(N).repeat(2), temperature=1 / s, **o),
        views,
    ),
    "weights": (
        lambda x, y, s, **o: as_mean(contrastile.clip_loss(x, y, s, weights=WEIGHTS, **o), o["reduction"]), weighted,
    ),
    "row temperatures": (
        lambda x, y, s, **o: contrastile.clip_loss(x, y, s * ROWS, text_logit_scale=s * ROWS.flip(0), **o), rows_scaled,
    ),
    "sampled": (
        lambda x, y, s, **o: contrastile.info_nce(
            x, y, temperature=1 / s, key_log_prob=LOG_PROB, symmetric=True, **o), sampled,
    ),
    "nt_xent": (lambda x, y, s, **o: contrastile.nt_xent(x, y, temperature=1 / s, **o), views),
    "multi_positive": (partial(matches, form="out"), clip), "multi_positive, in": (partial(matches, form="in"), clip),
    "multi_positive, each": (partial(matches, form="each"), clip),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("scale", [20.0, 36.0, 70.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda x: str(x)[6:])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_keep_their_digits(name, backend, dtype, scale, reduction):
    """At losses of 1e-7, 1e-14 and 1e-28."""
    if dtype == torch.float16 and scale > 20.0:
        pytest.skip("gradients are below the smallest float16 number")
    ours, truth = LOSSES[name]
    given = [x.requires_grad_() for x in pairs(dtype)] + [torch.tensor(scale, requires_grad=True)]
    exact = [x.detach().double().requires_grad_() for x in given]
    weight = 1.0 if dtype != torch.float16 else 2.0**16  # as a loss scaler would
    value, true = (ours(*given, reduction=reduction, backend=backend)).mean(), truth(*exact)
    assert true < 1e-6
    assert abs(value.item() - true.item()) <= 4 * EPS[torch.float32] * scale * true.item()
    grads = torch.autograd.grad(value * weight, given)
    expected = torch.autograd.grad(true * weight, exact)
    assert abs(grads[2] - expected[2]) <= 4 * EPS[torch.float32] * scale * abs(expected[2])
    for found, right in zip(grads[:2], expected[:2], strict=True):
        assert (found.double() - right).norm() <= (FEATURES[dtype] * scale + ROUNDED[dtype]) * right.norm()

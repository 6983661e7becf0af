"""Kernel contrastive losses, on all distances."""

import torch
from torch import Tensor

from ._dense import Scalar, of_present, unit


def kcl(
    z1: Tensor,
    z2: Tensor,
    *,
    kernel: str = "gaussian",
    t: Scalar = 2.0,
    s: float = 2.0,
    gamma: Scalar = 16.0,
    present: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """Kernel alignment of positive pairs against the kernel energy of each view.

        -2 mean_i K(a_i, b_i) + gamma ( mean_{i<j} K(a_i, a_j) + mean_{i<j} K(b_i, b_j) )

    with K of d^2 = |x - y|^2: gaussian e^{-t d^2}; log -log(t d^2 + 1), halved in the energies;
    imq t / sqrt(t^2 + d^2); riesz sign(s) d^{-s}; gaussian_riesz: gaussian between positives, riesz in the energies.
    A mean over no pairs is 0.

    Source: Koromilas et al. 2024 (arXiv 2405.18045); official code pakoromilas/DHEL-KCL @dc5a477, losses.py `KCL` and
    utils.py (its t also is imq's c and riesz's s).
    """
    a, b = (unit(of_present(z, present), normalize) for z in (z1, z2))
    inner, outer = ("riesz", "gaussian") if kernel == "gaussian_riesz" else (kernel, kernel)
    factor = 0.5 if kernel == "log" else 1.0
    energy = sum((_mean(_kernel(inner, _pair_distances(x), t, s)) for x in (a, b)), a.new_zeros(()))
    alignment = _mean(_kernel(outer, (a - b).square().sum(dim=1), t, s))
    return gamma * factor * energy - 2 * alignment


def _pair_distances(x: Tensor) -> Tensor:
    """Squared distances of all pairs i < j."""
    i, j = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1).nonzero(as_tuple=True)
    return (x[i] - x[j]).square().sum(dim=1)


def _kernel(name: str, squared: Tensor, t: Scalar, s: float) -> Tensor:
    if name == "gaussian":
        return torch.exp(-t * squared)
    if name == "log":
        return -torch.log(t * squared + 1)
    if name == "imq":
        return t / (t**2 + squared).sqrt()
    if name == "riesz":
        power = squared.pow(-s / 2)
        return power if s > 0 else -power
    raise ValueError(f"kernel must be 'gaussian', 'log', 'imq', 'riesz' or 'gaussian_riesz', got {name!r}")


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(len(values), 1)

"""PMRL: the singular values of each sample's modalities, and the directions that lead them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions, Pairs, check, matmul, pair_stats
from ..ops.autograd import first_order
from ..ops.basis import exact_dtype
from ..ranks import GlobalBatch, Group, collective
from .common import engine_options, feature_batches, inverse, reduced_empty, upcast, zero
from .weights import Counted

UNDECIDED = 1e-4  # share of a singular value below which the mean's side is rounding of the inputs


@collective
def pmrl_loss(
    *modalities: Tensor,
    singular_temperature: float | Tensor = 0.05,
    instance_temperature: float | Tensor = 0.1,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """PMRL: the modalities of a sample should share one direction; different samples should differ. No anchor.

        Z_i = [m_1i .. m_ki] (D x k) with singular values s_i1 >= s_i2 >= .. and leading left singular vector u_i
        L_i = log sum_r e^{(s_ir - s_i1) / singular_temperature}
            + log sum_j e^{(<u_i, u_j> - 1) / instance_temperature}

    Z_i has min(k, D) singular values. They come from the k x k Gram matrix in float64 (float32 on devices without
    float64): s_ir is exact to 4e-8 s_i1, and 0 below that. The sign of u_i is the one with <u_i, sum_m m_mi> >= 0, or,
    where that is 0 (within 1e-4 s_i1; always for two unit vectors with a negative cosine), with <u_i, m_1i> >= 0. The
    official code leaves the sign to the solver, so its value changes with flips that mean nothing.

    Gradients: of s_ir, the outer product of its singular vectors (0 where s_ir counts as 0). Of u_i, terms with 1 /
    g_r, g_r = s_i1^2 - s_ir^2. As g_r / (g_r^2 + (e s_i1^2)^2) with e = 1e-6 (float64: 2e-15) they stay finite, and are
    0 where the leading direction is not unique. A sample of zero vectors has u_i = 0, gets no gradient, and keeps <u_i,
    u_i> = 1 in its own row.

    Args:
        modalities: Two or more tensors (N, D); row i of each belongs to sample i. Unit rows, or set normalize=True.
        singular_temperature: > 0, a float or a 0-dim tensor. The paper uses 0.05 for fine-tuning and 0.01 for
            pre-training.
        instance_temperature: > 0, a float or a 0-dim tensor.
        weights: (N,) >= 0, no gradient. The weight of each sample: "mean" is sum w L / sum w (0 where sum w is 0).
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" or "sum" over samples, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. N = 1 gives the first term only.
    Cost: 4 N^2 D FLOP forward and backward, and O(N D k^2).

    Example:
        >>> image, text, audio = torch.randn(3, 8, 16)
        >>> loss = pmrl_loss(image, text, audio, normalize=True)

    Source: PMRL, https://arxiv.org/abs/2507.17343, L_intra and L_inter; official code Xiaohao-Liu/PMRL, without its
    matching term.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    z = matched(modalities, normalize)
    sharpness = inverse(singular_temperature, z, name="singular_temperature")
    scale = inverse(instance_temperature, z, name="instance_temperature")
    counted = Counted.of(weights, None, z)
    batch = GlobalBatch.of(engine.ranks, z.shape[0], facts=lambda: dict(**counted.facts(), modalities=z.shape[1]))
    if batch.total == 0 or z.shape[2] == 0:
        return reduced_empty(batch.n, reduction, z, sharpness, scale)
    singular, leading = spectrum(z)
    rest = torch.logsumexp((singular[:, :-1] - singular[:, -1:]) * sharpness, 1)
    intra = -F.logsigmoid(-rest).to(leading.dtype)  # log(1 + e^rest): a small loss keeps its digits
    return counted.reduced(batch, intra + _instance(leading, scale, batch, engine), reduction)


def singular_alignment(*modalities: Tensor, normalize: bool = False) -> Tensor:
    """Mean of the samples' largest singular values, the quantity that pmrl_loss raises.

        A = mean_i s_i1,      for k unit vectors from 1 (all orthogonal) to sqrt(k) (all equal up to sign)

    Args:
        modalities: Two or more tensors (N, D); row i of each belongs to sample i.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.

    Returns: float32 (float64 for float64 features); 0 for no samples.

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> round(singular_alignment(x, x, x, x).item(), 4)
        2.0

    Source: PMRL, https://arxiv.org/abs/2507.17343, L_intra.
    """
    z = matched(modalities, normalize)
    if z.numel() == 0:
        return zero(z)
    singular, leading = spectrum(z)
    return singular[:, -1].mean().to(leading.dtype)


def matched(modalities: tuple[Tensor, ...], normalize: bool) -> Tensor:
    """The modalities as one wide (N, k, D) tensor, rounded to their common type."""
    return torch.stack([upcast(x) for x in feature_batches("modalities", modalities, normalize)], 1)


def spectrum(z: Tensor) -> tuple[Tensor, Tensor]:
    """Of the columns z (N, k, D): singular values (N, min(k, D)), ascending, in `exact_dtype`, and leading left
    singular vectors (N, D).

    The eigensolver is not differentiated: with w fixed, w_r^T K w_r has the gradient of the r-th eigenvalue, and w_1
    moves by sum_r w_r (w_r^T dK w_1) / (l_1 - l_r). Its own backward divides by all gaps, also those of no concern.
    """
    check.no_transforms()
    result, count = z.dtype, min(z.shape[1:])
    z = first_order(z).to(exact_dtype(z))
    gram = matmul(z, z.mT)
    values, w = _eigh(gram.detach())
    along = matmul(gram, w)
    eigenvalues = (w * along).sum(1)
    noise = 8.0 * torch.finfo(gram.dtype).eps * eigenvalues[:, -1:].detach()
    real = ~(eigenvalues <= noise)  # so that NaN stays NaN
    singular = torch.where(real, torch.where(real, eigenvalues, 1.0).sqrt(), 0.0)

    coupling = (w[:, :, :-1] * along[:, :, -1:]).sum(1)  # 0, but for its gradient
    turn = (coupling - coupling.detach()) * _inverse_gap(values, 8.0 * torch.finfo(result).eps)
    first = w[:, :, -1] + (w[:, :, :-1] * turn[:, None]).sum(2)
    first = first * _sign(w[:, :, -1])
    leading = matmul(first[:, None], z)[:, 0] / torch.where(real, singular, 1.0)[:, -1:]
    return singular[:, -count:], torch.where(real[:, -1:], leading, 0.0).to(result)


def _sign(w: Tensor) -> Tensor:
    """The sign that turns u towards the modalities' mean, or where that is orthogonal, towards the first of them."""
    mean = w.sum(1, keepdim=True)
    return torch.where(torch.where(mean.abs() > UNDECIDED, mean, w[:, :1]) < 0, -1.0, 1.0)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors; of the identity for matrices that are not finite, which raise."""
    finite = gram.isfinite().all(2).all(1)[:, None, None]
    eye = torch.eye(gram.shape[2], dtype=gram.dtype, device=gram.device)
    values, vectors = torch.linalg.eigh(torch.where(finite, gram, eye))
    return values, vectors


def _inverse_gap(values: Tensor, resolution: float) -> Tensor:
    """1 / (l_1 - l_r), bounded as documented; 0 where all eigenvalues are 0."""
    gap = values[:, -1:] - values[:, :-1]
    square = gap.square() + (resolution * values[:, -1:]).square()
    return torch.where(square > 0, gap / square, 0.0)


def _instance(leading: Tensor, scale: float | Tensor, batch: GlobalBatch, engine: EngineOptions) -> Tensor:
    """log sum_j e^{scale (<u_i, u_j> - 1)}; the own term is 1 whatever the rounding, so small losses keep digits."""
    if batch.total == 1:
        return leading.sum(1) * 0.0 + scale * 0.0
    rows = pair_stats(Pairs(leading, scale=scale, keep="other_index"), engine).rows
    return -F.logsigmoid(scale - rows)

"""Losses of mixed items: M3Co, geodesic multi-modal mixup."""

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, of_present, reduce_rows, unit


def slerp(x: Tensor, y: Tensor, share: Scalar) -> Tensor:
    """Rows on the arcs from y (share 0) to x (share 1).

        [ sin(share a) x + sin((1 - share) a) y ] / sin a,   cos a = <x, y>

    Source: Oh et al. 2023 (arXiv 2203.03897); official code, main.py: sph_inter, NaN where sin a is 0. Here equal rows
    have the limit, and opposite ones, 1 + <x, y> < 2 sqrt(eps), are joined by a line.
    """
    cosine = (x * y).sum(dim=1)
    equal, opposite = 1.0 - cosine < 1e-6, 1.0 + cosine < 2.0 * torch.finfo(x.dtype).eps ** 0.5
    angle = torch.where(equal | opposite, torch.zeros_like(cosine), cosine).acos()
    parts = []
    for part in (share, 1.0 - share):
        expanded = part + part * (1.0 - part * part) / 3.0 * (1.0 - cosine)
        ratio = torch.where(equal, expanded, (part * angle).sin() / angle.sin())
        parts.append(torch.where(opposite, part * torch.ones_like(ratio), ratio)[:, None])
    return parts[0] * x + parts[1] * y


def mixup_info_nce(
    mixed: Tensor,
    clean: Tensor,
    partner: Tensor,
    share: Scalar,
    *,
    temperature: Scalar = 0.1,
    unmixed: Tensor | None = None,
    unmixed_clean: Tensor | None = None,
    fixed_points: str = "add",
    direction: str = "mean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropies of rows and columns with the targets P of mixtures.

        P_ij   = share_i [j = i] + (1 - share_i) [j = partner_i]
        loss_i = 1/2 [ -sum_j P_ij log softmax_j(z_ij) - sum_j P_ji log softmax_j(z_ji) ]
        z      = mixed clean^T / temperature

    share (N, 2): what item and partner count. fixed_points="overwrite": where partner_i = i the second term of P alone.
    unmixed: the scores of pairs that are no targets by construction, i.e. neither j = i nor j = partner_i, are those of
    unmixed and of unmixed_clean (default clean).

    Source: Kumar et al. 2024 (arXiv 2409.17777), official code RaghavSinghal10/M3CoL @cb62969, utils.py: mixco_nce; Oh
    et al. 2023 (arXiv 2203.03897), official code changdaeoh/multimodal-mixup @f8e05fc, main.py, loss.py.
    """
    n = len(mixed)
    mixed, clean = unit(mixed, normalize), unit(clean, normalize)
    one_hot = torch.arange(n, device=mixed.device)[:, None]
    is_own, is_partner = (x == one_hot.T for x in (one_hot, partner[:, None]))
    if isinstance(share, Tensor) and share.dim() == 2:
        first, second = share[:, :1], share[:, 1:]
    else:
        first = (share * torch.ones_like(mixed[:, 0]))[:, None]
        second = 1.0 - first
    target = torch.where(is_partner, second, torch.zeros_like(second))
    own = is_own & ~is_partner if fixed_points == "overwrite" else is_own
    target = target + torch.where(own, first, torch.zeros_like(target))
    logits = mixed @ clean.T
    if unmixed is not None:
        second_side = clean if unmixed_clean is None else unit(unmixed_clean, normalize)
        logits = torch.where(is_own | is_partner, logits, unit(unmixed, normalize) @ second_side.T)
    logits = logits / temperature
    row, col = direction_weights(direction)
    losses = -row * (target * logits.log_softmax(1)).sum(1) - col * (target.T * logits.T.log_softmax(1)).sum(1)
    return reduce_rows(losses, reduction, weights)


def m2_mix(
    x: Tensor,
    y: Tensor,
    share: Scalar,
    *,
    temperature: Scalar = 0.07,
    direction: str = "sum",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each side finds its match among points between the modalities, m = slerp(x, y, share).

        loss_i = CE of row i of ( <x_i, m_j>, on the diagonal <x_i, y_i> ) / temperature + the same with y_i

    Source: Oh et al. 2023 (arXiv 2203.03897); official code, main.py: mmmix.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (x, y))
    between = slerp(x, y, of_present(share, present))
    diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
    losses = torch.zeros_like(x[:, 0])
    for weight, anchor in zip(direction_weights(direction), (x, y), strict=True):
        logits = torch.where(diagonal, x @ y.T, anchor @ between.T) / temperature
        losses = losses - weight * logits.log_softmax(1).diagonal()
    return reduce_rows(losses, reduction, weights, present)

"""Dense statements of what memeff, inf_cl and siglip_kernel compute, in any floating type.

Written from reading those packages, whose kernels need CUDA. kernels.py holds them against the packages' own kernels in
Triton's interpreter; the tests of the drop-ins hold the drop-ins against them in float64.
"""

import math

import torch
import torch.nn.functional as F


def unit(x, normalized):
    return x if normalized or x is None else F.normalize(x, dim=-1)


# ---- memeff


def softmax_rows(q, d, h=None, *, temperature, margin=math.inf, qq=False, dd=False, tau_plus=None, smoothing=0.0):
    """Losses of the rows of q, (N,): positives on the diagonal of q d^T, negatives in all other places asked for."""
    n = len(q)
    positive, off = (q * d).sum(1, keepdim=True), ~torch.eye(n, dtype=torch.bool)
    blocks = [q @ d.T] + [x @ x.T for x, asked in ((q, qq), (d, dd)) if asked]
    negatives, there = torch.cat(blocks, 1), off.repeat(1, len(blocks))
    if h is not None:
        negatives = torch.cat([negatives, torch.einsum("nd,nkd->nk", q, h)], 1)
        there = torch.cat([there, torch.ones(n, h.shape[1], dtype=torch.bool)], 1)
    kept = there & (negatives <= positive.detach() + margin)
    logs = ((negatives - positive) / temperature).masked_fill(~kept, -1e30).logsumexp(1)
    if tau_plus is not None:
        count, tau_plus = there.sum(1).to(q.dtype), torch.as_tensor(tau_plus, dtype=q.dtype)
        total = (logs.exp() - count * tau_plus) / (1 - tau_plus)
        logs = torch.maximum(total, count * torch.exp((-1 - positive.squeeze(1)) / temperature)).log()
    rows = torch.logaddexp(logs, torch.zeros_like(logs))
    if smoothing:
        mean = (positive.squeeze(1) + (negatives * there).sum(1)) / (1 + there.sum(1))
        rows = rows + smoothing * (positive.squeeze(1) - mean) / temperature
    return rows


def memeff_loss(name, *features, normalized_inputs=False, stable=True, dims=None, weights=None, **options):
    """The loss of a class of memeff by its name without prefix and suffix: "CLIP", "LiT", "Qwen3", "LiTQwen3"."""
    n, temperature = len(features[0]), options.setdefault("temperature", 0.07)
    if stable and any(x.requires_grad for x in features if x is not None):
        factor = math.sqrt(n * temperature)
        features = [scaled_gradient(x, factor) for x in features]
    if dims is None:
        return of_width(name, *(unit(x, normalized_inputs) for x in features), **options)
    cuts = [[unit(None if x is None else x[..., :m], False) for x in features] for m in dims]
    return sum(w * of_width(name, *cut, **options) for w, cut in zip(weights or [1] * len(dims), cuts, strict=True))


def of_width(name, q, d, h=None, *, use_qq_negatives=False, use_dd_negatives=False, **options):
    options["smoothing"] = options.pop("label_smoothing", 0.0)
    if isinstance(options.get("tau_plus"), float) and options["tau_plus"] == 0:
        options["tau_plus"] = None
    if name.startswith("LiT"):
        d, h = d.detach(), None if h is None else h.detach()
    if name.endswith("Qwen3"):
        options.setdefault("margin", 0.1)
        return softmax_rows(q, d, h, qq=use_qq_negatives, dd=use_dd_negatives, **options).mean()
    rows = softmax_rows(q, d, **options)
    return rows.mean() if name == "LiT" else (rows.mean() + softmax_rows(d, q, **options).mean()) / 2


def scaled_gradient(x, factor):
    return None if x is None else factor * x + (1 - factor) * x.detach()


# ---- inf_cl


def cal_flash_loss(q, k, labels=None, scale=1.0):
    return F.cross_entropy(scale * q @ k.T, torch.arange(len(q)) if labels is None else labels, reduction="none")


# ---- siglip_kernel


def siglip_loss(img, txt, log_temperature, bias, diag_offset=0):
    z = img @ txt.T * log_temperature.exp() + bias
    matched = torch.zeros_like(z, dtype=torch.bool)
    if diag_offset is not None:
        matched = torch.arange(len(img))[:, None] + diag_offset == torch.arange(len(txt))
    return -F.logsigmoid(torch.where(matched, z, -z)).sum() / len(img)


def siglip_plus_loss(img, txt, log_temperature, bias, img_gid=None, txt_gid=None, symmetric=True, soft_label=False):
    rows = torch.arange(len(img)) if img_gid is None else img_gid
    cols = torch.arange(len(txt)) if txt_gid is None else txt_gid
    z = img @ txt.T * log_temperature.exp() + bias
    same = (rows[:, None] == cols).to(z.dtype)
    by_row, by_col = (1 / same.sum(dim, keepdim=True).clamp_min(1) for dim in (1, 0))
    share = same * ((by_row + by_col) / 2 if symmetric else by_row)
    target, weight = (share, torch.ones_like(z)) if soft_label else (same, share + 1 - same)
    negative, positive = -F.logsigmoid(-z), -F.logsigmoid(z)
    return (weight * (target * positive + (1 - target) * negative)).mean()

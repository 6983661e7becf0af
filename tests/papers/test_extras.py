"""Works beside the 73 papers: the code of docs/papers.md against their formulas, written densely."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.papers import ce, check, clip, number, off_diagonal, rows, wrong_of

N, D = 8, 6


def doubled_squared_areas(t: Tensor, v: Tensor, a: Tensor) -> Tensor:
    u, w = t[:, None] - v[None], t[:, None] - a[None]
    return 0.5 * (u.square().sum(2) * w.square().sum(2) - (u * w).sum(2).square())


def test_x1_triangle():
    def dense(t, v, a, tau):
        return clip(-doubled_squared_areas(t, v, a) / tau, smoothing=0.1)

    check("x1", dense, t=rows(N, D), v=rows(N, D, seed=1), a=rows(N, D, seed=2), tau=number(0.07))


def test_x1_areas():
    def dense(t, v, a, tau):
        return clip(-(0.5 * doubled_squared_areas(t, v, a)).sqrt() / tau, smoothing=0.1)

    check("x1 areas", dense, t=rows(N, D), v=rows(N, D, seed=1), a=rows(N, D, seed=2), tau=number(0.07))


def test_x1_matching():
    def dense(t, v, a, tau, seed):
        wrong = wrong_of((-doubled_squared_areas(t, v, a) / tau).softmax(1) + 1e-4, seed)
        return (t * v[wrong]).sum(1)

    t, v, a = rows(N, D), rows(N, D, seed=1), rows(N, D, seed=2)
    check("x1 matching", dense, t=t, v=v, a=a, tau=number(0.07), seed=3)


def test_x2_gram():
    def dense(t, v, a, tau):
        every = torch.stack([t[:, None].expand(-1, len(v), -1), *(x[None].expand(len(t), -1, -1) for x in (v, a))], 2)
        return clip(-torch.linalg.det(every @ every.mT).abs().sqrt() / tau, smoothing=0.1)

    check("x2", dense, t=rows(N, D), v=rows(N, D, seed=1), a=rows(N, D, seed=2), tau=number(0.07))


def test_x3_pmrl():
    def dense(z1, z2, z3):
        Z = torch.stack([z1, z2, z3], 2)
        left, sigma, _ = torch.linalg.svd(Z, full_matrices=False)
        u = left[:, :, 0]
        u = u * (u * Z.sum(2)).sum(1, keepdim=True).sign().detach()
        return ce(sigma / 0.05, torch.zeros(len(Z), dtype=torch.long)) + ce(u @ u.T / 0.1)

    common = rows(N, D, seed=3)  # so that one direction leads
    z1, z2, z3 = (F.normalize(rows(N, D, seed=seed) + common, dim=1) for seed in range(3))
    check("x3", dense, z1=z1, z2=z2, z3=z3)


def test_x3_matching():
    def dense(t, fused, seed):
        return (t * fused[wrong_of((t @ fused.T / 0.1).softmax(1) + 1e-4, seed)]).sum(1)

    check("x3 matching", dense, t=rows(N, D), fused=rows(N, D, seed=1), seed=5)


def test_x4_confu():
    def dense(z1, z2, z3, h12, h13, h23):
        def sym(x, y):
            return clip(x @ y.T / 0.07)

        fused = sym(h12, z3) + sym(h13, z2) + sym(h23, z1)
        return (0.5 * fused + 0.5 * (sym(z1, z2) + sym(z2, z3) + sym(z3, z1))) / 6

    z1, z2, z3, h12, h13, h23 = (rows(N, D, seed=seed) for seed in range(6))
    check("x4", dense, z1=z1, z2=z2, z3=z3, h12=h12, h13=h13, h23=h23)


def siglip(x: Tensor, y: Tensor, s: Tensor, b: Tensor) -> Tensor:
    logits = s * x @ y.T + b
    return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(x)


def test_x5_siglip():
    def dense(x, y, t, b):
        return siglip(x, y, t.exp(), b)

    check("x5", dense, x=rows(N, D), y=rows(N, D, seed=1), t=number(2.3), b=number(-10.0))


def test_siglip_2():
    def dense(x, y, s, b, hidden, W, labels, student, teacher, center):
        captions = F.cross_entropy((hidden @ W.T).flatten(0, 1), labels.flatten(), ignore_index=0)
        target = ((teacher - center) / 0.04).softmax(1).detach()
        dino = -(target * (student / 0.1).log_softmax(1)).sum(1).mean()
        return siglip(x, y, s, b) + captions + dino

    labels = torch.tensor([[3, 1, 7, 0], [2, 2, 0, 0], [9, 5, 4, 6]])
    check(
        "SigLIP 2", dense, frozen=("teacher", "center"), x=rows(N, D), y=rows(N, D, seed=1), s=number(10.0),
        b=number(-8.0), hidden=3.0 * rows(3, 4, D, seed=2), W=2.0 * rows(10, D, seed=3), labels=labels,
        student=rows(N, 12, seed=4), teacher=0.3 * rows(N, 12, seed=5), center=0.1 * rows(12, seed=6),
    )  # fmt: skip


def decoupled(z1: Tensor, z2: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    others = torch.cat([off_diagonal(z1 @ z1.T), off_diagonal(z1 @ z2.T)], 1)
    return ((others / 0.1).logsumexp(1) - weight * (z1 * z2).sum(1) / 0.1).mean()


def test_x6_dcl():
    def dense(z1, z2):
        return decoupled(z1, z2) + decoupled(z2, z1)

    check("x6 DCL", dense, z1=rows(N, D), z2=rows(N, D, seed=1))


def test_x6_dclw():
    def dense(z1, z2):
        w = 2 - len(z1) * ((z1 * z2).sum(1) / 0.5).softmax(0)
        return decoupled(z1, z2, w) + decoupled(z2, z1, w)

    check("x6 DCLW", dense, z1=rows(N, D), z2=rows(N, D, seed=1))


def test_dhel():
    def dense(a, p):
        energy = sum(off_diagonal(x @ x.T / 0.3).logsumexp(1) for x in (a, p))
        return (energy - (a * p).sum(1) / 0.3).mean()

    check("DHEL", dense, a=rows(N, D), p=rows(N, D, seed=1))


KERNELS = {
    "gaussian": (lambda q: (-2 * q).exp(),) * 2,
    "log": (lambda q: -(2 * q + 1).log(), lambda q: -0.5 * (2 * q + 1).log()),
    "imq": (lambda q: 2 / (4 + q).sqrt(),) * 2,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kcl(kernel):
    of_positives, within = KERNELS[kernel]

    def dense(a, p, kernel):
        i, j = torch.triu_indices(len(a), len(a), 1)
        energy = sum(within((x[i] - x[j]).square().sum(1)).mean() for x in (a, p))
        return -2 * of_positives((a - p).square().sum(1)).mean() + 16 * energy

    check("KCL", dense, a=rows(N, D), p=rows(N, D, seed=1), kernel=kernel)


def test_x7_m3el():
    def dense(e, m):
        other = 1.0 - torch.eye(len(e), dtype=e.dtype)

        def half(x, y):
            return ce(torch.cat([1.0 * x @ y.T / 0.03, 0.8 * (x @ x.T / 0.03) * other], 1))

        return 0.5 * (half(e, m) + half(m, e))

    check("x7", dense, magnitude=34.0, e=rows(N, D), m=rows(N, D, seed=1))


def poly_view(U: Tensor) -> Tensor:
    """log of the share that view b of the instance has for view a, (k, k, N); 0 for a = b."""
    k, n = U.shape[:2]
    scores = (torch.einsum("aid,bjd->aibj", U, U) / 0.2).exp()
    others = scores.masked_fill(torch.eye(n, dtype=torch.bool)[None, :, None], 0.0).sum((2, 3))
    own = scores[:, torch.arange(n), :, torch.arange(n)].permute(1, 2, 0)
    share = (own / (own + others[:, None])).log()
    return share.masked_fill(torch.eye(k, dtype=torch.bool)[:, :, None], 0.0)


def test_pvc():
    check("PVC geometric", lambda U: -poly_view(U).sum(1).mean() / 2, U=rows(3, N, D))


def test_pvc_arithmetic():
    def dense(U):
        log_p = poly_view(U)
        mean = (log_p.exp() * (log_p != 0)).sum(1) / 2
        return -mean.log().mean()

    check("PVC arithmetic", dense, U=rows(3, N, D))


def test_cyclip():
    def dense(x, y, s):
        S, n = s * x @ y.T, len(x)
        within = (s * x @ x.T - s * y @ y.T).square().mean() / s**2 * n
        across = (S - S.T).square().mean() / s**2 * n
        return clip(S) + 0.25 * within + 0.25 * across

    check("CyCLIP", dense, x=rows(N, D), y=rows(N, D, seed=1), s=number(14.0))


CLASSES = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])


def test_sup_con():
    def dense(features, labels):
        z, label = features.flatten(0, 1), labels.repeat(2)
        log_p = off_diagonal(z @ z.T / 0.07).log_softmax(1)
        same = (label[:, None] == label[None]).fill_diagonal_(False)
        return -(torch.where(same, log_p, 0.0).sum(1) / same.sum(1)).mean()

    check("SupCon", dense, features=rows(2, N, D), labels=CLASSES)


def test_damsm_sentences():
    def dense(cnn, rnn, classes):
        S = 10.0 * F.cosine_similarity(cnn[:, None], rnn[None], dim=2)
        others = (classes[:, None] == classes[None]).fill_diagonal_(False)
        S = S.masked_fill(others, -torch.inf)
        return ce(S) + ce(S.T)

    check("DAMSM", dense, cnn=3.0 * rows(N, D), rnn=3.0 * rows(N, D, seed=1), classes=CLASSES)


def test_damsm_words():
    def fits(regions, words):
        context = (4.0 * (regions @ words.T).softmax(1)).softmax(0).T @ regions
        return (5.0 * F.cosine_similarity(context, words, dim=1)).logsumexp(0)

    def dense(regions, e, mask, classes):
        texts = [words[kept] for words, kept in zip(e, mask, strict=True)]
        S = 10.0 * torch.stack([torch.stack([fits(image, words) for words in texts]) for image in regions])
        S = S.masked_fill((classes[:, None] == classes[None]).fill_diagonal_(False), -torch.inf)
        return ce(S) + ce(S.T)

    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4, 2, 4, 3])[:, None]
    e = 2.0 * rows(N, 4, D, seed=1)
    check("DAMSM words", dense, magnitude=40.0, regions=2.0 * rows(N, 5, D), e=e, mask=mask, classes=CLASSES)


def test_t2i_cl():
    def dense(c1, c2):
        z = torch.cat([c1, c2])
        cosines = F.cosine_similarity(z[:, None], z[None], dim=2)
        return ce(off_diagonal(cosines / 0.5), torch.arange(len(z)).roll(len(c1)))

    check("T2I_CL", dense, c1=3.0 * rows(N, D), c2=3.0 * rows(N, D, seed=1))


def simcse(z1: Tensor, z2: Tensor, z3: Tensor, weight: float = 0.0) -> Tensor:
    z1, z2, z3 = (F.normalize(z, dim=1) for z in (z1, z2, z3))
    hard = z1 @ z3.T / 0.05 + weight * torch.eye(len(z1), dtype=z1.dtype)
    return ce(torch.cat([z1 @ z2.T / 0.05, hard], 1))


def test_simcse():
    z1, z2, z3 = (3.0 * rows(N, D, seed=seed) for seed in range(3))
    check("SimCSE supervised", simcse, z1=z1, z2=z2, z3=z3)


def test_simcse_weighted():
    z1, z2, z3 = (3.0 * rows(N, D, seed=seed) for seed in range(3))
    check("SimCSE weighted", lambda z1, z2, z3, W: simcse(z1, z2, z3, W), z1=z1, z2=z2, z3=z3, W=1.5)


def test_nt_xent_of_pairs():
    def dense(Z, label, tau):
        s, same = Z @ Z.T / tau, label[:, None] == label[None]
        negatives = (s.exp() * ~same).sum(1, keepdim=True)
        each = -(s.exp() / (s.exp() + negatives)).log()
        return each[same & ~torch.eye(len(Z), dtype=torch.bool)].mean()

    check("NTXentLoss", dense, Z=rows(N, D), label=CLASSES, tau=number(0.1))


def bags(v: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N, N, K) of videos and texts, and the log-sum-exp of each video's own and of all texts."""
    scores = torch.einsum("id,jkd->ijk", v, t) / 0.07
    own = scores[torch.arange(len(v)), torch.arange(len(v))].logsumexp(1)
    return scores, own, scores.flatten(1).logsumexp(1)


def test_vatt():
    def dense(v, t, mask):
        scores = (torch.einsum("id,jkd->ijk", v, t) / 0.07).masked_fill(~mask[None], -torch.inf)
        n = len(v)
        own = scores[torch.arange(n), torch.arange(n)].logsumexp(1)
        every = torch.cat([scores.flatten(1), scores.transpose(0, 1).flatten(1)], 1).logsumexp(1)
        there = mask.any(1)
        return (every - own)[there].sum() / there.sum()

    mask = torch.arange(3) < torch.tensor([3, 1, 2, 3, 3, 2, 1, 3])[:, None]
    check("VATT AsymmetricNCE", dense, v=rows(N, D), t=rows(N, 3, D, seed=1), mask=mask)


def test_vatt_symmetric():
    def dense(v, t):
        scores, own, texts = bags(v, t)
        videos = scores.transpose(0, 1).flatten(1).logsumexp(1)
        return texts.mean() + videos.mean() - 2 * own.mean()

    check("VATT SymmetricNCE", dense, v=rows(N, D), t=rows(N, 3, D, seed=1))


def test_inverted_softmax():
    def dense(q, g, bank):
        return (20.0 * q @ g.T).exp() / (20.0 * bank @ g.T).exp().sum(0)

    check("DBNorm", dense, q=rows(N, D), g=rows(7, D, seed=1), bank=rows(11, D, seed=2))


def test_dynamic_inverted_softmax():
    def dense(q, g, bank):
        s = q @ g.T
        bias = (20.0 * bank @ g.T).logsumexp(0).detach() / 20.0
        active = torch.isin(s.argmax(1), (bank @ g.T).argmax(1))
        assert 0 < active.sum() < len(q)
        return torch.where(active[:, None], s - bias, s).topk(3, 1).values

    check("DBNorm dynamic", dense, frozen=("bank",), q=rows(N, D), g=rows(7, D, seed=1), bank=rows(3, D, seed=2))


def test_tact():
    def dense(t, v, alpha_same, alpha_cross, w):
        z, n = t @ v.T, len(t) // 2
        one, full = torch.eye(n, dtype=z.dtype), torch.ones(n, n, dtype=z.dtype)
        cross = alpha_cross * (full - one) + alpha_same * one
        weight = torch.cat([torch.cat([full, cross], 1), torch.cat([cross, full], 1)])

        def direction(logits):
            each = (logits + weight.log()).logsumexp(1) - logits.diagonal()
            return (w * each).sum() / w.sum()

        return direction(z) + direction(z.T)

    w = torch.tensor([1.0] * 4 + [0.7] * 4, dtype=torch.float64)
    check(
        "TACT", dense, frozen=("w",), t=2.0 * rows(N, D), v=2.0 * rows(N, D, seed=1), alpha_same=0.5, alpha_cross=2.0,
        w=w,
    )  # fmt: skip


def off_positives(x: Tensor) -> Tensor:
    """Sums over the columns of two views without an item's own two."""
    return (x * (1.0 - torch.eye(len(x) // 2, dtype=x.dtype).repeat(2, 2))).sum(1)


def test_sogclr():
    """The first step; tests/test_stateful.py has those that follow."""

    def dense(z1, z2, index, samples):
        views = torch.cat([z1, z2])
        S = views @ views.T
        e = (S / 0.125).exp().detach()
        weights = e / off_positives(e)[:, None]
        return 2.0 * (off_positives(weights * S) - S.roll(N, 1).diagonal()).mean()

    check("SogCLR", dense, z1=rows(N, D), z2=rows(N, D, seed=1), index=torch.arange(N), samples=20)


def test_fastclip():
    """The first step; tests/test_stateful.py has those that follow."""

    def dense(x, y, index, samples):
        S = x @ y.T

        def ratio(similarity):
            h = (similarity - similarity.diagonal()[:, None]) / 0.125
            mean = off_diagonal(h).exp().sum(1) / (len(x) - 1)
            return (mean / mean.detach()).mean()

        value = ratio(S) + ratio(S.T)
        return 0.5 * (value + value.detach())  # features have half the gradient

    check("FastCLIP", dense, x=rows(N, D), y=rows(N, D, seed=1), index=torch.arange(N), samples=20)


OWN = torch.eye(N, dtype=torch.bool)


def test_gte():
    def dense(q, d, tau):
        blocks = [q @ d.T / tau, *((x / tau).masked_fill(OWN, -torch.inf) for x in (q @ q.T, d @ q.T, d @ d.T))]
        return ce(torch.cat(blocks, 1))

    d = F.normalize(rows(N, D) + 0.9 * rows(N, D, seed=1), dim=1)
    check("GTE", dense, q=rows(N, D), d=d, tau=number(0.2))


def test_qwen3_embedding():
    """Section 3: the margin masks what is an item of the batch, not the hard negatives of the query."""

    def dense(q, d, hard, tau):
        own = (q * d).sum(1, keepdim=True)
        blocks = [(x / tau).masked_fill((x > own + 0.1) | OWN, -torch.inf) for x in (q @ d.T, q @ q.T, d @ d.T)]
        own, hard = own / tau, torch.einsum("nd,nkd->nk", q, hard) / tau
        return ce(torch.cat([own, hard, *blocks], 1), torch.zeros(N).long())

    d = F.normalize(rows(N, D) + 0.9 * rows(N, D, seed=1), dim=1)
    check("Qwen3-Embedding", dense, q=rows(N, D), d=d, hard=rows(N, 3, D, seed=2), tau=number(0.2))


def test_nnclr():
    def dense(z1, p2, queue):
        return ce(queue[(z1 @ queue.T).argmax(1)] @ p2.T / 0.1)

    check("NNCLR", dense, frozen=("z1", "queue"), z1=rows(N, D), p2=rows(N, D, seed=1), queue=rows(12, D, seed=2))

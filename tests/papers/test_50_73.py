"""Papers 50 to 73: the code of docs/papers.md against their formulas, written densely from papers and official code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.papers import ce, check, clip, number, off_diagonal, rows, wrong_of

N, D = 8, 6
CAPTIONS = torch.tensor([[3, 1, 7, 0], [2, 2, 0, 0], [9, 5, 4, 6]])  # 0 is padding


def test_51_coca():
    def dense(x, y, s, hidden, W, labels):
        caption = F.cross_entropy((hidden @ W.T).flatten(0, 1), labels.flatten(), ignore_index=0)
        return clip(s * x @ y.T) + 2 * caption

    check(
        "51", dense, x=rows(N, D), y=rows(N, D, seed=1), s=number(14.0), hidden=3.0 * rows(3, 4, D, seed=2),
        W=2.0 * rows(10, D, seed=3), labels=CAPTIONS,
    )  # fmt: skip


def test_52_anchors():
    def dense(b, s_v, s_t, z1, z2):
        scores = torch.stack([b @ s_v.T, b @ s_t.T]) / 0.2  # (modality, anchor, item)
        own = scores.diagonal(dim1=1, dim2=2).exp().sum(0)
        return -(own / scores.exp().sum((0, 2))).log().mean() + ce(z1 @ z2.T / 0.2)

    b, s_v, s_t, z1, z2 = (rows(N, D, seed=seed) for seed in range(5))
    check("52", dense, b=b, s_v=s_v, s_t=s_t, z1=z1, z2=z2)


def test_52_graph():
    def dense(f, e):
        graph = torch.zeros(len(f), len(f), dtype=f.dtype)
        graph.scatter_(1, off_diagonal(F.normalize(f, dim=1) @ F.normalize(f, dim=1).T).topk(3, 1).indices, 1.0)
        degree = graph.sum(1)
        return (graph / (degree[:, None] * degree).sqrt()).detach() @ e

    check("52 graph", dense, f=3.0 * rows(N, D), e=rows(N, 5, seed=1))


def test_54_contrast():
    def dense(z0, z1, y):
        Z, label = F.normalize(torch.cat([z0, z1]), dim=1), y.repeat(2)
        s, same = Z @ Z.T / 0.5, label[:, None] == label[None]
        negatives = (s.exp() * ~same).sum(1)
        terms = [
            -(s[a, p].exp() / (s[a, p].exp() + negatives[a])).log()
            for a in range(len(Z)) for p in range(len(Z)) if a != p and same[a, p]
        ]  # fmt: skip
        return torch.stack(terms).mean()

    y = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3])
    check("54 contrast", dense, z0=2.0 * rows(N, D), z1=2.0 * rows(N, D, seed=1), y=y)


def test_54_information():
    def divergence(q, p):
        q, p = q.softmax(1), p.softmax(1)
        middle = 0.5 * (p + q)
        return 0.5 * ((q * (q / middle).log()).sum() + (p * (p / middle).log()).sum()) / len(q)

    def dense(joint, permuted_0, permuted_1):
        return 0.1 * (-divergence(permuted_0, joint) - divergence(permuted_1, joint))

    joint, permuted_0, permuted_1 = (3.0 * rows(N, 5, seed=seed) for seed in range(3))
    check("54 information", dense, joint=joint, permuted_0=permuted_0, permuted_1=permuted_1)


@pytest.mark.parametrize("bound", [-0.5, 0.5])
def test_55_gap(bound):
    def dense(g, t, s, lam, bound):
        alike = F.cosine_similarity(g, t, dim=1).mean()
        return clip(s * g @ t.T) + lam * (alike - bound).clamp_min(0).square()

    check("55", dense, g=rows(N, D), t=rows(N, D, seed=1), s=number(14.0), lam=3.0, bound=bound)


CLASSES = torch.tensor([0, 3, 1, 4, 2, 0, 4, 3])


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    return 1.0 - F.cosine_similarity(x, y, dim=-1).mean()


def test_57_mmrl():
    def dense(f, r, w, y, f0, w0, lam):
        classes = 0.7 * ce(100 * f @ w.T, y) + 0.3 * ce(100 * r @ w.T, y)
        return classes + lam * cosine_distance(f, f0) + lam * cosine_distance(w, w0)

    check(
        "57", dense, magnitude=100.0, frozen=("f0", "w0"), f=rows(N, D), r=rows(N, D, seed=1), w=rows(5, D, seed=2),
        y=CLASSES, f0=rows(N, D, seed=3), w0=rows(5, D, seed=4), lam=0.5,
    )  # fmt: skip


def test_58_clip():
    def dense(image, text, s):
        return clip(s * image @ text.T)

    check("58", dense, image=rows(N, D), text=rows(N, D, seed=1), s=number(14.0))


def test_59_fdt():
    def dense(q_I, q_T, mask, C, T, s):
        def grounded(q, kept):
            a = torch.einsum("bld,kd->blk", q, C) / D**0.5 * kept[..., None]
            v = (a.amax(1) / T).softmax(1) @ C
            return v / v.norm(dim=1, keepdim=True)  # the official code adds 1e-10

        image = grounded(q_I, torch.ones_like(q_I[..., 0]))
        return clip(s * image @ grounded(q_T, mask).T)

    mask = torch.arange(5) < torch.tensor([5, 3, 4, 5, 1, 2, 5, 3])[:, None]
    check(
        "59", dense, q_I=2.0 * rows(N, 4, D), q_T=2.0 * rows(N, 5, D, seed=1), mask=mask, C=2.0 * rows(12, D, seed=2),
        T=0.5, s=number(14.0),
    )  # fmt: skip


def test_60_stage_2():
    def dense(a, t, t_neg, s):
        own = s * (a[:, None] * t_neg).sum(2)
        return 0.5 * (ce(torch.cat([s * a @ t.T, own], 1)) + ce(s * t @ a.T))

    check("60 stage 2", dense, a=rows(N, D), t=rows(N, D, seed=1), t_neg=rows(N, 3, D, seed=2), s=number(14.0))


def test_60_stage_3():
    def dense(a, first, further, owner, right, s):
        own = s * a @ further.T
        own = own.masked_fill(owner[None] != torch.arange(len(a))[:, None], -torch.inf)
        every = torch.cat([s * a @ first.T, own], 1).log_softmax(1)
        a2t = 0.0
        for i in range(len(a)):
            places = [i, *(len(a) + j for j in range(len(owner)) if owner[j] == i and right[j])]
            a2t = a2t - every[i, places].mean() / len(a)
        texts = torch.cat([first, further[right]])
        return 0.5 * (a2t + ce(s * texts @ a.T, torch.cat([torch.arange(len(a)), owner[right]])))

    owner = torch.tensor([0, 0, 0, 1, 2, 2, 4, 4, 4, 4, 6])  # some have nothing further
    right = torch.tensor([True, True, False, False, True, False, False, True, False, True, True])
    check(
        "60 stage 3", dense, a=rows(N, D), first=rows(N, D, seed=1), further=rows(11, D, seed=2), owner=owner,
        right=right, s=number(14.0),
    )  # fmt: skip


def test_61_codes():
    def dense(codes, labels):
        z, label = codes.flatten(0, 1), labels.repeat(2)
        log_p = off_diagonal(z @ z.T / 0.07).log_softmax(1)
        same = (label[:, None] == label[None]).fill_diagonal_(False)
        return -(torch.where(same, log_p, 0.0).sum(1) / same.sum(1)).mean()

    check("61", dense, codes=rows(2, N, D), labels=CLASSES)


def test_61_label_sets():
    def dense(x, y, labels):
        log_p, same = (x @ y.T / 0.07).log_softmax(1), (labels[:, None] & labels[None]).any(2)
        each = -torch.where(same, log_p, 0.0).sum(1) / same.sum(1).clamp_min(1)
        return each[same.any(1)].mean()

    labels = torch.tensor(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool
    )
    check("61 label sets", dense, x=rows(N, D), y=rows(N, D, seed=1), labels=labels)


def test_62_modality_pairs():
    def dense(Z):
        total = 0.0
        for m, x in enumerate(Z):
            for other, y in enumerate(Z):
                if m != other:
                    labels = torch.arange(len(x)).roll(len(x) // 2)
                    total = total + 0.5 * ce(off_diagonal(x @ y.T / 0.07), labels)
        return total / 6

    check("62", dense, Z=[rows(N, D), rows(N, D, seed=1), rows(N, D, seed=2)])


def test_63_triplets():
    def dense(h, positive, negative):
        h, positive, negative = (F.normalize(x, dim=1) for x in (h, positive, negative))
        return ce(torch.cat([h @ positive.T, h @ negative.T], 1) / 0.05)

    h, positive, negative = (3.0 * rows(N, D, seed=seed) for seed in range(3))
    check("63", dense, h=h, positive=positive, negative=negative)


def test_63_weighted():
    def dense(h, positive, negative, W):
        h, positive, negative = (F.normalize(x, dim=1) for x in (h, positive, negative))
        hard = h @ negative.T / 0.05 + W * torch.eye(len(h), dtype=h.dtype)
        return ce(torch.cat([h @ positive.T / 0.05, hard], 1))

    h, positive, negative = (3.0 * rows(N, D, seed=seed) for seed in range(3))
    check("63 weighted", dense, h=h, positive=positive, negative=negative, W=1.5)


def test_63_propensity():
    def dense(h, surface, seed):
        weights = (h @ h.T / 0.05).softmax(1) / (surface @ surface.T / 0.5).exp()
        return (h * h[wrong_of(weights, seed)]).sum(1)

    check("63 propensity", dense, h=rows(N, D), surface=rows(N, 4, seed=1), seed=6)


def test_66_gopro():
    def simclr(u, u1):
        """SLIP's: two blocks, the row itself far below all others."""
        u, u1 = F.normalize(u, dim=1), F.normalize(u1, dim=1)
        itself = 1e9 * torch.eye(len(u), dtype=u.dtype)
        first = ce(torch.cat([u @ u1.T, u @ u.T - itself], 1) / 0.1)
        return 0.5 * (first + ce(torch.cat([u1 @ u.T, u1 @ u1.T - itself], 1) / 0.1))

    def dense(f, t, t1, t2, u, u1, y, s):
        prompts = ce(s * torch.einsum("bd,bcd->bc", f, t), y)
        return prompts + (t - t1).square().mean() + (t - t2).square().mean() + 0.1 * simclr(u, u1)

    t, t1, t2 = (rows(N, 5, D, seed=seed) for seed in (1, 2, 3))
    check(
        "66", dense, f=rows(N, D), t=t, t1=t1, t2=t2, u=2.0 * rows(N, 7, seed=4), u1=2.0 * rows(N, 7, seed=5),
        y=CLASSES, s=number(14.0),
    )  # fmt: skip


def test_67_align():
    def dense(x, y, tau):
        logits = x @ y.T / tau
        target = 0.9 * torch.eye(len(x), dtype=x.dtype) + 0.1 / len(x)
        return sum(-(target * z.log_softmax(1)).sum(1).mean() for z in (logits, logits.T))

    check("67", dense, x=rows(N, D), y=rows(N, D, seed=1), tau=number(0.07))


def test_68_slap():
    def term(q, z):
        return (2 - 2 * (F.normalize(q, dim=1) * F.normalize(z.detach(), dim=1)).sum(1)).mean()

    def dense(q_a, q_t, z_a, z_t, w):
        multi = 0.5 * (term(q_a, z_t) + term(q_t, z_a))
        return w * multi + (1 - w) * 0.5 * (term(q_a, z_a) + term(q_t, z_t))

    q_a, q_t, z_a, z_t = (2.0 * rows(N, D, seed=seed) for seed in range(4))
    check("68", dense, q_a=q_a, q_t=q_t, z_a=z_a, z_t=z_t, w=0.3)


def test_70_fusion():
    def dense(E_t, F_t, E_v, F_v, valid):
        text = (1 - F.cosine_similarity(E_t, F_t, dim=2))[valid].mean()
        return 0.1 * (text + (1 - F.cosine_similarity(E_v, F_v, dim=2)).mean())

    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    check(
        "70", dense, E_t=2.0 * rows(3, 5, D), F_t=2.0 * rows(3, 5, D, seed=1), E_v=2.0 * rows(3, 4, 7, seed=2),
        F_v=2.0 * rows(3, 4, 7, seed=3), valid=valid,
    )  # fmt: skip


def test_71_prototypes():
    def dense(v, t, y):
        return ce(torch.einsum("bd,bcd->bc", v, t) / 0.01, y)

    check("71", dense, magnitude=100.0, v=rows(N, D), t=rows(N, 5, D, seed=1), y=CLASSES)


def test_72_levels():
    def dense(v, report, sentences, owner):
        logits = v @ sentences.T / 0.07
        own = owner[None] == torch.arange(len(v))[:, None]
        by_volume = -(own * logits.log_softmax(1)).sum(1) / own.sum(1).clamp_min(1)
        by_sentence = ce(logits.T, owner)
        return clip(v @ report.T / 0.07) + 0.5 * (by_volume[own.any(1)].mean() + by_sentence)

    owner = torch.tensor([0, 0, 1, 2, 2, 2, 4, 5, 6, 6, 7])  # volume 3 has no sentence
    check("72", dense, v=rows(N, D), report=rows(N, D, seed=1), sentences=rows(11, D, seed=2), owner=owner)


def test_73_moments():
    def dense(r1, r2, dull, V, A):
        own = (r1[:, None] * dull).sum(2)
        return ce(torch.cat([r1 @ r2.T, own], 1) / 0.1) + clip(10.0 * V @ A.T)

    check(
        "73", dense, r1=rows(N, D), r2=rows(N, D, seed=1), dull=rows(N, 3, D, seed=2), V=rows(N, D, seed=3),
        A=rows(N, D, seed=4),
    )  # fmt: skip

"""Papers 26 to 49: the code of docs/papers.md against their formulas, written densely from papers and official code."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.papers import ce, check, clip, drawn, number, off_diagonal, rows, soft_ce, wrong_of

N, D = 8, 6


def test_26_lco_emb():
    def dense(a, p, n):
        return ce(a @ torch.cat([p, n]).T / 0.03)

    check("26", dense, magnitude=34.0, a=rows(N, D), p=rows(N, D, seed=1), n=rows(N, D, seed=2))


def test_26_kernel_alignment():
    """Analysis/kernel_alignment.py."""

    def hsic(K, L, unbiased):
        m = len(K)
        if not unbiased:
            H = torch.eye(m, dtype=K.dtype) - 1 / m
            return torch.trace(K @ H @ L @ H)
        K, L = (x - torch.diag(x.diagonal()) for x in (K, L))
        found = (K * L.T).sum() + K.sum() * L.sum() / ((m - 1) * (m - 2)) - 2 * (K @ L).sum() / (m - 2)
        return found / (m * (m - 3))

    def cka(K, L, unbiased):
        return hsic(K, L, unbiased) / ((hsic(K, K, unbiased) * hsic(L, L, unbiased)).sqrt() + 1e-6)

    def dense(A, B, k):
        A, B = F.normalize(A, dim=1), F.normalize(B, dim=1)
        K, L = A @ A.T, B @ B.T
        first, second = (x.masked_fill(torch.eye(N, dtype=torch.bool), -1e8).topk(k).indices for x in (K, L))
        a, b = (torch.zeros(N, N, dtype=K.dtype).scatter(1, x, 1.0) for x in (first, second))
        mutual = ((a * b).sum(1) / k).mean()
        cycle = (first[second] == torch.arange(N)[:, None, None]).flatten(1).any(1).to(K.dtype).mean()
        squares = ((x[:, None] - x).square().sum(2) for x in (A, B))
        kernels = cka(K, L, False), cka(K, L, True), cka(*((-x / 2).exp() for x in squares), False)
        own = hsic(a * K, a * K, True) * hsic(b * L, b * L, True)
        near = hsic(a * b * K, a * b * L, True) / (own.sqrt() + 1e-6)
        return torch.stack([mutual, cycle, *kernels, near])

    check("26 metrics", dense, A=rows(N, D), B=rows(N, D, seed=1), k=3)


def test_27_topology():
    def dense(predicted, target):
        return (predicted @ predicted.T - target @ target.T).square().sum() / len(target)

    check("27", dense, predicted=rows(N, D), target=rows(N, D, seed=1))


def test_28_dcd():
    def dense(scores, teacher, K):
        kept = teacher.argsort(1, descending=True)[:, : K + 1]
        columns = [[0, *([c for c in own if c != 0][:K])] for own in kept.tolist()]
        scores, teacher = scores.gather(1, torch.tensor(columns)), teacher.gather(1, kept)
        p = teacher.softmax(1)
        entropy = (p * p.log()).sum(1)
        h = entropy / entropy.sum()
        r = ((1 - h) ** 2).softmax(0)
        d_loss = (r * (teacher - scores).square().mean()).sum()  # one mean for all: the code's weights do nothing
        right = torch.zeros_like(scores)
        right[:, 0] = 1.0
        bce = F.softplus(scores) - right * scores
        return 0.2 * d_loss + 0.8 * (h * bce.mean(1)).sum()

    check("28", dense, frozen=("teacher",), scores=3.0 * rows(N, 8), teacher=3.0 * rows(N, 8, seed=1), K=4)


def test_29_best_query():
    def dense(q, t, tau):
        return clip(torch.einsum("iqd,jd->ijq", q, t).amax(2) / tau, smoothing=0.1)

    check("29", dense, q=rows(N, 4, D), t=rows(N, D, seed=1), tau=number(0.07))


def test_30_one_to_k():
    def dense(v, t, K, tau):
        S, n = v @ t.T / tau, len(v)
        R = torch.eye(n, dtype=S.dtype).repeat_interleave(K, 1)
        i2t = -(R * S.log_softmax(1)).sum(1).mean()
        t2i = -(R.T * S.T.log_softmax(1)).sum(1).mean()
        return 0.5 * (i2t + t2i) / K

    check("30", dense, v=rows(N, D), t=rows(N * 3, D, seed=1), K=3, tau=number(0.07))


def test_30_mean_rank_variance():
    def dense(v, t, K):
        scores = (t @ v.T).view(len(v), K, len(v))
        own = torch.stack([scores[i, :, i] for i in range(len(v))])
        places = 1.0 + (scores > own[:, :, None]).sum(2).double()
        return (places - places.mean(1, keepdim=True)).square().mean()

    check("30 MRV", dense, v=rows(N, D), t=rows(N * 3, D, seed=1), K=3)


def test_30_matching():
    def dense(v, t, K, tau, seed):
        own = torch.eye(len(v), dtype=torch.bool).repeat_interleave(K, 1)
        weights = ((v @ t.T / tau).softmax(1) + 1e-5).masked_fill(own, 0.0)
        return (v * t[drawn(weights.detach(), seed)[:, 0]]).sum(1)

    check("30 matching", dense, v=rows(N, D), t=rows(N * 3, D, seed=1), K=3, tau=number(0.07), seed=4)


def test_31_sepclr():
    def align(x, y):
        return (x - y).square().sum(1).mean()

    def uniform(x):
        i, j = torch.triu_indices(len(x), len(x), 1)
        return (-(x[i] - x[j]).square().sum(1)).exp().mean().log()

    def squares(x):
        return (x[:, None] - x[None]).square().sum(2)

    def k_jem(c, s):
        return ((-squares(s)).exp() * (-squares(c)).exp()).mean(1).log().mean()

    def dense(c1, c2, s1, s2, y, b_s, b_r, lam):
        c1, c2 = F.normalize(c1, dim=1), F.normalize(c2, dim=1)
        r1, r2 = (torch.where((y == 1)[:, None], s, 0.0) for s in (s1, s2))
        common = align(c1, c2) + uniform(c1) + uniform(c2)
        salient = align(s1[y == 1], s2[y == 1]) + uniform(r1) + uniform(r2)
        nothing = torch.zeros_like(s1[y == 0])
        infoless = 0.5 * (align(nothing, s1[y == 0]) + align(nothing, s2[y == 0]))
        return common + b_s * salient + b_r * infoless + lam * 0.5 * (k_jem(c1, r1) + k_jem(c2, r2))

    c1, c2, s1, s2 = (scale * rows(N, D, seed=seed) for seed, scale in enumerate((3.0, 3.0, 0.8, 0.8)))
    y = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])
    check("31", dense, c1=c1, c2=c2, s1=s1, s2=s2, y=y, b_s=1.0, b_r=100.0, lam=10.0)


def test_33_repblend():
    def dense(x, y, lam, perm, W_x, W_y, diagonal, L, R):
        u = F.normalize((lam * x + (1 - lam) * x[perm]) @ W_x, dim=1)
        w = F.normalize((lam * y + (1 - lam) * y[perm]) @ W_y, dim=1)
        P = torch.sigmoid(u @ w.T / 0.07)
        S = torch.diag(diagonal) + 3.0 / L.shape[1] * L @ R.T
        M = -S * (P + 1e-6).log() - (1 - S) * (1 - P + 1e-6).log()
        parts = [M[kept].sum() / (kept.sum().to(M.dtype) + 1e-6) for kept in (S > 0.5, S <= 0.5)]
        return 0.5 * (parts[0] + parts[1])

    check(
        "33", dense, x=rows(N, 5), y=rows(N, 7, seed=1), lam=0.3, perm=torch.randperm(N), W_x=rows(5, D, seed=2),
        W_y=rows(7, D, seed=3), diagonal=torch.linspace(0.6, 1.2, N, dtype=torch.float64), L=rows(N, 3, seed=4),
        R=0.4 * rows(N, 3, seed=5),
    )  # fmt: skip


def every_pair(U: Tensor) -> Tensor:
    """Scores of all views of all instances, (k, N, k, N)."""
    return torch.einsum("kid,mjd->kimj", U, U) / 0.5


def positive_pairs(scores: Tensor) -> Tensor:
    """e^s of the ordered pairs of views of one instance, (k, k, N), 0 for a view with itself."""
    k, n = scores.shape[:2]
    own = scores[:, torch.arange(n), :, torch.arange(n)].permute(1, 2, 0).exp()
    return own.masked_fill(torch.eye(k, dtype=torch.bool)[:, :, None], 0.0)


def test_35_modality_integration_rate():
    """mir.py and mir_util.py, mode "accurate"; the root by eigenvalues of the product instead of scipy."""

    def cleaned(data):
        norms = data.norm(dim=-1)
        data = data.clone()
        data[(norms - norms.median()).abs() > 3 * norms.std()] = data.median(0).values
        return data

    def dense(vision, text):
        total = 0.0
        for v, t in zip(vision, text, strict=True):
            scale = 1.0 / t.norm(dim=-1).mean()
            v, t = cleaned(scale * v), cleaned(scale * t)
            first, second = torch.cov(v.T), torch.cov(t.T)
            root = torch.linalg.eigvals(first @ second).real.clamp_min(0).sqrt().sum()
            total = total + (v.mean(0) - t.mean(0)).square().sum() + first.trace() + second.trace() - 2 * root
        return total.log10()

    layers = [[rows(20, D, seed=seed) * (1.0 + 0.1 * seed) for seed in pair] for pair in ((0, 1), (2, 3))]
    vision, text = zip(*layers, strict=True)
    vision[0][3] *= 9.0  # an outlier
    check("35", dense, vision=list(vision), text=list(text))


def test_36_mv_infonce():
    def dense(U):
        scores = every_pair(U)
        k, n = scores.shape[:2]
        itself = torch.eye(k * n, dtype=torch.bool).view(k, n, k, n)
        others = scores.exp().masked_fill(itself, 0.0).sum((0, 2, 3))
        return -(positive_pairs(scores).sum((0, 1)) / others).log().mean()

    check("36 MV-InfoNCE", dense, U=rows(3, N, D))


def test_36_mv_infonce_of_the_paper():
    def dense(U):
        scores = every_pair(U)
        within = torch.eye(len(U), dtype=torch.bool)[:, None, :, None]
        others = scores.exp().masked_fill(within, 0.0).sum((0, 2, 3))
        return -(positive_pairs(scores).sum((0, 1)) / others).log().mean()

    check("36 MV-InfoNCE of the paper", dense, U=rows(3, N, D))


def test_36_mv_dhel():
    def dense(U):
        positive = 0.5 * positive_pairs(every_pair(U)).sum((0, 1))
        energy = torch.stack([off_diagonal(x @ x.T / 0.5).exp().sum(1) for x in U]).prod(0)
        return -(positive / energy).log().mean()

    check("36 MV-DHEL", dense, U=rows(3, N, D))


def test_36_baselines():
    def nt_xent(a, b):
        z = torch.cat([a, b])
        return ce(off_diagonal(z @ z.T / 0.5), torch.arange(len(z)).roll(len(a)))

    def dense(U):
        pairs = (nt_xent(U[0], U[1]) + nt_xent(U[0], U[2]) + nt_xent(U[1], U[2])) / 3
        means = (0.5 * (U[1] + U[2]), 0.5 * (U[0] + U[2]), 0.5 * (U[0] + U[1]))
        return pairs + sum(nt_xent(x, mean) for x, mean in zip(U, means, strict=True)) / 3

    check("36 PWE and AVG", dense, U=rows(3, N, D))


def test_37_mod_x():
    def direction(new, old):
        wrong = old.argmax(1) != torch.arange(len(old))
        old = torch.where(wrong[:, None], new, old)
        return F.kl_div(new.log_softmax(1), old.softmax(1), reduction="sum")

    def dense(f, g, f_old, g_old, s):
        S, S_old = f @ g.T, f_old @ g_old.T
        return clip(s * S) + 20 * 0.5 * (direction(S, S_old) + direction(S.T, S_old.T))

    f_old = rows(N, D, seed=2)
    g_old = F.normalize(f_old + 1.2 * rows(N, D, seed=3), dim=1)  # finds some partners
    right = ((f_old @ g_old.T).argmax(1) == torch.arange(N)).sum()
    assert 0 < right < N
    check(
        "37", dense, frozen=("f_old", "g_old"), f=rows(N, D), g=rows(N, D, seed=1), f_old=f_old, g_old=g_old,
        s=number(14.0),
    )  # fmt: skip


def test_38_mcl():
    def dense(f, g, s, cluster):
        same = cluster[:, None] == cluster[None]
        return clip((s * f @ g.T).masked_fill(~same, -torch.inf))

    check(
        "38", dense, f=rows(N, D), g=rows(N, D, seed=1), s=number(14.0), cluster=torch.tensor([0, 1, 0, 0, 2, 1, 1, 3])
    )


def test_40_clip_refine():
    def half(S, S_t):
        target = 0.5 * torch.eye(len(S), dtype=S.dtype) + 0.5 * S_t.softmax(1)
        return F.kl_div(S.log_softmax(1), target, reduction="batchmean")

    def dense(f_I, f_T, t_I, t_T, z):
        S, S_t = f_I @ f_T.T, t_I @ t_T.T
        hycd = 0.5 * (half(S, S_t) + half(S.T, S_t.T))
        return (f_I - z).square().mean() + (f_T - z).square().mean() + hycd

    f_I, f_T, t_I, t_T = (scale * rows(N, D, seed=seed) for seed, scale in enumerate((2.0, 3.0, 3.0, 2.0)))
    check("40", dense, frozen=("t_I", "t_T", "z"), f_I=f_I, f_T=f_T, t_I=t_I, t_T=t_T, z=rows(N, D, seed=4))


def test_41_interclr():
    def head(positive, negative):
        logits = torch.cat([positive[:, None], negative], 1) / 0.2
        return ce(logits, torch.zeros(len(logits), dtype=torch.long))

    def dense(q, k, queue, positive, bank):
        intra = head((q * k).sum(1), q @ queue.T)
        inter = head((q * positive).sum(1) + 0.5, q @ bank.T)
        return 0.75 * intra + 0.25 * inter

    check(
        "41", dense, frozen=("k", "queue", "positive", "bank"), q=rows(N, D), k=rows(N, D, seed=1),
        queue=rows(9, D, seed=2), positive=rows(N, D, seed=3), bank=rows(11, D, seed=4),
    )  # fmt: skip


def test_41_by_index():
    def dense(q, bank, same, drawn):
        negative = torch.einsum("nd,nkd->nk", q, bank[drawn])
        logits = torch.cat([(q * bank[same]).sum(1, keepdim=True) + 0.5, negative], 1) / 0.2
        return ce(logits, torch.zeros(len(logits), dtype=torch.long))

    drawn = torch.arange(6 * N).view(N, 6) * 5 % 13
    check("41 by index", dense, q=rows(N, D), bank=rows(13, D, seed=1), same=torch.arange(N) + 2, drawn=drawn)


@pytest.mark.parametrize("m", [0.4, -0.5])
def test_41_arc(m):
    def dense(q, positive, bank, m):
        c = (q * positive).sum(1)
        turned = c * math.cos(m) - (1 - c * c).clamp_min(0).sqrt() * math.sin(m)
        if m >= 0:
            turned = torch.where(c > math.cos(math.pi - m), turned, c - math.sin(math.pi - m) * m)
        else:
            turned = torch.where(c < math.cos(m), turned, c + math.sin(m) * m)
        logits = torch.cat([turned[:, None], q @ bank.T], 1) / 0.2
        return ce(logits, torch.zeros(len(logits), dtype=torch.long))

    q = rows(N, D)
    near = torch.tensor([3.0, 3.0, -3.0, 0.0, 0.5, -0.5, -3.0, 0.0], dtype=torch.float64)[:, None]
    positive = F.normalize(rows(N, D, seed=1) + near * q, dim=1)
    beyond = (q * positive).sum(1) > math.cos(m if m < 0 else math.pi - m)
    assert 0 < beyond.sum() < N  # both sides of where the formula changes
    check("41 arc", dense, frozen=("bank",), q=q, positive=positive, bank=rows(11, D, seed=2), m=m)


def test_41_semi_hard():
    def dense(q, positive, bank, labels, seed):
        """Draws of the pool until there are four different ones, equal labels drawn anew."""
        pool = torch.zeros(len(q), len(bank)).scatter_(1, (q @ bank.T).topk(9, 1).indices, 1.0)
        lots = drawn(pool.masked_fill(labels[: len(q), None] == labels, 0.0), seed, 8)
        index = torch.stack([torch.tensor(list(dict.fromkeys(own))[:4]) for own in lots.tolist()])
        logits = torch.cat([(q * positive).sum(1, keepdim=True), torch.einsum("nd,nkd->nk", q, bank[index])], 1) / 0.2
        return ce(logits, torch.zeros(len(q), dtype=torch.long))

    labels = torch.arange(30) % 7
    check(
        "41 semi-hard", dense, frozen=("bank", "positive"), q=rows(N, D), positive=rows(N, D, seed=1),
        bank=rows(30, D, seed=2), labels=labels, seed=1,
    )  # fmt: skip


def test_42_matching():
    def dense(v, w, tau, seed):
        return (v * w[wrong_of((v @ w.T / tau).softmax(1), seed)]).sum(1)

    check("42 matching", dense, v=rows(N, D), w=rows(N, D, seed=1), tau=number(0.07), seed=2)


def test_42_albef():
    def direction(x, teacher, keys, tau):
        one = torch.eye(len(x), len(keys), dtype=x.dtype)
        target = 0.4 * (teacher @ keys.T / tau).softmax(1).detach() + 0.6 * one
        return soft_ce(x @ keys.T / tau, target)

    def dense(v, w, v_m, w_m, Q_v, Q_w, tau):
        i2t = direction(v, v_m, torch.cat([w_m, Q_w]), tau)
        return 0.5 * (i2t + direction(w, w_m, torch.cat([v_m, Q_v]), tau))

    check(
        "42", dense, frozen=("v_m", "w_m", "Q_v", "Q_w"), v=rows(N, D), w=rows(N, D, seed=1), v_m=rows(N, D, seed=2),
        w_m=rows(N, D, seed=3), Q_v=rows(9, D, seed=4), Q_w=rows(9, D, seed=5), tau=number(0.07),
    )  # fmt: skip


def test_43_retrieval():
    def dense(q, p, P):
        total = 0.0
        for a in range(P):
            documents = torch.cat([p[:, a : a + 1], p[:, P:]], 1)  # of every query, its positive first
            labels = torch.arange(len(q)) * documents.shape[1]
            total = total + ce(q @ documents.flatten(0, 1).T / 0.02, labels)
        return total / P

    check("43 retrieval", dense, magnitude=50.0, q=rows(N, D), p=rows(N, 6, D, seed=1), P=2)


def test_43_similarity():
    def dense(x, y):
        n, x_of, order = len(y), x / 0.05, y.argsort(descending=True, stable=True)
        scores, gold = x_of[order], y[order]
        terms = []
        for k in range(n - 1):
            lower = [j for j in range(k + 1, n) if gold[k] - gold[j] > 1e-8]
            if lower:
                weights = torch.stack([gold[k] - gold[j] for j in lower])
                others = (weights * scores[lower]).exp().sum()
                own = (weights.max() * scores[k]).exp()
                terms.append(-(own / (own + others)).log())
        rank = torch.stack([(y > a).sum() + 0.5 * ((y == a).sum() - 1) for a in y]).to(y.dtype)
        target = ((n - 1 - rank) / (n - 1) / 0.05).softmax(0)
        rank_kl = (target * (target.log() - x_of.log_softmax(0))).sum() / n
        centred = (x - x.mean(), y - y.mean())
        pearson = 1 - (centred[0] * centred[1]).mean() / (x.std(unbiased=False) * y.std(unbiased=False))
        return 0.5 * torch.stack(terms).mean() + 2 * pearson + 5 * rank_kl

    x = torch.linspace(-0.4, 0.9, N, dtype=torch.float64)[torch.tensor([3, 0, 6, 2, 7, 1, 5, 4])]
    y = torch.tensor([1.0, 0.0, 3.0, 1.0, 4.5, 0.0, 2.0, 3.0], dtype=torch.float64)  # with equal grades
    check("43 similarity", dense, frozen=("y",), magnitude=90.0, x=x, y=y)


def test_44_subjects():
    def dense(z, subject):
        logits = off_diagonal(z @ z.T / 0.1)
        same = (subject[:, None] == subject[None]).fill_diagonal_(False)
        total = logits.logsumexp(1) - torch.where(same, logits, 0.0).sum(1) / same.sum(1).clamp_min(1)
        return total[same.any(1)].mean()

    check("44", dense, z=rows(N, D), subject=torch.tensor([0, 0, 1, 2, 1, 2, 2, 3]))


def weighted_contrast(e: Tensor, m: Tensor) -> Tensor:
    """M3EL's WeightedContrastiveLoss: the logit of an item with itself is 0, not left out."""

    def half(x, y):
        other = 1.0 - torch.eye(len(x), dtype=x.dtype)
        return ce(torch.cat([x @ y.T / 0.03, 0.8 * other * (x @ x.T / 0.03)], 1))

    return 0.5 * (half(e, m) + half(m, e))


def test_45_m3el():
    def dense(e_text, m_text, e_image, m_image, mention, entity):
        contrast = 0.5 * (weighted_contrast(e_text, m_text) + weighted_contrast(e_image, m_image))
        return contrast + ce(mention @ entity.T)

    check(
        "45", dense, magnitude=34.0, e_text=rows(N, D), m_text=rows(N, D, seed=1), e_image=rows(N, D, seed=2),
        m_image=rows(N, D, seed=3), mention=2.0 * rows(N, D, seed=4), entity=2.0 * rows(N, D, seed=5),
    )  # fmt: skip


def test_45_tokens():
    def dense(query, keys, value, entity_cls, gain, shift, mention, entity):
        local = []
        for m in range(len(keys)):
            row = []
            for e in range(len(query)):
                attended = (query[e] @ keys[m].T / D**0.5).softmax(1) @ value[m]
                normed = F.layer_norm(attended.mean(0), (D,), gain, shift)
                row.append((entity_cls[e] * normed).sum())
            local.append(torch.stack(row))
        return ce(0.5 * (torch.stack(local) + mention @ entity.T))

    n = 4
    check(
        "45 tokens", dense, query=2.0 * rows(n, 3, D), keys=2.0 * rows(n, 5, D, seed=1),
        value=2.0 * rows(n, 5, D, seed=2), entity_cls=rows(n, D, seed=3), gain=1.0 + rows(D, seed=4),
        shift=rows(D, seed=5),
        mention=2.0 * rows(n, D, seed=6), entity=2.0 * rows(n, D, seed=7),
    )  # fmt: skip


def per_positive(logits: Tensor, y: Tensor, y2: Tensor, y_k: Tensor) -> Tensor:
    """Each positive against the negatives alone; the mean over all of them."""
    own, partner = y[:, None] == y_k[None], y2[:, None] == y_k[None]
    negative = (logits.exp() * ~(own | partner)).sum(1, keepdim=True)
    each = (logits.exp() + negative).log() - logits
    return (partner * each).sum() / partner.sum()


Y, Y2 = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), torch.tensor([1, 2, 2, 0, 3, 0, 1, 3])


def test_46_hydra():
    def dense(z, g, y, y2):
        query = F.normalize(z * g, dim=1)
        keys = F.normalize(z[None] * g[:, None], dim=2)  # (B, N, K), as the official code forms it
        return per_positive(10.0 * torch.einsum("bd,bnd->bn", query, keys), y, y2, y)

    g = torch.linspace(0.1, 0.95, N * D, dtype=torch.float64).view(N, D)[:, torch.randperm(D)]
    check("46 Hydra", dense, z=3.0 * rows(N, D), g=g, y=Y, y2=Y2)


def test_46_simlap():
    def dense(z, k, g, y, y2, y_k):
        logits = 10.0 * (F.normalize(z, dim=1) * g * g) @ F.normalize(k, dim=1).T
        return per_positive(logits, y, y2, y_k)

    g = torch.linspace(0.1, 0.95, N * D, dtype=torch.float64).view(N, D)
    check("46 SimLAP", dense, z=3.0 * rows(N, D), k=rows(11, D, seed=1), g=g, y=Y, y2=Y2, y_k=torch.arange(11) % 4)


LABELS = torch.tensor([[3, 1, 7, 0], [2, 2, 0, 0], [9, 5, 4, 6]])  # 0 is padding


def captions(hidden: Tensor, W: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ W.T).flatten(0, -2)
    return F.cross_entropy(logits, labels.flatten(), ignore_index=0)


def test_47_urbanclip():
    def dense(f, g, s, hidden, W, labels):
        return clip(s * f @ g.T) + captions(hidden, W, labels)

    check(
        "47", dense, f=rows(N, D), g=rows(N, D, seed=1), s=number(14.0), hidden=3.0 * rows(3, 4, D, seed=2),
        W=2.0 * rows(10, D, seed=3), labels=LABELS,
    )  # fmt: skip


def asymmetric_nce(v: Tensor, t: Tensor) -> Tensor:
    """VATT: one log-sum-exp over the texts of all for this video and over the videos of all for its texts."""
    scores = torch.einsum("id,jld->ijl", v, t) / 0.07
    n = len(v)
    own = scores[torch.arange(n), torch.arange(n)].logsumexp(1)
    every = torch.cat([scores.flatten(1), scores.transpose(0, 1).flatten(1)], 1).logsumexp(1)
    return (every - own).mean()


def test_48_realignment():
    def dense(g_va, g_vt):
        dot = (g_va * g_vt).sum()
        assert dot < 0
        return g_va - dot / g_vt.square().sum() * g_vt + g_vt - dot / g_va.square().sum() * g_va

    check("48 realignment", dense, g_va=rows(N, D), g_vt=rows(N, D, seed=1) - 0.5 * rows(N, D))


def test_48_base_losses():
    def dense(v, t, a):
        return (asymmetric_nce(v, t) + asymmetric_nce(v, a[:, None])) / 2

    check("48 base losses", dense, v=rows(N, D), t=rows(N, 3, D, seed=1), a=rows(N, D, seed=2))


def test_49_objective():
    def dense(x, y, tau_x, tau_y, rho):
        S = x @ y.T
        others = ~torch.eye(len(x), dtype=torch.bool)

        def side(similarity, tau):
            h = similarity - similarity.diagonal()[:, None]
            expected = ((h / tau[:, None]).exp() * others).sum(1) / (len(x) - 1)
            return tau * expected.log() + tau * rho

        return (side(S, tau_x) + side(S.T, tau_y)).mean()

    tau = torch.linspace(0.05, 0.3, N, dtype=torch.float64)
    check("49", dense, x=rows(N, D), y=rows(N, D, seed=1), tau_x=tau, tau_y=tau.flip(0), rho=6.0)


def test_49_isogclr():
    """The first step; tests/test_stateful.py has those that follow."""

    def dense(x, y, index, samples):
        S = x @ y.T

        def side(similarity):
            h = similarity - similarity.diagonal()[:, None]
            e = (h / 0.125).exp().detach()
            g = e.sum(1, keepdim=True) / (len(x) - 1)
            s = 0.2 * 0.0 + 0.8 * g  # the average began at 0
            return (e / s * h).sum(1) / (len(x) - 1)

        return (side(S) + side(S.T)).mean()

    check("49 iSogCLR", dense, x=rows(N, D), y=rows(N, D, seed=1), index=torch.arange(N) + 3, samples=20)


def test_49_rgcl():
    """The first step, where averages are those of the batch; tests/test_stateful.py has those that follow."""

    def dense(x, y, index, samples):
        S, others = x @ y.T, ~torch.eye(N, dtype=torch.bool)

        def side(similarity):
            h = (similarity - similarity.diagonal()[:, None]) / 0.125
            return (0.125 * ((h.exp() * others).sum(1).div(N - 1).log() + 6.0)).mean()

        return side(S) + side(S.T)

    check("49 RGCL", dense, x=rows(N, D), y=rows(N, D, seed=1), index=torch.arange(N) + 3, samples=20)

"""Papers 1 to 25: the code of docs/papers.md against their formulas, written densely from papers and official code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from support.papers import ce, check, clip, number, off_diagonal, rows, soft_ce, wrong_of

N, D = 8, 6


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    return 1.0 - F.cosine_similarity(x, y, dim=-1).mean()


def test_1_inversion():
    check("1", lambda u, f: cosine_distance(u, f), u=rows(N, D), f=rows(N, D, seed=1))


def test_1_retrieval():
    def dense(f, labels):
        figures = []
        for i, label in enumerate(labels):
            others = torch.arange(len(f)) != i
            right = (labels == label)[others][(f @ f[i])[others].argsort(descending=True)].double()
            precision, count = right.cumsum(0) / torch.arange(1, len(f)), int(right.sum())
            average = [(precision * right)[:k].sum() / max(min(count, k), 1) for k in (len(f), count + 1)]
            figures.append(torch.stack([*average, right[:count].sum() / max(count, 1), right[0]]))
        return torch.stack(figures).mean(0)

    check("1 retrieval", dense, f=rows(N, D), labels=torch.tensor([0, 1, 0, 2, 1, 0, 3, 1]))


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    z = torch.cat([a, b])
    return ce(off_diagonal(z @ z.T / temperature), torch.arange(len(z)).roll(len(a)))


def test_1_slip():
    def dense(image, text, view1, view2, s):
        return clip(s * image @ text.T) + nt_xent(view1, view2, 0.1)

    check(
        "1 SLIP", dense, image=rows(N, D), text=rows(N, D, seed=1), view1=rows(N, D, seed=2), view2=rows(N, D, seed=3),
        s=number(14.0),
    )  # fmt: skip


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(len(z), len(z), 1)
    return (-t * (z[i] - z[j]).square().sum(1)).exp().mean().log()


def test_2_contrastive_gap():
    def cua(X, Y):
        both = 0.5 * uniformity(X) + 0.5 * uniformity(Y)
        return clip(100.0 * X @ Y.T) + both + (X - Y).square().sum(1).mean()

    def cuaxu(X, Y):
        other = ~torch.eye(len(X), dtype=torch.bool)
        across = (-2.0 * (X[:, None] - Y[None]).square().sum(2)[other]).exp().mean().log()
        return cua(X, Y) + across

    check("2 CUA", cua, magnitude=100.0, X=rows(N, D), Y=rows(N, D, seed=1))
    check("2 CUAXU", cuaxu, magnitude=100.0, X=rows(N, D), Y=rows(N, D, seed=1))


def one_way(query: Tensor, key: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Gathered without gradient."""
    return ce(scale * query @ key.detach().T, smoothing=smoothing)


def test_3_cl2l():
    def dense(z_I, z_T, h_I, h_T, s, s_h):
        count = len(h_I)

        def towards(z, other, h, others):
            local = [one_way(x, y, s_h, 0.1) for x in h for y in others]
            return (one_way(z, other, s) + count * sum(local) / len(local)) / (1 + count)

        return 0.5 * (towards(z_I, z_T, h_I, h_T) + towards(z_T, z_I, h_T, h_I))

    check(
        "3 CL2L", dense, z_I=rows(N, D), z_T=rows(N, D, seed=1), h_I=rows(2, N, D, seed=2), h_T=rows(2, N, D, seed=3),
        s=number(14.0), s_h=number(10.0),
    )  # fmt: skip


def test_3_barlip():
    def dense(v_I, v_T):
        c = v_I.T @ v_T / len(v_I)
        diagonal = c.diagonal()
        return 0.025 * ((diagonal - 1).square().sum() + 0.005 * (c.square().sum() - diagonal.square().sum()))

    generator = torch.Generator().manual_seed(5)
    v_I, v_T = F.batch_norm(
        torch.randn(2, N, D, generator=generator, dtype=torch.float64).flatten(1), None, None, training=True
    ).view(2, N, D)
    check("3 BarLIP", dense, v_I=v_I, v_T=v_T)


def test_3_siamlip():
    def c(p, v):
        return 2.0 - 2.0 * F.cosine_similarity(p, v.detach(), dim=1).mean()

    def dense(p_I, p_T, v_I, v_T):
        pairs = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
        return sum(c(p_I[a], v_T[b]) + c(p_T[b], v_I[a]) for a, b in pairs) / (2 + 2 * 2 * 2)

    p_I, p_T, v_I, v_T = (2.0 * rows(3, N, D, seed=seed) for seed in range(4))
    check("3 SiamLIP", dense, p_I=p_I, p_T=p_T, v_I=v_I, v_T=v_T)


def test_3_swalip():
    def sinkhorn(cosines: Tensor) -> Tensor:
        """As the official code writes it."""
        q = (cosines / 0.05).exp().T
        q = q / q.sum()
        k, b = q.shape
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / k
            q = q / q.sum(0, keepdim=True) / b
        return (q * b).T.detach()

    def dense(h_I, h_T, s_h):
        total = 0.0
        for a in (0, 1):
            for b in (0, 1):
                other_i, other_t = h_I[1 - a], h_T[1 - b]
                image = soft_ce(s_h * h_I[a] @ h_T[b].detach().T, sinkhorn(other_i @ other_t.T))
                text = soft_ce(s_h * h_T[b] @ h_I[a].detach().T, sinkhorn(other_t @ other_i.T))
                total = total + 0.5 * (image + text)
        return total / 4

    check("3 SwALIP", dense, h_I=rows(2, N, D), h_T=rows(2, N, D, seed=1), s_h=number(10.0))


def momentum_target(teacher: Tensor, keys: Tensor, tau: Tensor, hard: Tensor, alpha: float = 0.4) -> Tensor:
    return alpha * (teacher @ keys.T / tau).softmax(1).detach() + (1 - alpha) * hard


def same_index(n: int, m: int) -> Tensor:
    return torch.eye(n, m, dtype=torch.float64)


def test_4_tcl():
    def dense(f_I, f_T, m_I, m_T, Q_I, Q_T, l_I, l_T, mask, tau):
        K_I, K_T, n = torch.cat([m_I, Q_I]), torch.cat([m_T, Q_T]), len(f_I)

        def cma(f, m, keys):
            target = momentum_target(m, keys, tau, same_index(n, len(keys)).to(f.dtype))
            return soft_ce(f @ keys.T / tau, target)

        def lmi(f, local, valid):
            u = torch.einsum("nd,mld->nml", f, local) / tau
            others = ~torch.eye(n, dtype=torch.bool)[:, :, None] & valid[None]
            negatives = u.masked_fill(~others, -torch.inf).flatten(1).logsumexp(1)
            own = F.softplus(negatives[:, None] - u[torch.arange(n), torch.arange(n)])
            return ((own * valid).sum(1) / valid.sum(1)).mean()

        every = torch.ones(l_I.shape[:2], dtype=torch.bool)
        terms = [lmi(f_T, l_T, mask), lmi(f_I, l_I, every), cma(f_I, m_I, K_T), cma(f_T, m_T, K_I)]
        return sum([*terms, ce(f_I @ K_I.T / tau), ce(f_T @ K_T.T / tau)]) / 6

    local = 0.8 * rows(N, 4, D, seed=6)  # means of unit vectors
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2, 5, 3])[:, None]
    check(
        "4", dense, frozen=("m_I", "m_T", "Q_I", "Q_T", "l_I", "l_T"), f_I=rows(N, D), f_T=rows(N, D, seed=1),
        m_I=rows(N, D, seed=2), m_T=rows(N, D, seed=3), Q_I=rows(7, D, seed=4), Q_T=rows(7, D, seed=5), l_I=local,
        l_T=rows(N, 5, D, seed=7), mask=mask, tau=number(0.1),
    )  # fmt: skip


def test_4_fine_tuning():
    def dense(f_I, m_I, m_T, Q_T, idx, queue_idx, tau):
        keys, every = torch.cat([m_T, Q_T]), torch.cat([idx, queue_idx])
        same = (idx[:, None] == every[None]).to(f_I.dtype)
        target = momentum_target(m_I, keys, tau, same / same.sum(1, keepdim=True))
        return soft_ce(f_I @ keys.T / tau, target)

    check(
        "4 fine-tuning", dense, frozen=("m_I", "m_T", "Q_T"), f_I=rows(N, D), m_I=rows(N, D, seed=1),
        m_T=rows(N, D, seed=2), Q_T=rows(5, D, seed=3), idx=torch.tensor([0, 1, 0, 2, 3, 1, 4, 5]),
        queue_idx=torch.tensor([0, 9, 3, -100, -100]), tau=number(0.1),
    )  # fmt: skip


def test_4_matching():
    def dense(f_I, f_T, tau, seed):
        return (f_I * f_T[wrong_of((f_I @ f_T.T / tau).softmax(1), seed)]).sum(1)

    check("4 matching", dense, f_I=rows(N, D), f_T=rows(N, D, seed=1), tau=number(0.07), seed=3)


def test_5_cwcl():
    def dense(p, q, s):
        w = (0.5 * p @ p.T + 0.5).detach()
        weighted = -(w * (s * p @ q.T).log_softmax(1)).sum(1) / w.sum(1)
        return weighted.mean() + ce(s * q @ p.T)

    check("5", dense, p=rows(N, D), q=rows(N, D, seed=1), s=number(14.0))


def test_6_cma():
    def dense(X, Y, s):
        S, lam = s * X @ Y.T, 0.001
        image = ce(S) - lam * S.logsumexp(1).mean()
        text = ce(S.T) - lam * S.logsumexp(0).mean()
        return 0.5 * (image + text)

    check("6", dense, X=rows(N, D), Y=rows(N, D, seed=1), s=number(14.0))


def test_6_neg_label():
    def dense(X, Y_id, Y_neg):
        return (X @ torch.cat([Y_id, Y_neg]).T / 0.01).softmax(1)[:, : len(Y_id)].sum(1)

    check("6 NegLabel", dense, magnitude=100.0, X=rows(N, D), Y_id=rows(5, D, seed=1), Y_neg=rows(9, D, seed=2))


def test_6_mcm():
    check("6 MCM", lambda X, Y_id: (X @ Y_id.T).softmax(1).amax(1), X=rows(N, D), Y_id=rows(5, D, seed=1))


def test_7_symile():
    def dense(a, b, c, permutations, s):
        every, n = (a, b, c), len(a)
        total = 0.0
        for m, anchor in enumerate(every):
            others = [x for other, x in enumerate(every) if other != m]
            column = others[0][permutations[m, 0]] * others[1][permutations[m, 1]]
            logits = s * anchor @ column.T
            true = s * (a * b * c).sum(1)
            total = total + ce(torch.where(torch.eye(n, dtype=torch.bool), true[:, None], logits))
        return total / 3

    generator = torch.Generator().manual_seed(3)
    permutations = torch.stack([torch.randperm(N, generator=generator) for _ in range(6)]).view(3, 2, N)
    a, b, c = (2.0 * rows(N, D, seed=seed) for seed in range(3))
    check("7 n", dense, a=a, b=b, c=c, permutations=permutations, s=number(3.0))


def test_7_all_tuples():
    def dense(a, b, c, s):
        scores = s * torch.einsum("id,jd,kd->ijk", a, b, c)
        true = s * (a * b * c).sum(1)
        anchors = (scores.flatten(1), scores.transpose(0, 1).flatten(1), scores.permute(2, 0, 1).flatten(1))
        return sum((x.logsumexp(1) - true).mean() for x in anchors) / 3

    a, b, c = (2.0 * rows(6, D, seed=seed) for seed in range(3))
    check("7 n_squared", dense, a=a, b=b, c=c, s=number(3.0))


def volumes(anchor: Tensor, *others: Tensor) -> Tensor:
    """Of every anchor with every tuple of the others."""
    n, m = len(anchor), len(others[0])
    every = torch.stack([anchor[:, None].expand(n, m, -1), *(x[None].expand(n, m, -1) for x in others)], 2)
    return torch.linalg.det(every @ every.mT).abs().sqrt()


def test_8_gram():
    def dense(t, v, a, tau):
        rows_of = -volumes(t, v.detach(), a.detach()) / tau
        columns_of = -volumes(t.detach(), v, a).T / tau
        return 0.5 * (ce(rows_of, smoothing=0.1) + ce(columns_of, smoothing=0.1))

    check("8", dense, t=rows(N, D), v=rows(N, D, seed=1), a=rows(N, D, seed=2), tau=number(0.07))


def test_8_matching():
    def dense(t, v, a, tau, seed):
        wrong = wrong_of((-volumes(t, v, a) / tau).softmax(1) + 1e-4, seed)
        return (t * v[wrong]).sum(1)

    t, v, a = rows(N, D), rows(N, D, seed=1), rows(N, D, seed=2)
    check("8 matching", dense, t=t, v=v, a=a, tau=number(0.07), seed=3)


def test_9_more():
    def dense(n, x, e):
        n, x, e = (F.normalize(v, dim=1) for v in (n, x, e))
        return 0.5 * (ce(n @ x.T / 0.02) + ce(x @ n.T / 0.02)) + 0.5 * (ce(n @ e.T / 0.02) + ce(e @ n.T / 0.02))

    n, x, e = (3.0 * rows(N, D, seed=seed) for seed in range(3))
    check("9", dense, magnitude=50.0, n=n, x=x, e=e)


def test_10_clamr():
    def dense(E_q, E_d, modality, query_mask, M):
        E_q, E_d = E_q * query_mask[..., None], E_d * (modality > 0)[..., None]
        scores = torch.einsum("bqd,csd->bcqs", E_q, E_d)
        each = [scores.masked_fill(modality[None, :, None] != m, -torch.inf).amax(3).sum(2) for m in range(M + 1)]
        return ce(torch.stack(each).amax(0) / query_mask.sum(1, keepdim=True) / 0.02)

    n = 5
    query_mask = torch.arange(4) < torch.tensor([4, 2, 3, 4, 1])[:, None]
    modality = torch.tensor(
        [[1, 1, 2, 2, 3, 3], [1, 2, 2, 3, 0, 0], [2, 2, 3, 3, 3, 0], [1, 1, 1, 2, 3, 3], [1, 3, 3, 3, 0, 0]]
    )
    check(
        "10", dense, magnitude=50.0, E_q=rows(n, 4, D), E_d=rows(n, 6, D, seed=1), modality=modality,
        query_mask=query_mask, M=3,
    )  # fmt: skip


def test_10_hard_positives():
    def dense(E_q, E_d, modality, query_mask, M, label):
        E_q, E_d = E_q * query_mask[..., None], E_d * (modality > 0)[..., None]
        scores = torch.einsum("bqd,csd->bcqs", E_q, E_d)
        each = [scores.masked_fill(modality[None, :, None] != m, -torch.inf).amax(3).sum(2) for m in range(M + 1)]
        place = torch.arange(len(E_q))
        labelled = torch.stack(each)[label, place, place].diag()
        logits = torch.where(torch.eye(len(E_q), dtype=torch.bool), labelled, torch.stack(each).amax(0))
        return ce(logits / query_mask.sum(1, keepdim=True) / 0.02)

    n = 4
    query_mask = torch.arange(4) < torch.tensor([4, 2, 3, 1])[:, None]
    modality = torch.tensor([[1, 1, 2, 2, 3, 3], [1, 2, 2, 3, 0, 0], [2, 2, 3, 3, 3, 0], [1, 1, 1, 2, 3, 3]])
    check(
        "10 hard positives", dense, magnitude=50.0, E_q=rows(n, 4, D), E_d=rows(n, 6, D, seed=1), modality=modality,
        query_mask=query_mask, M=3, label=torch.tensor([1, 3, 2, 1]),
    )  # fmt: skip


def test_11_cosine():
    def dense(rendering, prompt):
        return cosine_distance(rendering, prompt.detach())

    check("11", dense, rendering=rows(N, D), prompt=rows(N, D, seed=1))


def test_12_cosmo():
    check("12", lambda t, v, theta: clip(theta.exp() * t @ v.T), t=rows(N, D), v=rows(N, D, seed=1), theta=number(0.2))


def test_13_hard():
    def dense(f, g, K):
        s = f @ g.T
        others = off_diagonal(s).detach().sort(1, descending=True).values
        threshold = 0.5 * (others[:, K - 1] + others[:, K])
        hard = s.masked_fill(off_diagonal(s) < threshold[:, None], -torch.inf)
        negatives = (off_diagonal(hard) / 0.7).exp().sum(1)
        own = (s.diagonal() / 0.7).exp()
        return -(own / (negatives + own)).log().mean()

    check("13", dense, f=rows(N, D), g=rows(N, D, seed=1), K=3)


def test_13_simple():
    def dense(f, g, lam):
        s = f @ g.T
        return (-s.diagonal() + lam * (s.sum(1) - s.diagonal())).mean()

    check("13 simple", dense, f=rows(N, D), g=rows(N, D, seed=1), lam=0.2)


def test_13_hard_simple():
    def dense(f, g, bank, lam, K):
        s = (f @ bank.T).sort(1, descending=True).values[:, :K]
        return (-(f * g).sum(1) + lam * s.sum(1)).mean()

    check("13 hard simple", dense, f=rows(N, D), g=rows(N, D, seed=1), bank=rows(12, D, seed=2), lam=0.2, K=3)


def test_13_uniformity():
    check("13 uniformity", lambda f: uniformity(f), f=rows(N, D))


def test_13_tolerance():
    def dense(f, labels):
        f, other = F.normalize(f, dim=1), ~torch.eye(len(f), dtype=torch.bool)
        return (f @ f.T * (labels[:, None] == labels))[other].mean()

    check("13 tolerance", dense, f=rows(N, D), labels=LABELS)


LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])


def supervised(logits: Tensor, same: Tensor) -> Tensor:
    """Of rows with a positive: the mean over positives is outside of the logarithm."""
    each = logits.logsumexp(1) - (logits * same).sum(1) / same.sum(1).clamp_min(1)
    return each[same.any(1)].mean()


def test_14_rehearsal():
    def dense(a, a_teacher, y, rehearsed):
        others = off_diagonal(a @ a.T / 0.1).logsumexp(1)
        same = (y[:, None] == y[None]) & rehearsed
        each = others - (same * (a @ a_teacher.T / 0.1)).sum(1) / same.sum(1).clamp_min(1)
        return each[rehearsed].mean()

    check(
        "14 student and teacher", dense, frozen=("a_teacher",), a=rows(N, D), a_teacher=rows(N, D, seed=1), y=LABELS,
        rehearsed=torch.tensor([True, False, True, True, False, True, True, False]),
    )  # fmt: skip


def test_14_across_modalities():
    def dense(a, t, y):
        logits, same = a @ t.T / 0.1, y[:, None] == y[None]
        return supervised(logits, same) + supervised(logits.T, same)

    check("14 across modalities", dense, a=rows(N, D), t=rows(N, D, seed=1), y=LABELS)


def test_15_temperatures():
    def dense(a, t, reconstruction, tau_a, tau_t):
        s = a @ t.T
        pairs = 0.5 * (ce(s / tau_a[:, None]) + ce(s.T / tau_t[:, None]))
        return pairs + (reconstruction - t).square().mean()

    spread = torch.linspace(0.05, 0.3, N, dtype=torch.float64)
    check(
        "15", dense, a=rows(N, D), t=rows(N, D, seed=1), reconstruction=rows(N, D, seed=2), tau_a=spread,
        tau_t=spread.flip(0),
    )  # fmt: skip


def first_of(query: Tensor, candidates: Tensor, scale: Tensor | float) -> Tensor:
    """Cross entropy of each query's own candidates, of which the first is right."""
    logits = scale * (query[:, None] * candidates).sum(2)
    return ce(logits, torch.zeros(len(query), dtype=torch.long))


def test_17_degla():
    def dense(v, t, t_neg, v_ema, t_ema, t_neg_ema, s):
        base = 0.5 * (ce(s * v @ torch.cat([t, t_neg.flatten(0, 1)]).T) + ce(s * t @ v.T))
        igc = first_of(v, torch.cat([t[:, None], t_neg], 1), s)
        tgc = first_of(t, torch.cat([t_ema[:, None], t_neg], 1), 10.0)
        distill = sum((x - y).square().sum() for x, y in ((v, v_ema), (t, t_ema), (t_neg, t_neg_ema)))
        return base + 0.1 * igc + 0.1 * tgc + 0.005 * distill

    check(
        "17", dense, frozen=("v_ema", "t_ema", "t_neg_ema"), v=rows(N, D), t=rows(N, D, seed=1),
        t_neg=rows(N, 4, D, seed=2), v_ema=rows(N, D, seed=3), t_ema=rows(N, D, seed=4),
        t_neg_ema=rows(N, 4, D, seed=5), s=number(14.0),
    )  # fmt: skip


def test_17_equation_4():
    def dense(v, t, t_neg, s):
        own = s * (v[:, None] * t_neg).sum(2)
        return 0.5 * (ce(torch.cat([s * v @ t.T, own], 1)) + ce(s * t @ v.T))

    check("17 equation 4", dense, v=rows(N, D), t=rows(N, D, seed=1), t_neg=rows(N, 4, D, seed=2), s=number(14.0))


def test_18_invgc():
    def dense(T, G, r):
        S = T @ G.T
        return F.normalize(T - r / len(G) * (S - S.mean()) @ G, dim=1)

    check("18", dense, T=rows(N, D), G=rows(11, D, seed=1), r=1.5)


def test_18_local_adj():
    def dense(T, G, r, k):
        best = (T @ G.T).topk(k, 1)
        return F.normalize(T - r / k * (best.values[:, :, None] * G[best.indices]).sum(1), dim=1)

    check("18 LocalAdj", dense, T=rows(N, D), G=rows(11, D, seed=1), r=1.5, k=3)


PERM = torch.tensor([2, 1, 5, 0, 7, 3, 6, 4])  # 1 and 6 stay where they are
SHARE = torch.tensor([0.3, 1.0, 0.6, 1.0, 0.1, 0.8, 0.45, 1.0], dtype=torch.float64)


def test_19_m3co():
    def dense(text, image, perm, share):
        b, n = share[:, None], len(text)
        target = torch.zeros(n, n, dtype=text.dtype)
        target[torch.arange(n), torch.arange(n)] = share
        target[torch.arange(n), perm] = 1 - share  # overwrites the share of a fixed point

        def half(mixed, clean):
            logits = F.normalize(mixed, dim=1) @ F.normalize(clean, dim=1).T / 0.1
            return 0.5 * (soft_ce(logits, target) + soft_ce(logits.T, target.T))

        mixed_text, mixed_image = b * text + (1 - b) * text[perm], b * image + (1 - b) * image[perm]
        return half(mixed_text, image) + half(mixed_image, text)

    check("19 M3Co", dense, frozen=("share",), text=rows(N, D), image=rows(N, D, seed=1), perm=PERM, share=SHARE)


def test_19_softclip():
    def half(a, b):
        target = (b @ b.T / 0.125).softmax(1)
        return 0.5 * (soft_ce(a @ b.T / 0.125, target) + soft_ce(b @ a.T / 0.125, target))

    def dense(text, image):
        return half(text, image) + half(image, text)

    check("19 SoftCLIP", dense, text=rows(N, D), image=rows(N, D, seed=1))


def test_20_frozen_text():
    def dense(image, text, s):
        return clip(s * image @ text.detach().T)

    check("20", dense, image=rows(N, D), text=rows(N, D, seed=1), s=number(14.0))


def test_22_fg_clip_2():
    def siglip(x, y, s, b):
        sign = 2.0 * torch.eye(len(x), dtype=x.dtype) - 1.0
        return -F.logsigmoid(sign * (s * x @ y.T + b)).sum() / len(x)

    def dense(x, short, long, v, t, t_neg, s, b, s_r, s_h, delta):
        every = torch.cat([t[:, None], t_neg], 1)
        contrast = 0.5 * (ce(s_h * v @ torch.cat([t, t_neg.flatten(0, 1)]).T) + ce(s_h * t @ v.T))
        own = s_h * (v[:, None] * every).sum(2)
        cmr = (delta + own[:, 1:] - own[:, :1]).clamp_min(0).mean()
        hard = 0.6 * contrast + 3 * first_of(v, every, s_h) + 0.4 * cmr
        return siglip(x, short, s, b) + siglip(x, long, s, b) + 0.2 * clip(s_r * v @ t.T) + 0.5 * hard

    check(
        "22", dense, x=rows(N, D), short=rows(N, D, seed=1), long=rows(N, D, seed=2), v=rows(7, D, seed=3),
        t=rows(7, D, seed=4), t_neg=rows(7, 10, D, seed=5), s=number(10.0), b=number(-8.0), s_r=number(14.0),
        s_h=number(12.0), delta=1.5,
    )  # fmt: skip


def test_22_tic():
    def dense(z, k):
        s = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), 0.0)
        return s.masked_fill(s > 0.95, 0.0).topk(k, 1).values.exp().sum(1).log().mean()

    z = F.normalize(rows(N, D)[[0, 0, 1, 2, 3, 4, 5, 6]] + 0.02 * rows(N, D, seed=1), dim=1)
    check("22 TIC", dense, z=z, k=4)


def test_23_teminal():
    def dense(T, A, alpha_same, alpha_cross, w):
        z, n = T @ A.T, len(T) // 3
        row, column = torch.meshgrid(torch.arange(len(T)), torch.arange(len(T)), indexing="ij")
        weight = torch.where(row % n == column % n, alpha_same, alpha_cross)
        weight = torch.where(row // n == column // n, torch.ones_like(weight), weight).to(z.dtype)

        def direction(logits):  # without the 1e-8 of the official logarithm, which keeps it finite at a weight of 0
            each = (logits + weight.log()).logsumexp(1) - logits.diagonal()
            return (w * each).sum() / w.sum()

        return 0.8 * (direction(z) + direction(z.T))

    check(
        "23", dense, frozen=("w",), T=2.0 * rows(9, D), A=2.0 * rows(9, D, seed=1), alpha_same=0.5, alpha_cross=2.0,
        w=torch.tensor([1.0] * 3 + [0.7] * 6, dtype=torch.float64),
    )  # fmt: skip


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    angle = (a * b).sum(1, keepdim=True).acos()
    return (a * (share * angle).sin() + b * ((1 - share) * angle).sin()) / angle.sin()


def mixed_clip(logits: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (soft_ce(logits, target) + soft_ce(logits.T, target.T))


def test_24_m3_mix():
    def dense(X, Y, lam):
        one = torch.eye(len(X), dtype=X.dtype)
        back, M = one.flip(0), slerp(X, Y, lam)
        true = (X * Y).sum(1) / 0.07

        def against_mixture(x):
            return ce(torch.where(one.bool(), true[:, None], x @ M.T / 0.07))

        X_mix, Y_mix = slerp(X, X.flip(0), lam), slerp(Y, Y.flip(0), lam)
        two = lam * one + (1 - lam) * back
        v, t = mixed_clip(X_mix @ Y.T / 0.01, two), mixed_clip(X @ Y_mix.T / 0.01, two)
        vl = mixed_clip(X_mix @ Y_mix.T / 0.01, one + back)
        m2 = against_mixture(X) + against_mixture(Y)
        return mixed_clip(X @ Y.T / 0.01, one) + 0.05 * m2 + 0.05 * v + 0.1 * t + 0.01 * vl

    check("24", dense, magnitude=100.0, X=rows(N, D), Y=rows(N, D, seed=1), lam=0.3)


def test_24_original_neg():
    def dense(X, Y, lam):
        one = torch.eye(len(X), dtype=X.dtype)
        back = one.flip(0)
        mixed = (one + back).bool()
        logits = torch.where(mixed, slerp(X, X.flip(0), lam) @ Y.T, X @ Y.T) / 0.01
        return mixed_clip(logits, lam * one + (1 - lam) * back)

    check("24 original_neg", dense, magnitude=100.0, X=rows(N, D), Y=rows(N, D, seed=1), lam=0.3)


def test_25_similarities():
    def dense(x, y):
        z = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        return torch.stack([z.amax(1).mean(), z.mean(), z.max(), z.min()])

    check("25", dense, x=rows(N, D), y=rows(5, D, seed=1))

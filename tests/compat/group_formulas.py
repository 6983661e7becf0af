"""What trainers of retrieval models compute of passages in groups, as their code has it, with all scores at once.

GradCache and tevatron have no wheel to compare with, ms-swift imports half of its trainers with a loss: these are their
formulas. FlagEmbedding's and NeMo Automodel's own files are loaded, by group_models.py.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F


def gathered_with_own(x):
    """The rows of all ranks, of which this one's alone have a gradient."""
    every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(every, x.detach().contiguous())
    every[dist.get_rank()] = x
    return torch.cat(every)


def contrast(x, y, target=None, reduction="mean", temperature=1.0):
    """The loss of GradCache and, with a temperature, of tevatron."""
    if target is None:
        target = torch.arange(len(x)) * (len(y) // len(x))
    return F.cross_entropy(x @ y.T / temperature, target, reduction=reduction)


def contrast_of_all(x, y, **options):
    return contrast(gathered_with_own(x), gathered_with_own(y), **options)


def infonce(rows, labels, *, t=0.1, batch=True, margin=None, qq=False, dd=False):
    """ms-swift's loss of groups of any length: [query, document, hard negatives], one label less than rows."""
    starts = labels.nonzero().flatten().tolist()
    lengths = [b - a for a, b in zip(starts, [*starts[1:], len(labels)], strict=True)]
    groups = rows.split([n + 1 for n in lengths])
    documents, queries = torch.cat([g[1:] for g in groups]), torch.stack([g[0] for g in groups])
    losses = []
    for i, (g, start) in enumerate(zip(groups, starts, strict=True)):
        if not batch:
            losses.append(F.cross_entropy(g[:1] @ g[1:].T / t, torch.tensor([0])))
            continue
        z = g[0] @ documents.T
        limit = torch.inf if margin is None else z[start].detach() + margin
        parts = [z.masked_fill(z > limit, -torch.inf)]
        if qq:
            z = (g[0] @ queries.T).index_fill(0, torch.tensor(i), -torch.inf)
            parts.append(z.masked_fill(z > limit, -torch.inf))
        if dd:
            parts.append((g[1] @ documents.T).index_fill(0, torch.tensor(start), -torch.inf))
        losses.append(F.cross_entropy(torch.cat(parts)[None] / t, torch.tensor([start])))
    return torch.stack(losses).mean()


def grouped_rows(labels, d=8, seed=0, noise=1.0):
    """Unit rows of groups that resemble each other, for labels as ms-swift has them."""
    g = torch.Generator().manual_seed(seed)
    of = labels.cumsum(0)
    count = int(of[-1])
    base = torch.randn(count + 1, d, generator=g, dtype=torch.float64)
    rows = []
    for i in range(1, count + 1):
        rows += [base[i]] * (int((of == i).sum()) + 1)
    x = torch.stack(rows)
    return F.normalize(x + noise * torch.randn(x.shape, generator=g, dtype=torch.float64), dim=1)


def groups(n=7, size=3, d=8, seed=0):
    """Queries (N, D) and passages (N g, D)."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(n, d, generator=g, dtype=torch.float64)
    p = q.repeat_interleave(size, 0) + torch.randn(n * size, d, generator=g, dtype=torch.float64)
    return F.normalize(q, dim=1), F.normalize(p, dim=1)

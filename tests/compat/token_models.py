"""Token embeddings for tests of late interaction, and a small encoder of tokens that packages' losses can call."""

import torch
import torch.nn.functional as F
from torch import nn


def tokens(*shape, seed=0, shift=0.3):
    """Unit tokens that lean one way."""
    g = torch.Generator().manual_seed(seed)
    lean = torch.zeros(shape[-1], dtype=torch.float64)
    lean[0] = shift
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64) + lean, dim=-1)


def mask(*shape, seed=0):
    """At least one token of each item is there."""
    g = torch.Generator().manual_seed(seed)
    found = torch.rand(*shape, generator=g) < 0.6
    found[..., 0] = True
    return found


class TokenModel(nn.Module):
    """Embeds token ids; what pylate's and sentence-transformers' losses ask of a model."""

    skiplist = (3, 5)
    do_query_expansion = False

    def __init__(self, dim=6, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(20, dim, dtype=dtype)

    def forward(self, features, task=None):
        x = F.normalize(self.table(features["input_ids"]), dim=-1)
        return {"token_embeddings": x, "attention_mask": features["attention_mask"]}


def columns(rows=4, documents=2, seed=0, lengths=(3, 5, 5)):
    """Features of queries and of columns of documents."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i in range(documents + 1):
        ids = torch.randint(1, 20, (rows, lengths[i]), generator=g)
        there = torch.arange(lengths[i]) < torch.randint(2, lengths[i] + 1, (rows, 1), generator=g)
        found.append({"input_ids": ids, "attention_mask": there.long()})
    return found


def trained(loss, model, *labels, steps=3):
    """Values of a few steps on one batch, then the weights."""
    optimizer, values = torch.optim.SGD(model.parameters(), lr=0.5), []
    for _ in range(steps):
        value = loss(columns(), *labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.detach())
    assert values[-1] < values[0]
    return torch.stack(values), model.table.weight.detach()

"""Losses of sentence-transformers, the package's and ours, run whole on known embeddings."""

import torch

from support.sentence_encoders import Given

from sentence_transformers.sentence_transformer import losses as peer  # isort: skip  (skipped with the encoders)
from contrastile.compat import sentence_transformers as ours  # isort: skip


def made(module, name, width, **options):
    """A loss of the package or of ours, with models that give back known embeddings."""
    guide = {"guide": Given("guide")} if "GIST" in name else {}
    return getattr(module, name)(Given(width=width), **guide, **options)


def whole(module, name, /, wrap=None, **options):
    """A function of embeddings (and, by name, of the guide's) that runs a loss's own forward and loss stage."""

    def run(*embeddings, backend=None, memory_budget=None, **guided):
        own = {"backend": backend or "auto", "memory_budget": memory_budget} if module is ours else {}
        loss = made(module, name, embeddings[0].shape[1], **options, **own)
        loss = loss if wrap is None else peer.MatryoshkaLoss(loss.model, loss, **wrap)
        features = [{"model": x} for x in embeddings]
        for index, feature in enumerate(features):
            feature.update({"guide": x} if (x := guided.get(f"guide_{index}")) is not None else {})
        return loss(features, torch.empty(0))

    return run


def guided_like(name, x):
    return {f"guide_{i}": y.detach() for i, y in enumerate(x)} if "GIST" in name else {}

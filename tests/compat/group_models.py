"""Models and losses of trainers' own packages, as tests of passages in groups call them."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.compat import ms_swift
from contrastile.testing import Case
from support.standins import load

from .group_formulas import groups

TEMPERATURE = 0.1
NEMO = ("nemo_automodel", "nemo_automodel.components", "nemo_automodel.components.loss")
FLAG = ("FlagEmbedding", "FlagEmbedding.abc", "FlagEmbedding.abc.finetune", "FlagEmbedding.abc.finetune.embedder")


def encoder_model():
    """A model as tevatron's modules have it, found under their name."""
    module = types.ModuleType("tevatron.retriever.modeling.encoder")
    module.__dict__.update(nn=nn, F=F, torch=torch, types=types)
    exec(
        """
class EncoderOutput(types.SimpleNamespace):
    pass

class EncoderModel(nn.Module):
    def __init__(self, temperature=1.0):
        super().__init__()
        self.encoder, self.temperature, self.is_ddp = nn.Linear(8, 6).double(), temperature, False

    def forward(self, query=None, passage=None):
        q = self.encode_query(query) if query else None
        p = self.encode_passage(passage) if passage else None
        loss = scores = None
        if q is not None and p is not None:
            scores = self.compute_similarity(q, p)
            if self.training:
                target = torch.arange(len(q)) * (len(p) // len(q))
                loss = self.compute_loss(scores / self.temperature, target)
        return EncoderOutput(loss=loss, scores=scores, q_reps=q, p_reps=p)

    def encode_query(self, x):
        return F.normalize(self.encoder(x["x"]), dim=1)

    encode_passage = encode_query

    def compute_similarity(self, q, p):
        return q @ p.T

    def compute_loss(self, scores, target):
        return F.cross_entropy(scores, target)

    def _dist_gather_tensor(self, t):
        return t
""",
        module.__dict__,
    )
    return module.EncoderModel(TEMPERATURE)


def embedder(**options):
    """FlagEmbedding's own base class, with the score and loss that its embedders have."""
    pytest.importorskip("transformers")
    module = load("FlagEmbedding.abc.finetune.embedder.AbsModeling", FLAG)

    class Embedder(module.AbsEmbedderModel):
        def encode(self, features):
            x = self.model(features)
            return [x[:, :m] for m in self.mrl_dims] if self.use_mrl else x

        def compute_score(self, q_reps, p_reps):
            return (self._compute_similarity(q_reps, p_reps) / self.temperature).view(q_reps.size(0), -1)

        def _compute_similarity(self, q_reps, p_reps):
            return q_reps @ p_reps.T

        def compute_loss(self, scores, target):
            return F.cross_entropy(scores, target)

        def save(self, output_dir):
            raise NotImplementedError

    for method in vars(Embedder).values():
        if callable(method):
            method.__module__ = "FlagEmbedding.finetune.embedder"  # as the embedders' own
    torch.manual_seed(0)
    return Embedder(nn.Linear(8, 6).double(), temperature=TEMPERATURE, **options)


def nemo():
    return load("nemo_automodel.components.loss.infonce", NEMO)


def doubled(module):
    """Their distillation makes float32 of everything; the truth is wanted in float64."""
    code = module.infonce_distill_loss.__code__
    assert "float" in code.co_names
    names = tuple("double" if name == "float" else name for name in code.co_names)
    twin = types.FunctionType(
        code.replace(co_names=names), module.infonce_distill_loss.__globals__, None,
        module.infonce_distill_loss.__defaults__,
    )  # fmt: skip
    return types.SimpleNamespace(infonce_distill_loss=twin)


def case(*tensors, size=10.0, **named):
    return Case(tensors, named, size)


def steps(model, loss, count=4):
    """Losses of a few steps of training."""
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.02), []
    for _ in range(count):
        value = loss(model, *groups())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.detach())
    assert found[-1] < found[0]
    return torch.stack(found)


def swift(monkeypatch, t=TEMPERATURE, batch=True, margin=None, qq=False, dd=False, hard=None, **engine):
    values = {
        "TEMPERATURE": t, "USE_BATCH": batch, "MASK_FAKE_NEGATIVE": margin is not None, "FAKE_NEG_MARGIN": margin,
        "INCLUDE_QQ": qq, "INCLUDE_DD": dd, "HARD_NEGATIVES": hard,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None:
            monkeypatch.setenv(f"INFONCE_{name}", str(value))
    loss = ms_swift.InfonceLoss(**engine)
    return lambda rows, labels: loss({"last_hidden_state": rows}, labels)

"""Cases of ranks_worker.py: losses of retrieval trainers, whose candidates are passages or tokens of all ranks."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from contrastile.compat import flag_embedding, grad_cache, ms_swift, nemo_automodel, tevatron
from contrastile.compat.common import gradient_scaled
from contrastile.testing import Case
from support.standins import load

from .group_formulas import contrast, contrast_of_all, gathered_with_own, grouped_rows, groups, infonce
from .group_models import doubled, embedder, nemo
from .ranks_worker import Both, case, own, refusing, uneven
from .token_models import tokens

SIZE, N = 3, 5


def batch(factor: float = 4.0, n: int | None = None) -> Case:
    """Queries and passages of all ranks."""
    q, p = groups(n=N * dist.get_world_size() if n is None else n, size=SIZE)
    return Case((factor * q, factor * p), {}, 20.0)


@case("grad_cache", ("mean",), ("sum",))
def grad_cache_everywhere(reduction: str) -> Both:
    loss = partial(grad_cache.DistributedContrastiveLoss(SIZE - 1), reduction=reduction)
    return Both(loss, partial(contrast_of_all, reduction=reduction), own(batch()))


@case("grad_cache-target")
def grad_cache_targets() -> Both:
    """Targets that lie on other ranks."""
    n = N * dist.get_world_size()
    target = torch.arange(n).flip(0) * SIZE + 1
    ours = partial(grad_cache.DistributedContrastiveLoss(), target=target)
    return Both(ours, partial(contrast_of_all, target=target), own(batch()))


@case("tevatron", ("classes",), ("model",))
def tevatron_everywhere(kind: str) -> Both:
    world = dist.get_world_size()
    classes = tevatron.DistributedContrastiveLoss(), partial(tevatron.contrastive_loss, temperature=0.5, is_ddp=True)
    temperature = 1.0 if kind == "classes" else 0.5
    return Both(
        classes[kind == "model"], lambda q, p: world * contrast_of_all(q, p, temperature=temperature), own(batch(2.0))
    )


@case("flag_embedding", (None,), ("kl_div",), ("m3_kd_loss",))
def flag_embedding_everywhere(kind: str | None) -> Both:
    model = embedder(kd_loss_type=kind or "kl_div", negatives_cross_device=True)
    generator = torch.Generator().manual_seed(dist.get_rank())
    targets = torch.randn(N, SIZE, generator=generator, dtype=torch.float64).softmax(1) if kind else None
    ours = partial(
        flag_embedding.group_loss, teacher_targets=targets, temperature=model.temperature,
        kd_loss_type=kind or "kl_div", negatives_cross_device=True,
    )  # fmt: skip
    return Both(ours, lambda q, p: model._compute_cross_device_neg_loss(q, p, targets)[1], own(batch(1.0)))


@case("nemo_automodel", ("q2d", True), ("symmetric", True), ("d2q", False))
def nemo_everywhere(direction: str, learned: bool) -> Both:
    theirs = nemo()
    mask = (torch.arange(N * SIZE).view(N, SIZE) + dist.get_rank()) % 3 > 0
    options = {"direction": direction, "learnable_temperature": learned}

    def of(module: Any) -> Any:
        loss = module.InfoNCELoss(0.3, **options).double()

        def call(q: Tensor, d: Tensor, hard: Tensor, t: Tensor) -> Tensor:
            parameters = {"log_inv_tau": t.double()} if learned else {}
            return torch.func.functional_call(loss, parameters, (q, d, hard, mask)) + 0.0 * (hard.sum() + t)

        return call

    q, p = batch(1.0).args
    whole = Case((q, p[::SIZE], p.view(-1, SIZE, p.shape[1]) + 0.1, torch.tensor(1.2)), {}, 10.0)
    return Both(of(nemo_automodel), of(theirs), own(whole))


@case("nemo_automodel-distill", ("kl",), ("mse",))
def nemo_distill_everywhere(divergence: str) -> Both:
    theirs = nemo()
    teacher = own(Case(tuple(x[::SIZE] if i else x for i, x in enumerate(batch(1.0).args)), {}, 1.0)).args
    options = {"divergence": divergence, "direction": "symmetric", "temperature": 0.3}
    ours = nemo_automodel.InfoNCEDistillLoss(**options)
    dense = doubled(theirs).infonce_distill_loss

    def everywhere(q: Tensor, d: Tensor) -> Tensor:
        every = [theirs.all_gather_with_grad(x) for x in (q, d)]
        return dense(*every, *map(theirs.all_gather_no_grad, teacher), **options)

    q, p = batch(1.0).args
    return Both(lambda q, d: ours(q, d, *teacher), everywhere, own(Case((q, p[1::SIZE]), {}, 10.0)))


@case("nemo_automodel-groups", (True,), (False,))
def nemo_groups(preserve_grad: bool) -> Both:
    ids = (torch.arange(N * SIZE) * 7 + dist.get_rank()) % 23
    ours = partial(
        nemo_automodel.grouped_loss, n_passages=SIZE, temperature=0.3, preserve_grad=preserve_grad, passage_doc_ids=ids
    )

    def recipe(q: Tensor, p: Tensor) -> Tensor:
        every = torch.cat(torch.distributed.nn.all_gather(p)) if preserve_grad else gathered_with_own(p)
        target = torch.arange(N) * SIZE + dist.get_rank() * N * SIZE
        known = gathered_with_own(ids)
        same = (known == known[target][:, None]) & (torch.arange(len(known)) != target[:, None])
        z = (q @ every.T / 0.3).masked_fill(same, -torch.inf)
        return torch.nn.functional.cross_entropy(z, target)

    return Both(ours, recipe, own(batch(1.0)))


SWIFT = {"INFONCE_INCLUDE_QQ": "True", "INFONCE_INCLUDE_DD": "True", "INFONCE_MASK_FAKE_NEGATIVE": "True"}


@case("ms_swift", (False,), (True,))
def swift_everywhere(further: bool) -> Both:
    """Groups of other lengths on every rank."""
    labels = torch.tensor([1, 0, 1, 0, 0, 1] + [0] * dist.get_rank())
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, labels)
    options = {"qq": True, "dd": True, "margin": 0.1} if further else {}

    def ours(rows: Tensor) -> Tensor:
        with patch.dict(os.environ, SWIFT if further else {}):
            return ms_swift.InfonceLoss()({"last_hidden_state": rows}, labels)

    def theirs(rows: Tensor) -> Tensor:
        parts: list[Any] = [None] * len(every)
        dist.all_gather_object(parts, rows.detach())
        parts[dist.get_rank()] = rows
        return gradient_scaled(infonce(torch.cat(parts), torch.cat(every), **options), float(len(every)))

    return Both(ours, theirs, Case((grouped_rows(labels, seed=dist.get_rank()),), {}, 10.0))


def uneven_losses() -> dict[str, tuple[Any, Any, bool]]:
    """Ours of this rank's groups (n, D) and (n, g, D), that of the whole batch, and whether a rank gets the gradient of
    the global loss, not W times that."""
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def m3(q: Tensor, p: Tensor, everywhere: bool = False) -> Tensor:
        return flag_embedding.group_loss(
            q, p.flatten(0, 1), share.expand(len(q), SIZE), kd_loss_type="m3_kd_loss",
            negatives_cross_device=everywhere,
        )  # fmt: skip

    def swift(q: Tensor, p: Tensor) -> Tensor:
        rows, labels = torch.cat([q[:, None], p], 1).flatten(0, 1), torch.tensor([1, 0, 0] * len(q))
        with patch.dict(os.environ, {"INFONCE_TEMPERATURE": "1.0"}):
            return ms_swift.InfonceLoss()({"last_hidden_state": rows}, labels)

    def nemo_loss(cross: bool) -> Any:
        loss = nemo_automodel.InfoNCELoss(0.5, direction="symmetric", cross_device_negatives=cross)
        return lambda q, p: loss(q, p[:, 0], p[:, 1:])

    def nemo_groups(q: Tensor, p: Tensor) -> Tensor:
        return nemo_automodel.grouped_loss(q, p.flatten(0, 1), SIZE, preserve_grad=True)

    def cached(q: Tensor, p: Tensor) -> Tensor:
        return grad_cache.DistributedContrastiveLoss(SIZE - 1)(q, p.flatten(0, 1))

    def alone(q: Tensor, p: Tensor) -> Tensor:
        return contrast(q, p.flatten(0, 1))

    return {
        "grad_cache": (cached, alone, True),
        "flag_embedding": (partial(m3, everywhere=True), m3, True),
        "nemo_automodel": (nemo_loss(True), nemo_loss(False), False),
        "nemo_automodel-groups": (nemo_groups, alone, False),
        "ms_swift": (swift, alone, False),
    }


UNEVEN = ("grad_cache", "flag_embedding", "nemo_automodel", "nemo_automodel-groups", "ms_swift")


@case("retrieval-uneven", *((name,) for name in UNEVEN))
def retrieval_uneven(name: str) -> Both:
    """A query with its passages is an item; one rank has none."""
    loss, theirs, own_gradient = uneven_losses()[name]

    def ours(q: Tensor, p: Tensor) -> Tensor:
        value: Tensor = loss(q, p)
        return gradient_scaled(value, float(dist.get_world_size())) if own_gradient else value

    def whole(n: int) -> Case:
        q, p = batch(1.0, n=n).args
        return Case((q, p.unflatten(0, (n, SIZE))), {}, 20.0)

    return uneven(ours, theirs, whole)


@case("refused", ("grad_cache",), ("flag_embedding",), ("ms_swift",), ("nemo_automodel",))
def refused_by_retrieval(name: str) -> str:
    def swift(x: Tensor, y: Tensor) -> Tensor:
        return ms_swift.InfonceLoss()({"last_hidden_state": x}, torch.tensor([1] + [0] * (len(y) - 2)))

    losses = {
        "grad_cache": grad_cache.DistributedContrastiveLoss(),
        "flag_embedding": partial(flag_embedding.group_loss, negatives_cross_device=True),
        "ms_swift": swift,
        "nemo_automodel": nemo_automodel.InfoNCELoss(),
    }
    if name == "ms_swift":
        parallel = SimpleNamespace(sequence_parallel=SimpleNamespace(dp_group=object()))
        with patch.dict(sys.modules, {"swift.sequence_parallel": parallel}):
            with pytest.raises(NotImplementedError, match="sequence_parallel_size must be 1"):
                swift(*groups())
    q, _ = groups(n=2 * N)
    return refusing(losses[name], *q.chunk(2))


# ---- tokens: the packages' losses gather, scores are ours


def gathering(package: str, module: Any, score: Any) -> Any:
    """A loss of embeddings that the package's class computes across ranks, for a model that gives them back."""

    class Model(torch.nn.Module):
        skiplist: tuple[int, ...] = ()
        do_query_expansion = False

        def forward(self, features: Any, task: Any = None) -> Any:
            return {"token_embeddings": features["x"], "attention_mask": features["attention_mask"]}

    name = "Contrastive" if package == "pylate" else "MultiVectorMultipleNegativesRankingLoss"
    options = {"score_metric": score} if package == "pylate" else {"similarity_fct": score}
    loss = getattr(module, name)(Model(), gather_across_devices=True, **options)

    def of(*tokens: Tensor) -> Tensor:
        features = []
        for x in tokens:
            there = torch.arange(x.shape[1]) < 2 + torch.arange(len(x))[:, None] % (x.shape[1] - 1)
            features.append({"x": x, "attention_mask": there.long(), "input_ids": torch.ones(x.shape[:2]).long()})
        return loss(features)

    return of


@case("multi_vector", ("pylate",), ("sentence_transformers",))
def tokens_everywhere(package: str) -> Both:
    pytest.importorskip("sentence_transformers")
    if package == "pylate":
        ours: Any = import_module("contrastile.compat.pylate").ColBERTScores()
        theirs = load("pylate.scores", ("pylate",)).ColBERTScores()
        module = load("pylate.losses", ("pylate",))
    else:
        ours = import_module("contrastile.compat.sentence_transformers.multi_vector").colbert_scores
        theirs = dense_scores
        module = import_module("sentence_transformers.multi_vector_encoder.losses")
    n = 3 * dist.get_world_size()
    given = own(Case((tokens(n, 3, 6), tokens(n, 4, 6, seed=1)), {}, 10.0))
    return Both(gathering(package, module, ours), gathering(package, module, theirs), given)


def in_order(grad: Tensor) -> Tensor:
    """torch's all_gather over gloo sends gradients with wrong strides back in the wrong order."""
    return grad.contiguous()


def dense_scores(q: Tensor, d: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
    """sentence-transformers' formula in the embeddings' type; it rounds to float32."""
    d.register_hook(in_order)
    z = torch.einsum("qtd,mnud->qmntu", q, d).masked_fill(~documents_mask[None, :, :, None].bool(), -torch.inf)
    return (z.amax(-1) * queries_mask[:, None, None]).sum(-1).flatten(1)


@case("colpali_engine", ("BiEncoderLoss",), ("ColbertLoss",), ("BiSigmoidLoss",))
def colpali_everywhere(name: str) -> Both:
    """Documents gathered by the trainer, and the number of the first own one."""
    with patch.dict(os.environ, {"COLPALI_SCORES_BACKEND": "torch"}):
        kind = "late_interaction" if "Colbert" in name else "bi_encoder"
        theirs = load(f"colpali_engine.loss.{kind}_losses", ("colpali_engine",))
    ours = import_module("contrastile.compat.colpali_engine")
    options = {"normalize_scores": False} if "Colbert" in name else {}
    shape = (3,) if "Colbert" in name else ()

    def of(module: Any) -> Any:
        loss = getattr(module, name)(temperature=0.5, **options)

        def call(q: Tensor, d: Tensor) -> Tensor:
            every = torch.cat(torch.distributed.nn.all_gather(d))
            every.register_hook(in_order)
            with patch.dict(os.environ, {"COLPALI_SCORES_BACKEND": "torch"}):
                return loss(q, every, offset=len(q) * dist.get_rank())

        return call

    n = N * dist.get_world_size()
    given = own(Case((tokens(n, *shape, 6), tokens(n, *shape, 6, seed=1)), {}, 10.0))
    return Both(of(ours), of(theirs), given)

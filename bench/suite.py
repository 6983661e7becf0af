"""What the repository's benchmarks measure: the catalog, variants that only other packages have, and those packages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

import contrastile
import eager
from contrastile import reference
from contrastile.benchmark import suite as catalog_suite
from contrastile.benchmark.problem import Problem
from contrastile.benchmark.suite import COMPILED, DENSE, Candidate, Loss, Skip, Workload
from contrastile.catalog import Case
from contrastile.catalog.cases import pair, scalar, unit_rows
from contrastile.catalog.modalities import tuples
from contrastile.ops import EngineOptions
from packages import BANK, HARDER, PEERS, Peer, dropin

TEACHER_SCALE = 20.0
DROPIN = "drop-in for "
# imported once for all processes that measure memory
PRELOAD = ("pytorch_metric_learning.losses", "sentence_transformers.sentence_transformer.losses")


# ---- inputs


def distillation(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
    """Student and teacher; the teacher is no leaf of a training, so its part takes no gradient below."""
    (image, text), (old_image, old_text) = (pair(0.07)(n, d, g, dtype).args for _ in range(2))
    return Case((image, text, scalar(14.3), old_image, old_text, TEACHER_SCALE), {}, TEACHER_SCALE)


def unpaired(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
    """Queries, their keys, and other keys that all queries share instead of each other's."""
    case = pair(0.1)(n, d, g, dtype)
    return replace(case, args=(*case.args, unit_rows(n, d, g, dtype)))


def ten_classes(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
    return Case((unit_rows(n, d, g, dtype), torch.arange(n) % 10), {"temperature": scalar(0.1)}, 10.0)


# ---- what is computed, with backend= and dense


def teacher_detached(loss: Loss, *args: Any, **options: Any) -> Tensor:
    image, text, scale, *teacher = args
    return loss(image, text, scale, *(x.detach() if isinstance(x, Tensor) else x for x in teacher), **options)


def distill(*args: Any, backend: str) -> Tensor:
    return sum(import_module("contrastile.compat.open_clip").DistillClipLoss(backend=backend)(*args))


def unpaired_fused(query: Tensor, key: Tensor, others: Tensor, *, temperature: Tensor, backend: str) -> Tensor:
    loss = import_module("contrastile.compat.info_nce").info_nce  # normalises, like the package
    return loss(query, key, others, temperature=temperature, backend=backend)


def unpaired_dense(query: Tensor, key: Tensor, others: Tensor, *, temperature: Tensor) -> Tensor:
    same = torch.zeros(len(query), dtype=torch.long, device=query.device)  # keys of the batch are no negatives
    return reference.info_nce(query, key, temperature=temperature, negatives=others, query_ids=same, normalize=True)


@cache
def bank(d: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As lightly fills it, from the same seed."""
    torch.manual_seed(0)
    return F.normalize(torch.randn(BANK, d, device="cpu"), dim=-1).to(device, dtype)


def bank_of(like: Tensor) -> Tensor:
    return bank(like.shape[1], like.dtype, like.device)


def bank_fused(query: Tensor, key: Tensor, *, temperature: Tensor, backend: str) -> Tensor:
    return unpaired_fused(query, key, bank_of(query), temperature=temperature, backend=backend)


def bank_dense(query: Tensor, key: Tensor, *, temperature: Tensor) -> Tensor:
    """The second view counts as a query's key only: the gradient passes through both."""
    return unpaired_dense(query, key, bank_of(query), temperature=temperature)


def harder_fused(query: Tensor, key: Tensor, *, temperature: Tensor, backend: str) -> Tensor:
    loss = import_module("contrastile.compat.ranking").ranking_loss
    return loss(query, [key], 1.0 / temperature, EngineOptions.of(None, backend), **HARDER)


def harder_dense(query: Tensor, key: Tensor, *, temperature: Tensor) -> Tensor:
    """Negatives' logits grow by a multiple of their own similarity, without gradient through that."""
    similarity = query @ key.T
    others = ~torch.eye(len(query), dtype=torch.bool, device=query.device)
    logits = similarity / temperature + HARDER["hardness_strength"] * similarity.detach() * others
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device))


def drawn(loss: Loss, *modalities: Tensor, **options: Any) -> Tensor:
    torch.manual_seed(0)
    return loss(*modalities, generator=torch.default_generator, **options)


def tuples_flop(n: int, d: int, k: int, backward: bool) -> float:
    return (8.0 if backward else 2.0) * n**k * d


def extra() -> dict[tuple[str, str], Workload]:
    symile, dense_symile = contrastile.symile_loss, reference.symile_loss
    made = tuples(3, {"logit_scale": 14.3})
    found = [
        Workload(
            "clip_loss", "distillation", distillation, partial(teacher_detached, distill),
            partial(teacher_detached, eager.distill_clip), None,
        ),
        Workload("info_nce", "unpaired", unpaired, unpaired_fused, unpaired_dense, None, normalizes=True),
        Workload("info_nce", "hardness", pair(0.07), harder_fused, harder_dense, None),
        Workload("nt_xent", "memory bank", pair(0.1), bank_fused, bank_dense, None, normalizes=True),
        Workload("sup_con", "ten classes", ten_classes, contrastile.sup_con, reference.sup_con,
                 catalog_suite.card("sup_con").flop, stacked=True),
        Workload("symile_loss", "drawn", made, partial(drawn, symile), partial(drawn, dense_symile),
                 catalog_suite.card("symile_loss").flop),
        Workload("symile_loss", "n_squared", tuples(3, {"logit_scale": 14.3}, negatives="n_squared"), symile,
                 dense_symile, tuples_flop, dense_rows=64),
    ]  # fmt: skip
    return {(x.loss, x.variant): x for x in found}


EXTRA = extra()


# ---- the suite


def workload(loss: str, variant: str) -> Workload:
    return EXTRA.get((loss, variant)) or catalog_suite.workload(loss, variant)


def candidates(workload: Workload) -> dict[str, Candidate]:
    key = workload.loss, workload.variant
    found = catalog_suite.candidates(workload)
    if key in eager.FASTER:
        found[DENSE] = replace(found[DENSE], make=partial(faster, key))
        found[COMPILED] = replace(found[COMPILED], make=partial(compiled, key))
    for name, peer in PEERS.get(key, {}).items():
        shared = {"normalizes": peer.normalizes}
        found[name] = Candidate(name, peer.package, partial(theirs, peer), peer.distribution or peer.package, **shared)
        if peer.dropin:
            ours_too = f"{DROPIN}{name}"
            found[ours_too] = Candidate(
                ours_too, "contrastile", partial(ours, peer), "contrastile", "auto", ours=True, **shared
            )
    return found


def faster(key: tuple[str, str], problem: Problem) -> Loss:
    return eager.FASTER[key]


def compiled(key: tuple[str, str], problem: Problem) -> Loss:
    return torch.compile(eager.FASTER[key], dynamic=False)


def theirs(peer: Peer, problem: Problem) -> Loss:
    if peer.gpu and problem.device != "cuda":
        raise Skip("needs a GPU")
    return peer.adapt(peer.modules(), problem)


def ours(peer: Peer, problem: Problem) -> Loss:
    peer.modules()  # skips where theirs is missing: the drop-in is measured next to it
    return peer.adapt(dropin(peer.dropin), problem)


def names_on(problem: Problem, dropins: bool = True, compile: bool = False) -> list[str]:
    """The candidates that a device can run, ours first."""
    backends = ("cpu", "torch") if problem.device == "cpu" else ("triton", "cuda", "torch")
    pairs = catalog_suite.card(problem.loss).gemm > 0
    names = [f"contrastile {x}" for x in (backends if pairs else ("torch",))]
    names += [DENSE] + ([COMPILED] if compile else [])
    for name, peer in PEERS.get((problem.loss, problem.variant), {}).items():
        if not peer.gpu or problem.device == "cuda":
            names.append(name)
            names += [f"{DROPIN}{name}"] if dropins and peer.dropin else []
    return names

"""What every rank does in test_ranks.py: drop-ins beside the packages' own losses, in one process group.

Each case is a drop-in and what it stands in for, as functions of this rank's tensors, with collectives in both. So the
value and every gradient are compared rank by rank. Where a case is `averaged`, the gradient of what all ranks share is
compared as its mean over ranks, which data parallelism uses. Cases of uneven batches compare the mean over ranks with
the package's loss of the global batch on one process.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from contrastile.compat.common import gradient_scaled
from contrastile.distributed import RankError
from contrastile.testing import Case
from support import quick_interpreter
from support.combinations import each_pair
from support.lightly_modules import lightly_importable, lightly_losses
from support.pairing import agreement
from support.sharding import SIZES, Averaged, Everywhere, span
from support.standins import load
from support.views import two_views, unit_rows

from .dropins import correlated

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None:  # a rank's process
    quick_interpreter.install()

WORLDS = (2, 3)
N, D = 5, 8  # rows of a rank
FLAGS = list(product((False, True), repeat=2))
Loss = Callable[..., Tensor]


@dataclass
class Both:
    """A drop-in, what it stands in for, and this rank's arguments (of uneven batches: those of all ranks)."""

    ours: Loss
    theirs: Loss
    case: Case
    averaged: bool = False
    kernels: bool = False  # theirs computes in float32, whatever it gets


MAKERS: dict[str, Callable[[], Both | str]] = {}  # a string says what is wrong
SLOW: set[str] = set()  # of these, what only --run-slow runs


def case(
    name: str, *options: tuple[Any, ...], quick: Sequence[tuple[Any, ...]] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a case for each of the options (tuples of arguments).

    quick: those that run by default. Not given: all, or of three arguments enough for any two values to meet.
    """
    if quick is None:
        quick = each_pair(options) if max(map(len, options), default=0) > 2 else options

    def add(make: Callable[..., Any]) -> Callable[..., Any]:
        for given in options or [()]:
            text = "-".join(str(x).replace(" ", "") for x in given)
            key = f"{name}-{text}" if given else name
            MAKERS[key] = partial(make, *given)
            if given and given not in quick:
                SLOW.add(key)
        return make

    return add


def run(rank: int, keys: list[str]) -> dict[str, str]:
    """What is wrong with each of these cases, or nothing."""
    return {key: check(MAKERS[key]) for key in keys}


@patch.object(torch.cuda, "get_device_capability", lambda *_: (8, 0))  # packages of kernels ask for it
def check(make: Callable[[], Both | str]) -> str:
    try:
        both = make()
        if isinstance(both, str):
            return both
        ours, theirs = (shared(x) if both.averaged else x for x in (both.ours, both.theirs))
        return (as_close_as_kernels if both.kernels else within_budget)(ours, theirs, both.case)
    except pytest.skip.Exception as missing:
        return f"missing: {missing}"
    except Exception:
        return traceback.format_exc()


def within_budget(ours: Loss, theirs: Loss, case: Case) -> str:
    found, wrong = agreement(ours, theirs, case)
    return found.detail * (not found.ok) or "the budget hides one part in a thousand" * wrong.ok


def as_close_as_kernels(ours: Loss, theirs: Loss, case: Case) -> str:
    """For packages that compute in float32: relative to each result's largest entry, as in kernels.py."""
    results = []
    for function in (ours, theirs):
        leaves = [x.detach().float().requires_grad_() for x in case.args]
        value = function(*leaves)
        value.sum().backward()
        results.append([value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)])
    for index, (found, true) in enumerate(zip(*results, strict=True)):
        error, size = (found - true).abs().max(), true.abs().max()
        if not error <= 3e-5 * size + 1e-7:
            return f"{'value' if index == 0 else f'gradient {index}'}: off by {error:.1e} of {size:.1e}"
    return ""


def shared(loss: Loss) -> Loss:
    """Numbers (0-dim tensors) with the mean over ranks of their gradients."""
    world = float(dist.get_world_size())

    def number(x: Any) -> Any:
        return Averaged.apply(x, world) if isinstance(x, Tensor) and x.dim() == 0 and x.is_floating_point() else x

    return lambda *args, **named: loss(*map(number, args), **{name: number(x) for name, x in named.items()})


# ---- the batch and its parts


def rank_size() -> dict[str, int]:
    return {"rank": dist.get_rank(), "world_size": dist.get_world_size()}


def mine(x: Any) -> Any:
    """This rank's rows of an even batch."""
    return x.chunk(dist.get_world_size())[dist.get_rank()].clone() if isinstance(x, Tensor) and x.dim() else x


def own(case: Case) -> Case:
    return replace(case, args=tuple(map(mine, case.args)), kwargs={name: mine(x) for name, x in case.kwargs.items()})


def features(*numbers: float, extra: int = 0, dtype: torch.dtype = torch.float64, d: int = D) -> Case:
    """Pairs of unit rows (and further columns) of all ranks, then numbers."""
    n = N * dist.get_world_size()
    x = [*two_views(n, d), *(unit_rows(n, d, seed=50 + i) for i in range(extra))]
    return Case((*(f.to(dtype) for f in x), *map(torch.tensor, numbers)), {}, sum(map(abs, numbers)) or 10.0)


def uneven(ours: Loss, theirs: Loss, whole: Callable[[int], Case], share: float | None = None) -> Both:
    """Batches of SIZES: the mean over ranks (share=1: the sum) against one process. whole(n): the joint case."""
    sizes, rank = SIZES[dist.get_world_size()], dist.get_rank()
    by = float(len(sizes)) if share is None else share

    def part(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = Averaged.apply(x, by) if x.is_floating_point() else x
        return x[span(sizes, rank)] if x.dim() else x

    def jointly(*args: Any, **named: Any) -> Tensor:
        value = ours(*map(part, args), **{name: part(x) for name, x in named.items()})
        return Everywhere.apply(value, by)

    return Both(jointly, theirs, whole(sum(sizes)))


def gathered(x: Tensor) -> Tensor:
    return torch.cat(torch.distributed.nn.all_gather(x))


# ---- open_clip


def open_clip_module(ours: bool) -> Any:
    return import_module("contrastile.compat.open_clip") if ours else load("open_clip.loss", shells=("open_clip",))


def open_clip(name: str, *, ours: bool, part: Any = None, **options: Any) -> Loss:
    module = open_clip_module(ours)

    def loss(*args: Any) -> Tensor:
        value = getattr(module, name)(**options)(*args)
        return value if part is None else sum(p * v for p, v in zip(part, value, strict=True))

    return loss


def pair(name: str, **options: Any) -> tuple[Loss, Loss]:
    return open_clip(name, ours=True, **rank_size(), **options), open_clip(name, ours=False, **rank_size(), **options)


@case("open_clip-ClipLoss", *FLAGS)
def clip(local: bool, with_grad: bool) -> Both:
    flags = {"local_loss": local, "gather_with_grad": with_grad}
    return Both(*pair("ClipLoss", **flags), own(features(14.0, -3.0)), averaged=local and with_grad)


@case("open_clip-CoCaLoss", *FLAGS)
def coca(local: bool, with_grad: bool) -> Both:
    options = {"caption_loss_weight": 2.0, "clip_loss_weight": 0.5, "pad_id": 3}
    flags = {"local_loss": local, "gather_with_grad": with_grad}
    functions = pair("CoCaLoss", part=(1.0, 1.0), **options, **flags)
    generator = torch.Generator().manual_seed(dist.get_rank())
    logits = torch.randn(N, 4, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (N, 4), generator=generator)
    image, text, scale = own(features(14.0)).args
    return Both(*functions, Case((image, text, logits, labels, scale), {}, 14.0), averaged=local and with_grad)


def distill_arguments(whole: Case) -> Case:
    image, text, teacher_image, teacher_text, scale, teacher_scale = whole.args
    return replace(whole, args=(image, text, scale, teacher_image, teacher_text, teacher_scale))


@case("open_clip-DistillClipLoss", *((*flags, part) for flags in FLAGS for part in ((1.0, 0.0), (0.0, 1.0))))
def distill(local: bool, with_grad: bool, part: Any) -> Both:
    functions = pair("DistillClipLoss", part=part, local_loss=local, gather_with_grad=with_grad)
    arguments = distill_arguments(own(features(14.0, 20.0, extra=2)))
    return Both(*functions, arguments, averaged=local and with_grad)


@case("open_clip-SigLipLoss", ("bidir",), ("shift",), ("reduce",), ("gather",))
def siglip(implementation: str) -> Both:
    return Both(*pair("SigLipLoss", dist_impl=implementation), own(features(10.0, -10.0)))


@case("open_clip-gather_features", *FLAGS)
def gather_features(local: bool, with_grad: bool) -> Both:
    def of(ours: bool) -> Loss:
        module = open_clip_module(ours)

        def loss(image: Tensor, text: Tensor) -> Tensor:
            images, texts = module.gather_features(image, text, local, with_grad, **rank_size())
            return (images @ texts.T).square().sum() + image.sum() + text.sum()

        return loss

    return Both(of(True), of(False), own(features()))


@case("open_clip-get_logits", *FLAGS)
def get_logits(local: bool, with_grad: bool) -> Both:
    def of(ours: bool) -> Loss:
        module = open_clip_module(ours)

        def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
            made = module.ClipLoss(local, with_grad, **rank_size())
            logits = made.get_logits(image, text, scale)
            labels = made.get_ground_truth(image.device, len(logits[0]))
            return sum(F.cross_entropy(z, labels) for z in logits) / 2 + 1e-3 * logits[0].square().mean()

        return loss

    return Both(of(True), of(False), own(features(14.0)))


@case("open_clip-uneven-ClipLoss", (True,), (False,))
def clip_uneven(local: bool) -> Both:
    ours = open_clip("ClipLoss", ours=True, local_loss=local, gather_with_grad=True, **rank_size())
    return uneven(ours, open_clip("ClipLoss", ours=False), lambda n: clip_case(n, 14.0))


@case("open_clip-uneven-SigLipLoss", ("bidir",), ("gather",))
def siglip_uneven(implementation: str) -> Both:
    ours = open_clip("SigLipLoss", ours=True, dist_impl=implementation, **rank_size())
    return uneven(ours, open_clip("SigLipLoss", ours=False), lambda n: clip_case(n, 10.0, -10.0))


@case("open_clip-uneven-DistillClipLoss", (True,), (False,))
def distill_uneven(local: bool) -> Both:
    options = {"part": (1.0, 1.0), "local_loss": local, "gather_with_grad": True}
    ours = open_clip("DistillClipLoss", ours=True, **options, **rank_size())
    theirs = open_clip("DistillClipLoss", ours=False, part=(1.0, 1.0))

    def whole(n: int) -> Case:
        x = [*two_views(n, D), *two_views(n, D + 1), torch.tensor(14.0), torch.tensor(20.0)]
        return distill_arguments(Case(tuple(x), {}, 20.0))

    return uneven(ours, theirs, whole)


def clip_case(n: int, *numbers: float) -> Case:
    return Case((*two_views(n, D), *map(torch.tensor, numbers)), {}, sum(map(abs, numbers)))


# ---- sentence-transformers

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
RANKING: list[dict[str, Any]] = [
    {}, {"directions": DIRECTIONS},
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    {"directions": DIRECTIONS, "hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
    {"directions": DIRECTIONS, "hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    {"hardness_mode": "all_negatives", "hardness_strength": 9.0},
]  # fmt: skip
GUIDED = [{}, {"margin": 0.1}, {"contrast_anchors": False, "contrast_positives": False}]
SYMMETRIC = ("MultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesSymmetricRankingLoss")


def embedded(name: str, gather: bool, *, ours: bool, **options: Any) -> Loss:
    tests = import_module("compat.test_sentence_transformers")
    whole = tests.whole(tests.ours if ours else tests.peer, name, gather_across_devices=gather, **options)
    return lambda *x, **guides: whole(*x, **{key: guide.detach() for key, guide in guides.items()})


def ranking_case(n: int, k: int, guided: bool) -> Case:
    tests = import_module("compat.test_sentence_transformers")
    if guided:
        return tests.guided_case(n, D, k, torch.float64, guides=torch.float64)
    return tests.ranking_case(n, D, k, torch.float64, scale=30.0)


def embedded_cases() -> list[tuple[str, int, str]]:
    plain = [(f"{c}MultipleNegativesRankingLoss", i) for c in ("", "Cached") for i in range(len(RANKING))]
    guided = [(f"{c}GISTEmbedLoss", i) for c in ("", "Cached") for i in range(len(GUIDED))]
    return [(name, i, k) for name, i in [*plain, *guided, *((s, 0) for s in SYMMETRIC)] for k in (1, 2)]


@case("sentence_transformers", *embedded_cases())
def ranking(name: str, index: int, k: int) -> Both:
    options = (GUIDED if "GIST" in name else RANKING)[index]
    whole = ranking_case(N * dist.get_world_size(), k, "GIST" in name)
    return Both(*(embedded(name, True, ours=ours, **options) for ours in (True, False)), own(whole))


@case("sentence_transformers-uneven", *((name, i) for name in ("MultipleNegativesRankingLoss",) for i in range(6)))
def ranking_uneven(name: str, index: int) -> Both:
    ours, theirs = (embedded(name, ours, ours=ours, **RANKING[index]) for ours in (True, False))
    return uneven(ours, theirs, lambda n: ranking_case(n, 2, False))


@case("sentence_transformers-uneven-GISTEmbedLoss")
def guided_uneven() -> Both:
    """Without contrast_anchors, which compares a rank's own anchors alone, the loss is that of the global batch."""
    options = {"contrast_anchors": False}
    ours, theirs = (embedded("GISTEmbedLoss", ours, ours=ours, **options) for ours in (True, False))
    return uneven(ours, theirs, lambda n: ranking_case(n, 2, True))


# ---- lightly


@cache
def lightly() -> tuple[Any, dict[str, type]]:
    with lightly_importable():
        names = ("NTXentLoss", "DCLLoss", "DCLWLoss")
        return import_module("contrastile.compat.lightly"), lightly_losses(*names)


def lightly_loss(name: str, gather: bool, *, ours: bool, **options: Any) -> Loss:
    """With a bank its first row is part of the value: what has been queued must be the same, too."""
    module, classes = lightly()

    def loss(out0: Tensor, out1: Tensor) -> Tensor:
        torch.manual_seed(dist.get_rank())  # memory banks begin with random rows
        made = (getattr(module, name) if ours else classes[name])(0.2, gather_distributed=gather, **options)
        value = made(out0, out1)
        bank = getattr(made, "memory_bank", None)
        return value if bank is None or not bank.bank.numel() else value + bank.bank.square()[0].sum()

    return loss


def view_weights(x: Tensor, y: Tensor) -> Tensor:
    return 1.0 + (x - 0.5 * y)[:, 0].square()


LIGHTLY: list[tuple[str, dict[str, Any]]] = [
    ("NTXentLoss", {}), ("NTXentLoss", {"memory_bank_size": (32, D)}), ("DCLLoss", {}),
    ("DCLLoss", {"weight_fn": view_weights}), ("DCLWLoss", {}), ("DCLWLoss", {"sigma": 0.3}),
]  # fmt: skip


@case("lightly", *((i, gather) for i in range(len(LIGHTLY)) for gather in (True, False)))
def lightly_views(index: int, gather: bool) -> Both:
    name, options = LIGHTLY[index]
    losses = (lightly_loss(name, gather, ours=ours, **options) for ours in (True, False))
    return Both(*losses, own(features()), kernels="memory_bank_size" in options)  # banks are float32


@case("lightly-uneven", (0,), (2,), (3,))
def lightly_uneven(index: int) -> Both:
    name, options = LIGHTLY[index]
    ours, theirs = (lightly_loss(name, ours, ours=ours, **options) for ours in (True, False))
    return uneven(ours, theirs, lambda n: Case(two_views(n, D), {}, 10.0))


# ---- Multi-View-CL

VIEWS = [
    (name, index, k) for name, count in
    (("NTXent", 5), ("NTXentHPS", 1), ("MVINFONCE", 1), ("CL_1", 1), ("MVDHEL", 3), ("CL_2", 3), ("PVCLoss", 2))
    for index in range(count) for k in (2, 4)
]  # fmt: skip


def by_view(z: Tensor, k: int) -> Tensor:
    """Its all_gather: gradients of all ranks are added up, rows are put in order of views."""
    parts = [part.chunk(k) for part in torch.distributed.nn.all_gather(z)]
    return torch.cat([part[view] for view in range(k) for part in parts])


def views(name: str, index: int, k: int, result: int) -> tuple[Loss, Loss, Loss]:
    """Ours, theirs across ranks, theirs on one process."""
    tests = import_module("compat.test_multi_view_cl")
    options = tests.OPTIONS[name][index]

    def ours(z: Tensor) -> Tensor:
        return getattr(tests.compat, name)(tau=0.3, multiplier=k, distributed=True, **options)(z)[result] + 0 * z.sum()

    def alone(z: Tensor) -> Tensor:
        return tests.OFFICIAL[name](F.normalize(z, dim=1).unflatten(0, (k, -1)), 0.3, **options)[result] + 0 * z.sum()

    return ours, lambda z: alone(by_view(z, k)), alone


@case("multi_view_cl", *VIEWS)
def multi_view(name: str, index: int, k: int) -> Both:
    rows = import_module("compat.test_multi_view_cl").rows(6, D, k, seed=dist.get_rank())
    return Both(*views(name, index, k, 0)[:2], Case((rows,), {}, 10.0))


@case("multi_view_cl-accuracy", *((i, k) for i in range(5) for k in (2, 4)))
def multi_view_accuracy(index: int, k: int) -> Both:
    rows = import_module("compat.test_multi_view_cl").rows(6, D, k, seed=dist.get_rank())
    return Both(*views("NTXent", index, k, 1)[:2], Case((rows,), {}, 10.0))


@case("multi_view_cl-uneven", *(v for v in VIEWS if v[2] == 2))
def multi_view_uneven(name: str, index: int, k: int) -> Both:
    """Rows come view by view, so each rank takes its part of either view."""
    ours, _, alone = views(name, index, k, 0)

    def of_views(first: Tensor, second: Tensor) -> Tensor:
        return ours(torch.cat([first, second]))

    return uneven(of_views, lambda *x: alone(torch.cat(x)), lambda n: Case(two_views(n, D), {}, 10.0))


# ---- GRAM


def gram_code(*tensors: Tensor, contra_temp: Tensor, with_grad: bool) -> Tensor:
    """The training code with its concat_all_gather, which has no gradient, or with one that has."""
    volume = import_module("compat.test_gram").volume
    language, *inputs = tensors
    everyone = [gathered(x) if with_grad else gathered(x.detach()) for x in tensors]
    forth = volume(language, *everyone[1:]) / contra_temp
    back = volume(everyone[0], *inputs).T / contra_temp
    target = torch.arange(len(language)) + len(language) * dist.get_rank()
    return sum(F.cross_entropy(-z, target, label_smoothing=0.1) for z in (forth, back)) / 2


@case("gram", *((k, with_grad) for k in (2, 3, 4) for with_grad in (False, True)))
def gram(k: int, with_grad: bool) -> Both:
    tests, dropin = import_module("compat.test_gram"), import_module("contrastile.compat.gram")
    whole = tests.loss_case(tests.modalities(N * dist.get_world_size(), 16, k), torch.float64, 0.07)
    ours = partial(dropin.volume_loss, gather_with_grad=with_grad)
    return Both(ours, partial(gram_code, with_grad=with_grad), own(whole), averaged=True)


@case("gram-uneven")
def gram_uneven() -> Both:
    tests, dropin = import_module("compat.test_gram"), import_module("contrastile.compat.gram")

    def whole(n: int) -> Case:
        return tests.loss_case(tests.modalities(n, 16, 3), torch.float64, 0.07)

    ours = partial(dropin.volume_loss, gather_with_grad=True)
    return uneven(ours, partial(tests.training_code, gather_with_grad=True), whole)


# ---- pytorch-metric-learning


METRIC_LOSSES = ("NTXentLoss", "SupConLoss")
REFERENCES = {  # rows of a rank, references of a rank, whether they have labels of their own
    "none": (N, 0, False),
    "rows_labels": (N, N, False),
    "own_labels": (N, N, True),
    "fewer": (N, 2, True),
    "more": (N, 2 * N, True),
    "one_row": (1, 4, True),
}


def metric_packages() -> tuple[Any, Any, Any]:
    """Their losses, their module of wrappers, and ours, which has both."""
    load("pytorch_metric_learning")
    peer, utils = (import_module(f"pytorch_metric_learning.{m}") for m in ("losses", "utils.distributed"))
    return peer, utils, import_module("contrastile.compat.pytorch_metric_learning")


def metric_references(kind: str) -> tuple[Case, Tensor, dict[str, Tensor]]:
    """This rank's rows and references, the rows' labels, and the references' where they have some."""
    n, m, labelled = REFERENCES[kind]
    world, rank = dist.get_world_size(), dist.get_rank()
    x, y = unit_rows(n * world, D, seed=1), unit_rows(m * world, D, seed=2)
    labels = torch.arange(n) % 3 + rank % 2
    given = {"ref_labels": (2 * torch.arange(m) + rank) % 4} if labelled else {}
    return own(Case((x, y), {}, 10.0)), labels, given


@case("pytorch_metric_learning", *product(METRIC_LOSSES, (False, True), ("ours",), REFERENCES))
@case("pytorch_metric_learning", *product(METRIC_LOSSES, (False, True), ("theirs",), ("none", "own_labels")))
def metric_learning(name: str, efficient: bool, wrapper: str, references: str) -> Both:
    """Our losses in the package's wrapper and in ours."""
    peer, utils, ours = metric_packages()
    case, labels, given = metric_references(references)

    def loss(module: Any, wrap: Any) -> Loss:
        def of(x: Tensor, y: Tensor) -> Tensor:
            made = wrap(getattr(module, name)(0.2), efficient=efficient)
            return made(x, labels, ref_emb=y, **given) if len(y) else made(x, labels)

        return of

    wrap = (ours if wrapper == "ours" else utils).DistributedLossWrapper
    return Both(loss(ours, wrap), loss(peer, utils.DistributedLossWrapper), case)


@case("pytorch_metric_learning-miner", *product(METRIC_LOSSES, (False, True), ("none", "fewer", "more")))
def metric_miner(name: str, efficient: bool, references: str) -> Both:
    """Triplets that the package's wrapper of a miner finds among own and gathered rows."""
    peer, utils, ours = metric_packages()
    miners = import_module("pytorch_metric_learning.miners")
    case, labels, given = metric_references(references)
    x, y = case.args
    refs = {"ref_emb": y, **given} if len(y) else {}
    found = utils.DistributedMinerWrapper(miners.TripletMarginMiner(margin=0.5), efficient=efficient)(x, labels, **refs)

    def loss(module: Any, wrap: Any) -> Loss:
        def of(x: Tensor, y: Tensor) -> Tensor:
            made = wrap(getattr(module, name)(0.2), efficient=efficient)
            refs = {"ref_emb": y, **given} if len(y) else {}
            return made(x, labels, found, **refs)

        return of

    return Both(loss(ours, ours.DistributedLossWrapper), loss(peer, utils.DistributedLossWrapper), case)


@case("pytorch_metric_learning-CrossBatchMemory", *product(METRIC_LOSSES, (False, True)))
def cross_batch(name: str, masked: bool) -> Both:
    """The second call meets the rows of the first; masked: some rows are remembered, the loss is that of the others."""
    peer, utils, ours = metric_packages()
    labels = torch.arange(N) % 3
    options = {"enqueue_mask": torch.arange(N) % 2 == 1} if masked else {}

    def loss(module: Any, wrap: Any) -> Loss:
        def of(x: Tensor, y: Tensor) -> Tensor:
            made = wrap(module.CrossBatchMemory(getattr(module, name)(0.2), D, memory_size=64))
            return made(y, labels, **options) + made(x, labels, **options)

        return of

    pairs = ((ours, ours.DistributedLossWrapper), (peer, utils.DistributedLossWrapper))
    return Both(*(loss(*pair) for pair in pairs), own(features()))


@case("pytorch_metric_learning-ddp", *product(METRIC_LOSSES, (False, True), ("none", "own_labels", "fewer")))
def metric_training(name: str, efficient: bool, references: str) -> str:
    """Steps of encoders in DistributedDataParallel: losses and averaged gradients of weights, rank by rank."""
    peer, utils, ours = metric_packages()
    case, labels, given = metric_references(references)

    def steps(module: Any, wrap: Any) -> list[Tensor]:
        torch.manual_seed(3)
        made = wrap(getattr(module, name)(0.2), efficient=efficient)
        encoders = [DistributedDataParallel(torch.nn.Linear(D, 6).double()) for _ in case.args]
        weights = [w for encode in encoders for w in encode.parameters()]
        optimizer = torch.optim.SGD(weights, lr=0.1)
        found: list[Tensor] = []
        for _ in range(3):
            x, y = (encode(x) if len(x) else x for encode, x in zip(encoders, case.args, strict=True))
            value = made(x, labels, ref_emb=y, **given) if len(y) else made(x, labels)
            optimizer.zero_grad()
            value.backward()
            found += [value.detach(), *(w.grad.clone() for w in weights if w.grad is not None)]
            optimizer.step()
        return found

    mine, theirs = steps(ours, ours.DistributedLossWrapper), steps(peer, utils.DistributedLossWrapper)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    return "" if mine[0] > 0.0 and mine[1].any() else "nothing to learn"


# ---- LibAUC


def two_steps(name: str, index: Tensor, *, ours: bool, **options: Any) -> Loss:
    """The second step's weights come from the averages of all ranks' first."""
    module = load("libauc.losses.contrastive", ("libauc", "libauc.losses"))
    if ours:
        module = import_module("contrastile.compat.libauc")

    def loss(x: Tensor, y: Tensor) -> Tensor:
        made = getattr(module, name)(N=40, tau=0.2, gamma=0.7, **options)
        total = x.new_zeros(())
        for epoch in range(2):
            made.adjust_gamma(epoch)
            value = made(x.roll(epoch, 1), y, index)
            total = total + (value[0] if isinstance(value, tuple) else value)
        return total

    return loss


@case("libauc-GCLoss_v1", (False,), (True,))
def libauc(learns: bool) -> Both:
    options = {"device": "cpu", "enable_isogclr": learns, "distributed": True}
    index = torch.arange(N) + N * dist.get_rank()
    functions = (two_steps("GCLoss_v1", index, ours=ours, **options) for ours in (True, False))
    return Both(*functions, own(features()), kernels=True)


@case("libauc-uneven", *product(("GCLoss_v1", "GCLoss_v2"), (False, True)))
def libauc_uneven(name: str, learns: bool) -> Both:
    """GCLoss_v2 itself takes, on every rank but the first, another pair's text for an image's own."""
    options: dict[str, Any] = {"enable_isogclr": learns} | (
        {"device": "cpu"} if name == "GCLoss_v1" else {"tau_max": 0.5}
    )
    sizes, ranks = SIZES[dist.get_world_size()], rank_size() if name == "GCLoss_v2" else {}
    index = torch.arange(sum(sizes))
    mine = index[span(sizes, dist.get_rank())]
    ours = two_steps(name, mine, ours=True, distributed=True, **options, **ranks)
    both = uneven(ours, two_steps(name, index, ours=False, **options), lambda n: Case(two_views(n, D), {}, 10.0))
    return replace(both, kernels=True)


# ---- packages whose kernels run in Triton's interpreter


def kernels(ours: Loss, theirs: Loss, case: Case) -> Both:
    return Both(ours, theirs, case, kernels=True)


@cache
def memeff() -> Any:
    package = pytest.importorskip("memeff")
    for name, module in list(sys.modules.items()):
        if name.startswith("memeff.") and hasattr(module, "_validate_features"):
            module._validate_features = lambda x, y: None  # asks for CUDA tensors
    return package


OPTIONS: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1, "tau_plus": 0.05, "stable": False}]
KINDS = ("CLIP", "LiT", "Qwen3", "LiTQwen3")
MEMEFF = [(f"{form}{kind}Loss", index) for form in ("", "Matryoshka") for kind in KINDS for index in (0, 1)]
HALF_OF_MEMEFF = MEMEFF[::4] + MEMEFF[3::4]  # every class with one of the options, every other one with the same


def memeff_loss(module: Any, name: str, index: int, distributed: bool) -> Loss:
    options = OPTIONS[index] | ({"dims": (64, 128)} if "Matryoshka" in name else {})
    if index and "Qwen3" in name:
        options |= {"use_qq_negatives": True}
    return getattr(module, f"{'Distributed' * distributed}MemoryEfficient{name}")(**options)


def sum_of_values(loss: Loss) -> Loss:
    """With label_smoothing the package shares a part of the value among ranks in its own way."""
    return lambda *args, **named: Everywhere.apply(loss(*args, **named), 1.0)


def memeff_features(n: int, name: str) -> Case:
    d = 128 if "Matryoshka" in name else 32
    shapes = [(n, d), (n, d), *([(n, 2, d)] if "Qwen3" in name else [])]
    return Case(tuple(correlated(shapes, noise=1.6)), {}, 20.0)


@case("memeff", *MEMEFF, quick=HALF_OF_MEMEFF)
def memeff_classes(name: str, index: int) -> Both:
    ours, theirs = import_module("contrastile.compat.memeff"), memeff()
    losses = [memeff_loss(m, name, index, True) for m in (ours, theirs)]
    losses = list(map(sum_of_values, losses)) if "label_smoothing" in OPTIONS[index] else losses
    return kernels(*losses, own(memeff_features(N * dist.get_world_size(), name)))


@case("memeff-priors", ("CLIP",), ("Qwen3",))
def memeff_priors(kind: str) -> Both:
    """A prior of every row, which a column has, too."""
    prior = torch.linspace(0.0, 0.2, N) * (1 + dist.get_rank())
    modules = import_module("contrastile.compat.memeff"), memeff()

    def loss(module: Any) -> Loss:
        return sum_of_values(lambda *x: memeff_loss(module, f"{kind}Loss", 1, True)(*x, tau_plus=prior))

    return kernels(*map(loss, modules), own(memeff_features(N * dist.get_world_size(), kind)))


@case("memeff-uneven", *MEMEFF, quick=[x for x in MEMEFF if x not in HALF_OF_MEMEFF])
def memeff_uneven(name: str, index: int) -> Both:
    """Against our own class on one process: the package wants equal batches. The sum over ranks is the global loss."""
    ours = import_module("contrastile.compat.memeff")
    alone = memeff_loss(ours, name, index, False)
    return uneven(memeff_loss(ours, name, index, True), alone, lambda n: memeff_features(n, name), share=1.0)


@case("inf_cl", ("cal_ring_loss", False), ("cal_ring_loss", True), ("cal_inf_loss", False))
def inf_cl(name: str, labelled: bool) -> Both:
    """Against cal_ring_loss, which is written in torch; cal_inf_loss is the same with a kernel for each block."""
    ours, theirs = import_module("contrastile.compat.inf_cl"), pytest.importorskip("inf_cl.ring")
    labels = torch.arange(N).flip(0) if labelled else None

    def loss(function: Loss) -> Loss:
        return lambda q, k, scale: function(q, k, labels, scale, D)

    return kernels(loss(getattr(ours, name)), loss(theirs.cal_ring_loss), own(features(5.0)))


@case("inf_cl-uneven", (0,), (3,))
def inf_cl_uneven(more: int) -> Both:
    """More keys than queries on every rank; one process has no ring, and the scale's gradient is W times the joint."""
    ours, world = import_module("contrastile.compat.inf_cl"), dist.get_world_size()
    sizes, rank = SIZES[world], dist.get_rank()

    def loss(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
        extra = unit_rows(more, D, seed=rank)
        return ours.cal_inf_loss(q, torch.cat([k, extra]), scale=gradient_scaled(scale, 1.0 / world))

    def joint(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
        extra = [unit_rows(more, D, seed=r) for r in range(world)]
        return F.cross_entropy(scale * q @ torch.cat([k, *extra]).T, torch.arange(sum(sizes)))

    return uneven(loss, joint, lambda n: clip_case(n, 5.0))


@case("siglip_kernel", ("ring", True), ("ring", False), ("gather", True), ("local", True))
def siglip_strategies(strategy: str, overlap: bool) -> Both:
    options = {"strategy": strategy, "overlap": overlap, **rank_size()}
    ours, theirs = import_module("contrastile.compat.siglip_kernel"), pytest.importorskip("siglip_kernel")
    losses = [m.DistributedSigLIPLoss(**options) for m in (ours, theirs)]
    return kernels(*losses, own(features(10.0, -4.0, d=32)))


def plus(module: Any, rank: int, world: int, ids: Sequence[Tensor], **options: Any) -> Loss:
    """With the parameters' gradients: they are set from arguments."""
    made = module.DistributedSigLIPPlusLoss(rank=rank, world_size=world, **options)

    def loss(img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        values = {"logit_scale": scale, "logit_bias": bias}
        found = torch.func.functional_call(made, values, ([img, txt], *ids))
        return found["total_loss"] + 1e-3 * found["n_positives"]

    return loss


@case("siglip_kernel-plus", *product((True, False), repeat=4))
def siglip_plus(symmetric: bool, soft_label: bool, overlap: bool, counted: bool) -> Both:
    """Three texts for two images; groups go across ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(0, 6, (N,), generator=generator), torch.randint(0, 7, (N + 3,), generator=generator)
    options = {
        "symmetric": symmetric,
        "soft_label": soft_label,
        "overlap": overlap,
        "num_groups": 7 if counted else None,
    }
    modules = import_module("contrastile.compat.siglip_kernel"), pytest.importorskip("siglip_kernel")
    img, txt = correlated([(N, 32), (N + 3, 32)], seed=rank)
    case = Case((img, txt, torch.tensor(2.3), torch.tensor(-4.0)), {}, 10.0)
    return kernels(*(plus(module, rank, world, ids, **options) for module in modules), case)


@case("siglip_kernel-uneven-plus", *FLAGS)
def siglip_plus_uneven(symmetric: bool, soft_label: bool) -> Both:
    world, rank = dist.get_world_size(), dist.get_rank()
    sizes, total = SIZES[world], sum(SIZES[world])
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 6, (total,), generator=generator) for _ in range(2)]
    options = {"symmetric": symmetric, "soft_label": soft_label}
    module = import_module("contrastile.compat.siglip_kernel")
    ours = plus(module, rank, world, [x[span(sizes, rank)] for x in ids], **options)
    return uneven(ours, plus(module, 0, 1, ids, **options), lambda n: clip_case(n, 2.3, -4.0))


# ---- half precision

HALF = (
    "open_clip-ClipLoss-False-False", "open_clip-ClipLoss-True-False", "open_clip-ClipLoss-True-True",
    "open_clip-DistillClipLoss-True-True-(0.0,1.0)", "open_clip-SigLipLoss-bidir", "lightly-0-True", "lightly-4-True",
    "multi_view_cl-MVDHEL-0-2", "sentence_transformers-MultipleNegativesRankingLoss-1-2",
    "sentence_transformers-GISTEmbedLoss-0-2", "inf_cl-cal_ring_loss-False", "siglip_kernel-plus-True-True-True-True",
)  # fmt: skip


@case("bfloat16", *((key,) for key in HALF))
def bfloat16(key: str) -> str:
    """A float32 loss, near the package's of the same rows in float32; gradients of features in their own type."""
    both = MAKERS[key]()
    assert isinstance(both, Both)
    results = []
    for function, dtype in ((both.ours, torch.bfloat16), (both.theirs, torch.float32)):
        leaves = [half(x, dtype) for x in both.case.args]
        value = function(*leaves, **{name: half(x, torch.float32) for name, x in both.case.kwargs.items()})
        value.backward()
        grads = [x.grad for x in leaves if isinstance(x, Tensor) and x.dim() > 1]
        results.append((value.detach(), torch.cat([g.flatten().float() for g in grads]), {g.dtype for g in grads}))
    (value, grads, kinds), (true, their, _) = results
    if value.dtype != torch.float32 or kinds != {torch.bfloat16}:
        return f"types {value.dtype}, {kinds}"
    off = (value - true).abs() / true.abs(), (grads - their).norm() / their.norm()
    return "" if max(off) < 0.02 else f"off by {off}"


def half(x: Any, dtype: torch.dtype) -> Any:
    """Numbers stay float32."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.to(torch.bfloat16).to(dtype).requires_grad_() if x.dim() > 1 else x.float().requires_grad_()


# ---- arguments that one rank refuses


def refusing(loss: Loss, *pair: Tensor) -> str:
    """The second rank brings one row too few on one side: it says so, and all others learn of it."""
    bad = dist.get_rank() == 1
    try:
        loss(pair[0], pair[1][: len(pair[1]) - bad])
    except (RankError, ValueError) as error:
        right = isinstance(error, ValueError) if bad else "rank 1 refused its arguments" in str(error)
        return "" if right else f"{type(error).__name__}: {error}"
    return "nothing was raised"


@case("refused", ("ClipLoss",), ("SigLipLoss",), ("DistillClipLoss",))
def refused_by_open_clip(name: str) -> str:
    loss = getattr(open_clip_module(True), name)(**rank_size())
    image, text = two_views(N, D)
    more = {"DistillClipLoss": (image, text, 1.0), "SigLipLoss": (0.0,)}.get(name, ())
    return refusing(lambda x, y: loss(x, y, 1.0, *more), image, text)


@case("refused", ("lightly", "NTXentLoss"), ("lightly", "DCLWLoss"))
def refused_by_lightly(_: str, name: str) -> str:
    return refusing(lightly_loss(name, True, ours=True), *two_views(N, D))


@case("refused", ("sentence_transformers", "MultipleNegativesRankingLoss"), ("sentence_transformers", "GISTEmbedLoss"))
def refused_by_sentence_transformers(_: str, name: str) -> str:
    loss = embedded(name, True, ours=True)

    def of(x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y, **({"guide_0": x, "guide_1": x} if "GIST" in name else {}))

    return refusing(of, *two_views(N, D))


@case("refused", ("multi_view_cl",))
def refused_by_multi_view_cl(_: str) -> str:
    loss = import_module("contrastile.compat.multi_view_cl").MVDHEL(distributed=True)
    return refusing(lambda x, y: loss(torch.cat([x, y])), *two_views(N, D))


@case("refused", ("memeff",))
def refused_by_memeff(_: str) -> str:
    loss = import_module("contrastile.compat.memeff").DistributedMemoryEfficientCLIPLoss()
    return refusing(loss, *two_views(N, D))


@case("refused", ("inf_cl",), ("gram",))
def refused_by_functions_of_the_default_group(name: str) -> str:
    module = import_module(f"contrastile.compat.{name}")
    return refusing(module.cal_inf_loss if name == "inf_cl" else module.volume_loss, *two_views(N, D))


@case("refused", ("siglip_kernel",), ("siglip_kernel", "plus"))
def refused_by_siglip_kernel(_: str, form: str = "") -> str:
    module, ids = import_module("contrastile.compat.siglip_kernel"), torch.arange(N)
    if not form:
        loss = module.DistributedSigLIPLoss(**rank_size())
        return refusing(lambda x, y: loss(x, y, 1.0, 0.0), *two_views(N, D))
    loss = module.DistributedSigLIPPlusLoss(**rank_size())
    return refusing(lambda x, y: loss([x, y], ids, ids)["total_loss"], *two_views(N, D))


@case("refused", ("world_size",))
def refused_world_size(_: str) -> str:
    """A world_size that is not the group's raises on every rank."""
    module = open_clip_module(True)
    for wrong in ({"rank": dist.get_rank(), "world_size": 7}, {"rank": 5, "world_size": dist.get_world_size()}):
        with pytest.raises(ValueError, match="world_size and rank must be those of the process group"):
            module.ClipLoss(**wrong)(*two_views(N, D), 1.0)
    return ""


from . import ranks_retrieval  # noqa: E402, F401  # more cases

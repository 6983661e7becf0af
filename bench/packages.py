"""Other packages' losses: how each is called on the inputs of a workload. One row of PEERS for each.

An adapter takes the package's module, or our drop-in module in its place, and gives a function of a case's arguments.
open_clip and lightly are imported without torchvision where that is missing (tests/support/standins.py). GRAM,
Multi-View-CL and DHEL-KCL are no packages: their formulas are restated in eager.py and tests/support/official_views.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import eager
from contrastile.benchmark.problem import Problem
from contrastile.benchmark.suite import Loss, Skip
from support import official_views

Modules = Callable[[], Any]  # raises Skip
Adapter = Callable[[Any, Problem], Loss]
BANK = 4096  # rows of the memory bank


@dataclass(frozen=True)
class Peer:
    package: str
    modules: Modules
    adapt: Adapter
    distribution: str | None = None  # on PyPI, if that is not the name
    dropin: str = ""  # module of contrastile.compat
    gpu: bool = False  # needs one
    normalizes: bool = True


def installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # also packages that fail while they look for a driver
        raise Skip(f"{name} cannot be imported: {error}") from error


def dropin(name: str) -> Any:
    if name == "lightly":
        return lightly()[1]
    return importlib.import_module(f"contrastile.compat.{name}")


def open_clip() -> ModuleType:
    from support.standins import load

    return skipping(lambda: load("open_clip.loss", shells=("open_clip",)))


@cache
def lightly() -> tuple[Any, Any]:
    """The package's losses and the drop-ins, which extend them."""
    from support.lightly_modules import lightly_importable, lightly_losses

    def both() -> tuple[Any, Any]:
        with lightly_importable():
            theirs = SimpleNamespace(**lightly_losses("NTXentLoss", "DCLLoss", "DCLWLoss"))
            return theirs, importlib.import_module("contrastile.compat.lightly")

    return skipping(both)


def sentence_transformers() -> ModuleType:
    installed("sentence_transformers")
    return installed("sentence_transformers.sentence_transformer.losses")


def skipping(load: Callable[[], Any]) -> Any:
    """The tests' loaders skip a test where a package is missing."""
    try:
        return load()
    except pytest.skip.Exception as missing:
        raise Skip(str(missing)) from missing


def temperature(problem: Problem) -> float:
    """As a number: most packages take no tensor."""
    return float(problem.at(4).case(0).kwargs["temperature"])


def without_temperature(loss: Loss) -> Loss:
    """Which the loss holds already, as it does the options of the variant."""
    return lambda *features, temperature, **options: loss(*features)


# ---- pairs


def clip(module: Any, problem: Problem) -> Loss:
    return module.ClipLoss()


def siglip(module: Any, problem: Problem) -> Loss:
    return module.SigLipLoss()


def distill(module: Any, problem: Problem) -> Loss:
    """The teacher is no leaf of the training."""
    loss = module.DistillClipLoss()
    return lambda *args: sum(loss(*args[:3], *(x.detach() if isinstance(x, Tensor) else x for x in args[3:])))


def both_ways(one: Loss) -> Loss:
    """A cross entropy of one direction, called twice, as its users do for CLIP: one(queries, keys, labels)."""

    def loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        own = torch.arange(len(a), device=a.device)
        factor = scale.to(a.dtype)
        return (one(a * factor, b, own) + one(b * factor, a, own)) / 2

    return loss


def one_way(one: Loss) -> Loss:
    def loss(a: Tensor, b: Tensor, *, temperature: Tensor) -> Tensor:
        return one(a / temperature.to(a.dtype), b, torch.arange(len(a), device=a.device))

    return loss


def torch_cross_entropy() -> Any:
    if not hasattr(F, "linear_cross_entropy"):
        raise Skip(f"torch {torch.__version__} has no F.linear_cross_entropy")
    return F


def info_nce(module: Any, problem: Problem) -> Loss:
    return without_temperature(module.InfoNCE(temperature(problem)))


def ranking(module: Any, problem: Problem, **options: Any) -> Loss:
    """From embeddings on, with a model that is never run."""
    from support.sentence_encoders import Given

    loss = module.MultipleNegativesRankingLoss(Given(), scale=1.0 / temperature(problem), **options)
    return without_temperature(lambda *x: loss.compute_loss_from_embeddings(list(x), None))


def cached_ranking(module: Any, problem: Problem) -> Loss:
    """The loss stage of the cached form at its default mini-batch: gradients are taken inside, block by block."""
    from support.sentence_encoders import Given

    loss = module.CachedMultipleNegativesRankingLoss(Given(), scale=1.0 / temperature(problem))

    def stage(*embeddings: Tensor) -> Tensor:
        value = loss.calculate_loss([[x] for x in embeddings], with_backward=torch.is_grad_enabled())
        return value.detach().requires_grad_()  # for backward() to have something to do: GradCache does the same

    return without_temperature(stage)


# ---- views


def nt_xent(module: Any, problem: Problem, **options: Any) -> Loss:
    return without_temperature(module.NTXentLoss(temperature=temperature(problem), **options))


def memory_bank(module: Any, problem: Problem) -> Loss:
    """The bank starts with torch's random numbers, and takes in a batch a step."""
    torch.manual_seed(0)
    return nt_xent(module, problem, memory_bank_size=(BANK, problem.d))


def decoupled(name: str, module: Any, problem: Problem) -> Loss:
    return without_temperature(getattr(module, name)(temperature=temperature(problem)))


def self_supervised(module: Any, problem: Problem) -> Loss:
    wrapper = installed("pytorch_metric_learning.losses").SelfSupervisedLoss
    return without_temperature(wrapper(module.NTXentLoss(temperature=temperature(problem))))


def sup_con(module: Any, problem: Problem) -> Loss:
    return without_temperature(module.SupConLoss(temperature=temperature(problem)))


def stacked(module: Any, problem: Problem) -> Loss:
    loss = module.InfoNCE(temperature(problem))
    return without_temperature(lambda a, b: loss(torch.cat([a, b])))


def official(name: str, formula: Callable[..., Tensor]) -> Adapter:
    """Multi-View-CL's class, or its formula on whole matrices; both normalise."""

    def adapt(module: Any, problem: Problem) -> Loss:
        tau = temperature(problem)
        made = getattr(module, name)(tau=tau, multiplier=problem.k) if module else None

        def loss(*features: Tensor) -> Tensor:
            views = features[0] if len(features) == 1 else torch.stack(features)
            return made(views.flatten(0, 1))[0] if made else formula(F.normalize(views, dim=-1), tau)

        return without_temperature(loss)

    return adapt


# ---- three and more modalities


def volumes(module: Any, problem: Problem) -> Loss:
    if module:
        return lambda *x, temperature, detach_keys: module.volume_loss(*x, contra_temp=temperature)

    def dense(*x: Tensor, temperature: Tensor, detach_keys: bool) -> Tensor:
        return eager.official_gram(*x, temperature=temperature)

    return dense


def symile(module: Any, problem: Problem, negatives: str) -> Loss:
    loss = module.Symile(negative_sampling=negatives)

    def seeded(*modalities: Tensor, logit_scale: Tensor, **options: Any) -> Tensor:
        torch.manual_seed(0)  # shuffled negatives come from torch's global generator
        return loss.forward(list(modalities), logit_scale)

    return seeded


# ---- kernels for GPUs


def memeff(module: Any, problem: Problem) -> Loss:
    loss = module.MemoryEfficientCLIPLoss(
        1.0 / float(problem.at(4).case(0).args[2]), normalized_inputs=True, stable=False
    )
    return lambda a, b, scale: loss(a, b)


def inf_cl(module: Any, problem: Problem) -> Loss:
    return both_ways(lambda a, b, own: module.cal_inf_loss(a, b, labels=own))


def liger(module: Any, problem: Problem) -> Loss:
    loss = module.LigerFusedLinearCrossEntropyLoss()
    return both_ways(lambda a, b, own: loss(b, a, own))


def cut_cross_entropy(module: Any, problem: Problem) -> Loss:
    return both_ways(lambda a, b, own: module.linear_cross_entropy(a, b, own))


def siglip_kernel(module: Any, problem: Problem) -> Loss:
    return lambda a, b, scale, bias: module.fused_siglip_loss(a, b, scale.log(), bias)


# ---- the table


def module(name: str) -> Modules:
    return partial(installed, name)


def kernel(package: str, name: str, adapt: Adapter) -> Peer:
    return Peer(package, module(name), adapt, gpu=True, normalizes=False)


def on_unit_rows(*given: Any, **more: Any) -> Peer:
    return Peer(*given, normalizes=False, **more)


def no_module() -> None:
    """The official code is restated."""


def multi_view(name: str, formula: Callable[..., Tensor]) -> dict[str, Peer]:
    return {
        f"Multi-View-CL {name}": Peer(
            "Multi-View-CL (official)", no_module, official(name, formula), dropin="multi_view_cl"
        )
    }


ST = {"package": "sentence-transformers", "modules": sentence_transformers, "dropin": "sentence_transformers"}
PML = {
    "package": "pytorch-metric-learning",
    "modules": module("pytorch_metric_learning.losses"),
    "dropin": "pytorch_metric_learning",
}
LIGHTLY: dict[str, Any] = {"package": "lightly", "modules": lambda: lightly()[0], "dropin": "lightly"}
OPEN_CLIP: dict[str, Any] = {
    "package": "open_clip", "distribution": "open_clip_torch", "modules": open_clip, "dropin": "open_clip",
    "normalizes": False,
}  # fmt: skip
INFO_NCE: dict[str, Any] = {"package": "info-nce-pytorch", "modules": module("info_nce"), "dropin": "info_nce"}
BOTH_DIRECTIONS = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
HARDER = {"hardness_mode": "in_batch_negatives", "hardness_strength": 5.0}

PEERS: dict[tuple[str, str], dict[str, Peer]] = {
    ("clip_loss", "default"): {
        "open_clip ClipLoss": Peer(**OPEN_CLIP, adapt=clip),
        "F.linear_cross_entropy, twice": on_unit_rows(
            "torch", torch_cross_entropy, lambda m, _: both_ways(m.linear_cross_entropy)
        ),
        "memeff": kernel("memeff", "memeff.clip_loss", memeff),
        "liger-kernel, twice": Peer(
            "liger-kernel", module("liger_kernel.transformers"), liger, gpu=True, normalizes=False
        ),
        "cut-cross-entropy, twice": Peer(
            "cut-cross-entropy", module("cut_cross_entropy"), cut_cross_entropy, gpu=True, normalizes=False
        ),
        "inf-cl, twice": kernel("inf-cl", "inf_cl", inf_cl),
    },
    ("clip_loss", "distillation"): {"open_clip DistillClipLoss": Peer(**OPEN_CLIP, adapt=distill)},
    ("siglip_loss", "default"): {
        "open_clip SigLipLoss": Peer(**OPEN_CLIP, adapt=siglip),
        "siglip-kernel": kernel("siglip-kernel", "siglip_kernel", siglip_kernel),
    },
    ("info_nce", "default"): {
        "info-nce-pytorch InfoNCE": Peer(**INFO_NCE, adapt=info_nce),
        "sentence-transformers MNRL": Peer(**ST, adapt=ranking),
        "sentence-transformers cached MNRL": Peer(**ST, adapt=cached_ranking),
        "F.linear_cross_entropy": Peer(
            "torch", torch_cross_entropy, lambda m, _: one_way(m.linear_cross_entropy), normalizes=False
        ),
    },
    ("info_nce", "symmetric"): {
        "sentence-transformers MNRL, both directions": Peer(**ST, adapt=partial(ranking, **BOTH_DIRECTIONS)),
    },
    ("info_nce", "hardness"): {
        "sentence-transformers MNRL, hardness": Peer(**ST, adapt=partial(ranking, **HARDER)),
    },
    ("info_nce", "unpaired"): {"info-nce-pytorch InfoNCE, unpaired": Peer(**INFO_NCE, adapt=info_nce)},
    ("nt_xent", "default"): {
        "lightly NTXentLoss": Peer(**LIGHTLY, adapt=nt_xent),
        "pytorch-metric-learning NTXentLoss": Peer(**PML, adapt=self_supervised),
        "infonce InfoNCE": Peer("infonce", module("infonce"), stacked, dropin="infonce"),
        **multi_view("NTXent", lambda views, tau: official_views.nt_xent(views, tau)[0]),
    },
    ("nt_xent", "memory bank"): {"lightly NTXentLoss, memory bank": Peer(**LIGHTLY, adapt=memory_bank)},
    ("dcl", "default"): {"lightly DCLLoss": Peer(**LIGHTLY, adapt=partial(decoupled, "DCLLoss"))},
    ("sup_con", "ten classes"): {
        "pytorch-metric-learning SupConLoss": Peer(**PML, adapt=sup_con),
    },
    ("dhel", "default"): multi_view("NTXentHPS", lambda views, tau: official_views.dhel(*views, temperature=tau)),
    ("mv_infonce", "default"): multi_view(
        "MVINFONCE", lambda views, tau: official_views.mv_infonce(views, temperature=tau)
    ),
    ("mv_dhel", "default"): multi_view("MVDHEL", lambda views, tau: official_views.mv_dhel(views, temperature=tau)),
    ("pvc", "default"): multi_view("PVCLoss", lambda views, tau: official_views.pvc_geometric(views, temperature=tau)),
    ("gram_loss", "detached"): {
        "GRAM training code": Peer("GRAM (official)", no_module, volumes, dropin="gram", normalizes=False)
    },
    ("symile_loss", "drawn"): {
        "symile": on_unit_rows("symile", module("symile"), partial(symile, negatives="n"), dropin="symile")
    },
    ("symile_loss", "n_squared"): {
        "symile n_squared": Peer(
            "symile", module("symile"), partial(symile, negatives="n_squared"), dropin="symile", normalizes=False
        )
    },
}

"""Drop-ins next to the losses they stand in for: how either is called, and at which sizes.

N counts the rows of the larger side of the matrix of similarities: a loss that takes two views as one batch gets N / 2
of each. open_clip and lightly are imported without torchvision (tests/peers/standins.py). GRAM and Multi-View-CL are no
packages; their official formulas are restated in eager.py and tests/official_views.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import eager
import peak
from measure import unit

Loss = Callable[..., Tensor]

SCALE, BIAS = torch.tensor(14.3, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
LEARNED = [SCALE, BIAS]
SIZES = (1024, 8192)


@dataclass(frozen=True)
class Dropin:
    make: Callable[[], tuple[Loss, Loss]]  # theirs and ours, functions of the inputs; skips where theirs is missing
    inputs: int = 2
    views: int = 1  # N / views rows in each input
    sizes: tuple[int, int] = SIZES  # smaller where theirs takes more than 8 GB or 20 seconds

    def draw(self, n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
        return [unit(n // self.views, d, dtype) for _ in range(self.inputs)]


def ours(name: str):
    return importlib.import_module(f"contrastile.compat.{name}")


def theirs(name: str):
    return pytest.importorskip(name, reason=f"{name} is missing", exc_type=ImportError)


# ---- packages


def open_clip(name: str) -> tuple[Loss, Loss]:
    from peers.standins import load

    modules = load("open_clip.loss", shells=("open_clip",)), ours("open_clip")
    return tuple(partial(CALLS[name], getattr(module, name)()) for module in modules)


def distill(loss: Loss, image: Tensor, text: Tensor, *teacher: Tensor) -> Tensor:
    """The teacher is no leaf of the training."""
    return sum(loss(image, text, SCALE, *(x.detach() for x in teacher), 20.0))


CALLS = {
    "ClipLoss": lambda loss, image, text: loss(image, text, SCALE),
    "SigLipLoss": lambda loss, image, text: loss(image, text, SCALE, BIAS),
    "DistillClipLoss": distill,
}


@cache
def lightly_classes() -> tuple[dict[str, type], dict[str, type]]:
    from compat.lightly_modules import lightly_importable, lightly_losses

    with lightly_importable():
        return lightly_losses("NTXentLoss", "DCLLoss"), vars(ours("lightly"))


def lightly(name: str) -> tuple[Loss, Loss]:
    return tuple(classes[name](temperature=0.1) for classes in lightly_classes())


def sup_con() -> tuple[Loss, Loss]:
    """Ten classes, as large as each other."""
    classes = theirs("pytorch_metric_learning.losses").SupConLoss, ours("pytorch_metric_learning").SupConLoss
    return tuple(partial(lambda loss, x: loss(x, torch.arange(len(x)) % 10), cls(temperature=0.1)) for cls in classes)


def self_supervised() -> tuple[Loss, Loss]:
    losses = theirs("pytorch_metric_learning.losses")
    classes = losses.NTXentLoss, ours("pytorch_metric_learning").NTXentLoss
    return tuple(losses.SelfSupervisedLoss(cls(temperature=0.1)) for cls in classes)


def info_nce() -> tuple[Loss, Loss]:
    return theirs("info_nce").InfoNCE(), ours("info_nce").InfoNCE()


def infonce() -> tuple[Loss, Loss]:
    return theirs("infonce").InfoNCE(0.1), ours("infonce").InfoNCE(0.1)


def symile() -> tuple[Loss, Loss]:
    """The shuffled negatives of both come from torch's global generator, in the same order."""

    def seeded(loss, *modalities: Tensor) -> Tensor:
        torch.manual_seed(0)
        return loss.forward(list(modalities), SCALE)

    return tuple(partial(seeded, module.Symile(negative_sampling="n")) for module in (theirs("symile"), ours("symile")))


def ranking() -> tuple[Loss, Loss]:
    """MultipleNegativesRankingLoss from embeddings on, both directions."""
    options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    made = [module.MultipleNegativesRankingLoss(model, **options) for module, model in sentence_losses()]
    return tuple(partial(lambda loss, *x: loss.compute_loss_from_embeddings(list(x), None), loss) for loss in made)


def cached_ranking() -> tuple[Loss, Loss]:
    """The loss stage of the cached form at its default mini-batch: its gradients are taken inside, block by block."""

    def stage(loss, *embeddings: Tensor) -> Tensor:
        value = loss.calculate_loss([[x] for x in embeddings], with_backward=True)
        return value.detach().requires_grad_()  # for backward() to have something to do: GradCache does the same

    made = [module.CachedMultipleNegativesRankingLoss(model) for module, model in sentence_losses()]
    return tuple(partial(stage, loss) for loss in made)


def sentence_losses():
    """The package's losses and ours, each with a model that is never run."""
    from compat.sentence_encoders import Given

    modules = theirs("sentence_transformers.sentence_transformer.losses"), ours("sentence_transformers")
    return [(module, Given()) for module in modules]


# ---- official code


def gram() -> tuple[Loss, Loss]:
    """Volumes once for each direction, the other side of each without gradient, as the code's gather leaves it."""

    def official(anchor: Tensor, *others: Tensor) -> Tensor:
        cut = [x.detach() for x in others]
        rows, cols = eager.gram_volumes(anchor, *cut), eager.gram_volumes(anchor.detach(), *others).T
        labels = torch.arange(len(anchor))
        return sum(F.cross_entropy(-z / 0.07, labels, label_smoothing=0.1) for z in (rows, cols)) / 2

    return official, ours("gram").volume_loss


def views(name: str, official: str) -> tuple[Loss, Loss]:
    import official_views

    restated, loss = getattr(official_views, official), getattr(ours("multi_view_cl"), name)(tau=0.5, multiplier=4)

    def dense(z: Tensor) -> Tensor:
        return restated(F.normalize(z, dim=1).view(4, -1, z.shape[1]), temperature=0.5)

    return dense, lambda z: loss(z)[0]


DROPINS = {
    "open_clip.ClipLoss": Dropin(partial(open_clip, "ClipLoss")),
    "open_clip.SigLipLoss": Dropin(partial(open_clip, "SigLipLoss")),
    "open_clip.DistillClipLoss": Dropin(partial(open_clip, "DistillClipLoss"), inputs=4),
    "lightly.NTXentLoss": Dropin(partial(lightly, "NTXentLoss"), views=2),
    "lightly.DCLLoss": Dropin(partial(lightly, "DCLLoss"), views=2),
    "pytorch_metric_learning.SupConLoss": Dropin(sup_con, inputs=1),
    # theirs lists each positive pair with all negatives of its row: N^2 numbers for each of the N pairs
    "pytorch_metric_learning.NTXentLoss": Dropin(self_supervised, views=2, sizes=(256, 512)),
    "info_nce.InfoNCE": Dropin(info_nce),
    "info_nce.InfoNCE-unpaired": Dropin(info_nce, inputs=3),
    "infonce.InfoNCE": Dropin(infonce, inputs=1),
    "symile.Symile": Dropin(symile, inputs=3),
    "sentence_transformers.MultipleNegativesRankingLoss": Dropin(ranking),
    "sentence_transformers.CachedMultipleNegativesRankingLoss": Dropin(
        cached_ranking, sizes=(1024, 4096)
    ),  # theirs: half a minute at 8192
    "gram.volume_loss": Dropin(gram, inputs=3, sizes=(1024, 2048)),  # theirs: 5 GB at 4096, 21 at 8192
    "multi_view_cl.MVINFONCE": Dropin(partial(views, "MVINFONCE", "mv_infonce"), inputs=1),
    "multi_view_cl.MVDHEL": Dropin(partial(views, "MVDHEL", "mv_dhel"), inputs=1),
}


def peak_of(name: str, which: int, n: int, d: int, dtype: torch.dtype) -> int:
    """Peak bytes beyond the inputs; which: 0 theirs, 1 ours. Runs in a process of its own, where nothing ran before."""
    dropin = DROPINS[name]
    return peak.extra_bytes(dropin.make()[which], lambda rows: dropin.draw(rows, d, dtype), n)

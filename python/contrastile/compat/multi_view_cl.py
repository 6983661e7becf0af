"""The classes of Multi-View-CL's models/losses.py (github pakoromilas/Multi-View-CL, revision c26ae77).

All take z, the k views of N instances one view after the other, (k N, D), normalise it and return a pair, the loss and
0; NTXent returns the loss and its accuracy. k is the argument `multiplier`, tau the temperature.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..literals import BackendName
from ..losses.common import inverse, log_count, reduced_empty, unit, upcast
from ..losses.decoupled import dhel, view_energy
from ..losses.multiview import Mode, mv_dhel, mv_infonce, pairwise_aggregate, pvc
from ..losses.supervised import sup_con
from ..losses.two_views import nt_xent
from ..losses.views import ViewBatch, other_instances
from ..losses.weights import Counted
from ..ops import EngineOptions, check, no_autocast, pair_reduce
from ..ranks import GlobalBatch, Group, Ranks, collective
from .ranks import mean_value, ranks_of

METHODS = ("geometric", "arithmetic")


class MultiView(nn.Module):
    """What the losses share: k views, a temperature, and with `distributed` the instances of all ranks."""

    def __init__(
        self, tau: float, multiplier: int, distributed: bool, memory_budget: int | None, backend: BackendName
    ) -> None:
        super().__init__()
        check.scalar("tau", tau, positive=True)
        if isinstance(multiplier, bool) or not isinstance(multiplier, int) or multiplier < 2:
            raise ValueError(f"multiplier must be an int >= 2, the number of views, got {multiplier!r}")
        self.tau = tau
        self.multiplier = multiplier
        self.distributed = distributed
        self.memory_budget = memory_budget
        self.backend = backend

    @property
    def engine(self) -> dict[str, Any]:
        return {"memory_budget": self.memory_budget, "backend": self.backend, "group": self.ranks}

    @property
    def ranks(self) -> Ranks | None:
        return ranks_of() if self.distributed else None

    def batch(self, views: Tensor) -> GlobalBatch:
        """The instances of views (k, N, D), of all ranks."""
        return GlobalBatch.of(self.ranks, views.shape[1])

    @property
    def count(self) -> int:
        """Views into which z is cut."""
        return self.multiplier

    @collective
    def views(self, z: Tensor, *, group: Group) -> Tensor:
        """z as unit rows, (k, N, D)."""
        k = self.count
        if check.features("z", z).shape[0] % k:
            raise ValueError(f"z must have a number of rows that {k} divides, got {z.shape[0]}")
        return unit(z, True).view(k, z.shape[0] // k, z.shape[1])

    def contrast(self, views: Tensor) -> Tensor:
        raise NotImplementedError

    def value(self, views: Tensor) -> Tensor:
        """The mean over the instances of all ranks, on every rank."""
        if self.ranks is None and not views.shape[1]:
            return reduced_empty(0, "mean", views)
        return mean_value(self.contrast(views), self.ranks)

    def forward(self, z: Tensor) -> tuple[Tensor, Any]:
        return self.value(self.views(z, group=self.ranks)), 0

    def extra_repr(self) -> str:
        return f"tau={self.tau}, multiplier={self.multiplier}, distributed={self.distributed}"


class NTXent(MultiView):
    """NT-Xent of two views, and three ways to have more of them. Returns (loss, accuracy).

    Args:
        pwe: The mean over all pairs of views. average: the mean over views of the loss of a view and the mean of the
            others, which is not normalised again. mv: all other views of the instance are positives. The first of
            pwe, average, mv counts. With none of them rows i and i + k N / 2 are a pair, whatever k is.

    The accuracy is float32, one number for each row of z (of a pair of views with pwe and average): 1 where the row's
    positives come before all others. Ties count as 0; in the original they are torch.topk's choice.
    """

    def __init__(
        self,
        tau: float = 1.0,
        multiplier: int = 2,
        pwe: bool = False,
        average: bool = False,
        mv: bool = False,
        distributed: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(tau, multiplier, distributed, memory_budget, backend)
        self.pwe = pwe
        self.average = average
        self.mv = mv

    @property
    def mode(self) -> Mode | None:
        return "pairwise" if self.pwe else "average" if self.average else None

    @property
    def count(self) -> int:
        return self.multiplier if self.mode is not None or self.mv else 2

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        views = self.views(z, group=self.ranks)
        value, hits = self.value(views), self.accuracy(views.detach())
        if self.ranks is not None:  # view by view, as the rows of all ranks would be in z
            batch = GlobalBatch.of(self.ranks, z.shape[0] // self.multiplier)
            hits = batch.gather(hits.view(2 if self.mode else self.multiplier, batch.n).t()).t().flatten()
        return value, hits

    def contrast(self, views: Tensor) -> Tensor:
        if self.mode is not None:
            return pairwise_aggregate(views, nt_xent, mode=self.mode, temperature=self.tau, **self.engine)
        instance = self.batch(views).index(views.device).repeat(views.shape[0])
        return sup_con(views.flatten(0, 1), instance, temperature=self.tau, **self.engine)

    def accuracy(self, views: Tensor) -> Tensor:
        if self.mode is None:
            return accuracy(views, self.batch(views), self.backend)
        return pairwise_aggregate(views, self.pair_accuracy, mode=self.mode)

    def pair_accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        with no_autocast(x):  # in a float16 region, torch.stack refuses bfloat16
            pair = torch.stack([x, y])
        return accuracy(pair, self.batch(pair), self.backend)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pwe={self.pwe}, average={self.average}, mv={self.mv}"


@torch.no_grad()
def accuracy(views: Tensor, batch: GlobalBatch, backend: BackendName) -> Tensor:
    """Whether all positives of a row are closer than everything else, (k N,) float32. One pass over the pairs, for
    which the rows of other ranks are gathered."""
    k = views.shape[0]
    options: dict[str, Any] = {"row_ids": batch.index(views.device).repeat(k)}
    columns = None
    if batch.ranks is not None:
        columns = batch.gather(views.transpose(0, 1)).flatten(0, 1)
        options["col_ids"] = torch.arange(batch.total, device=views.device).repeat_interleave(k)
    rows = views.flatten(0, 1)
    others = pair_reduce(rows, columns, keep="other_id", reduce="max", backend=backend, **options).rows
    x = upcast(views)
    own = torch.eye(k, dtype=torch.bool, device=views.device)
    with no_autocast(x):
        hardest = torch.einsum("knd,mnd->kmn", x, x).masked_fill(own.unsqueeze(2), torch.inf).amin(1)
    return (hardest.flatten() > others).float()


class NTXentHPS(MultiView):
    """DHEL of two views: the first half of z and the second. forward(z); `gpu` and `get_map` do nothing, as there."""

    def __init__(
        self,
        tau: float = 1.0,
        gpu: Any = None,
        multiplier: int = 2,
        distributed: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(tau, multiplier, distributed, memory_budget, backend)

    @property
    def count(self) -> int:
        return 2

    def forward(self, z: Tensor, get_map: bool = False) -> tuple[Tensor, Any]:
        return super().forward(z)

    def contrast(self, views: Tensor) -> Tensor:
        return dhel(views[0], views[1], temperature=self.tau, **self.engine)


class MVINFONCE(MultiView):
    """MV-InfoNCE with the denominator of the code: all other rows of z, also those of the same view."""

    def __init__(
        self,
        tau: float = 1.0,
        multiplier: int = 2,
        distributed: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(tau, multiplier, distributed, memory_budget, backend)

    def contrast(self, views: Tensor) -> Tensor:
        return mv_infonce(views, temperature=self.tau, **self.engine)


class MVDHEL(MultiView):
    """MV-DHEL, or with pwe or average DHEL over pairs of views: all pairs, or a view and the mean of the others."""

    def __init__(
        self,
        tau: float = 0.2,
        multiplier: int = 2,
        distributed: bool = False,
        pwe: bool = False,
        average: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(tau, multiplier, distributed, memory_budget, backend)
        self.pwe = pwe
        self.average = average

    def contrast(self, views: Tensor) -> Tensor:
        if self.pwe:
            return pairwise_aggregate(views, dhel, mode="pairwise", temperature=self.tau, **self.engine)
        if self.average:  # here, unlike in NTXent, the mean view is normalised
            options = {"temperature": self.tau, "normalize": True, **self.engine}
            return pairwise_aggregate(views, dhel, mode="average", **options)
        return self.of_all_views(views)

    def of_all_views(self, views: Tensor) -> Tensor:
        return mv_dhel(views, temperature=self.tau, **self.engine)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pwe={self.pwe}, average={self.average}"


class CL_1(MVINFONCE):
    """An ablation: a row against all rows of the other views, and apart from that its positives."""

    def contrast(self, views: Tensor) -> Tensor:
        compute, x = views.dtype, upcast(views)
        options: dict[str, Any] = {"scale": 1.0 / self.tau, "compute_dtype": compute, **self.engine}
        rows = [pair_reduce(x[i], torch.cat([x[:i], x[i + 1 :]]).flatten(0, 1), **options).rows for i in range(len(x))]
        batch = self.batch(views)
        positives = ViewBatch(x, batch, Counted()).pairs(1.0 / self.tau).logsumexp(2)
        return batch.reduced((torch.stack(rows) - positives.t()).mean(0), "mean")


class CL_2(MVDHEL):
    """An ablation: the repulsion of MV-DHEL, and the positives of every view apart."""

    def of_all_views(self, views: Tensor) -> Tensor:
        return self.apart(views, group=self.ranks)

    @collective
    def apart(self, views: Tensor, *, group: Group) -> Tensor:
        engine = EngineOptions.of(self.memory_budget, self.backend, group, views.dtype)
        x, batch = upcast(views), GlobalBatch.of(engine.ranks, views.shape[1])
        scale = inverse(self.tau, x)
        energy = view_energy(x.unbind(), scale, "mean", batch, engine, Counted())
        return energy - batch.reduced(ViewBatch(x, batch, Counted()).pairs(scale).logsumexp(2).mean(1), "mean")


class PVCLoss(MultiView):
    """Poly-view contrast. method "geometric" is the paper's; "arithmetic" is what the code computes under that name:
    the log-sum-exp over the other views of the losses, already averaged over the batch, less log N."""

    def __init__(
        self,
        tau: float = 0.2,
        multiplier: int = 2,
        distributed: bool = False,
        method: str = "geometric",
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(tau, multiplier, distributed, memory_budget, backend)
        self.method = check.choice("method", method, METHODS)

    def contrast(self, views: Tensor) -> Tensor:
        if self.method == "geometric":
            return pvc(views, temperature=self.tau, **self.engine)
        return self.of_means(views, group=self.ranks)

    @collective
    def of_means(self, views: Tensor, *, group: Group) -> Tensor:
        engine = EngineOptions.of(self.memory_budget, self.backend, group, views.dtype)
        scale, x, batch = 1.0 / self.tau, upcast(views), GlobalBatch.of(engine.ranks, views.shape[1])
        every = ViewBatch(x, batch, Counted())
        others = other_instances(every, scale, engine)
        own = torch.eye(len(x), dtype=torch.bool, device=x.device)
        ahead = (every.pairs(scale) - others.t().unsqueeze(2)).masked_fill(own, 0.0)
        losses = batch.sum((-F.logsigmoid(ahead)).sum(0)) / batch.total
        losses = losses.masked_fill(own, -torch.inf)  # (k, k): of view m given view l
        return losses.logsumexp(1).mean() - log_count(batch.total, x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method!r}"

"""SogCLR, iSogCLR, RGCL and FastCLIP: global contrastive losses for small batches."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import check
from ..ranks import Group
from .global_contrast import Step
from .remembering import GlobalContrast, bounded, fraction
from .sample_state import Visits

Version: TypeAlias = Literal["v0", "v1", "v2", "v3"]
STARTS = {"v0": 0.07, "v1": 0.07, "v2": 0.03, "v3": 0.07}
RHO = {"v0": 0.0, "v1": 0.0, "v2": 7.0, "v3": 6.5}
ADAM_BOUNDS = (0.01, 1.0)  # of v2's temperatures
# temperature, t_min, t_max and rho of RGCL: LibAUC's, of two views and of images and texts
ROBUST = {True: (0.1, 0.05, 0.7, 0.3), False: (0.01, 0.005, 0.05, 6.0)}


class SogCLR(GlobalContrast):
    """SogCLR: the contrastive loss over all negatives of the data set, by a moving average for every sample.

        loss = SogCLR(samples=len(data), temperature=0.07)
        loss(image_features, text_features, index).backward()

        F = 1/n sum_i t log u_i + (the same of texts),      u_i = mean over all j != i of e^{(s_ij - s_ii) / t}
        g_i = mean over the batch's j != i,      u_i <- (1 - gamma) u_i + gamma g_i,      s_ij = <image_i, text_j>

    Gradient: w_i p_ij for every s_ij, with the softmax p of the batch over the negatives and w_i = g_i / u_i, and -w_i
    for s_ii. The value is the mean of sum_j w_i p_ij (s_ij - s_ii), as in the official code: it has this gradient, and
    is not an estimate of F.

    Args:
        samples: Number of samples of the data set.
        unimodal: Two views of images: both are anchors among the 2N - 2 views of other images, with one average for
            both. As in the official codes with s_ij in place of s_ij - s_i+ in u; the positive's gradient is -1.
        temperature: t, > 0.
        gamma: Share of the new estimate, in (0, 1]. gamma_epochs: see set_epoch; that many epochs lead from 1 to gamma
            along half a cosine (FastCLIP-v1).
        warm_start: The first estimate of a sample is its average. False: averages begin at 0, so that weights are
            1 / gamma at the first visit, as in iSogCLR's code.
        include_positive: e^0 of the positive is in the sum over negatives (divided by N - 1 all the same), as in
            iSogCLR's code for images and texts.
        normalize, memory_budget, backend, group: As in clip_loss.

    Cost: that of clip_loss. State: 4 bytes for each sample and modality.

    Source: Yuan et al. 2022, arXiv 2202.12387, algorithm 1; LibAUC, GCLoss_v1 and GCLoss_v2, whose value and gradients
    for images and texts are (N - 1) / 2 times these; zhqiu/contrastive-learning-iSogCLR, SogCLR_Loss.
    """

    def __init__(
        self,
        samples: int,
        *,
        unimodal: bool = False,
        temperature: float = 0.07,
        gamma: float = 0.9,
        gamma_epochs: int = 0,
        warm_start: bool = True,
        include_positive: bool = False,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        super().__init__(
            samples, gamma, gamma_epochs, normalize, memory_budget, backend, group, unimodal=unimodal,
            include_positive=include_positive, warm_start=warm_start,
        )  # fmt: skip
        self.temperature = float(check.scalar("temperature", temperature, positive=True))


class ISogCLR(GlobalContrast):
    """iSogCLR: SogCLR with a temperature for every image and every text, learned with them. Its objective is RGCL.

        loss = ISogCLR(samples=len(data), temperature=0.01, rho=8.0)
        loss(image_features, text_features, index).backward()

        F = 1/n sum_i t_i (log u_i + rho) + (the same of texts),      t_min <= t_i <= t_max
        m_i <- (1 - beta) m_i + beta dF/dt_i,      t_i <- t_i - eta m_i

    at the visits of i, with the gradient log u_i + rho - w_i E_p[(s_ij - s_ii) / t_i], whose mean over p is formed with
    the gradients of features. They move in forward; no optimizer sees them. For the rest see SogCLR.

    Args:
        temperature: Where all start. t_min, t_max: bounds.
        rho: Larger values make temperatures smaller.
        eta: Step of the temperatures; may be changed at any time. beta: share of the new gradient in m.
        clip: Bound of a gradient's magnitude, None: no bound (LibAUC). With unimodal=True official values are
            temperature 0.1, t_min 0.05, rho 0.4, clip 3.

    Cost: that of clip_loss: both directions have their own temperatures in one pass, 6 N^2 D FLOP where the scores fit
    memory_budget, else 8; with unimodal=True 1.5 times the FLOP of nt_xent. State: 12 bytes for each sample and
    modality.

    Source: Qiu et al. 2023, arXiv 2305.11965, algorithm 1; zhqiu/contrastive-learning-iSogCLR, SogCLR_DRO_Loss, which
    is this with include_positive=True, warm_start=False for images and texts.
    """

    def __init__(
        self,
        samples: int,
        *,
        unimodal: bool = False,
        temperature: float = 0.01,
        t_min: float = 0.005,
        t_max: float = 1.0,
        rho: float = 8.0,
        eta: float = 0.001,
        beta: float = 0.9,
        clip: float | None = 5.0,
        gamma: float = 0.8,
        gamma_epochs: int = 0,
        warm_start: bool = True,
        include_positive: bool = False,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        start, low, high = bounded("temperature", temperature, t_min, t_max)
        super().__init__(
            samples, gamma, gamma_epochs, normalize, memory_budget, backend, group, unimodal=unimodal,
            include_positive=include_positive, warm_start=warm_start,
            numbers={"temperature": start, "temperature_slope": 0.0},
        )  # fmt: skip
        self.temperature, self.t_min, self.t_max = start, low, high
        self.rho, self.eta = float(check.scalar("rho", rho)), float(check.scalar("eta", eta, positive=True))
        self.beta = fraction("beta", beta)
        self.clip = None if clip is None else float(check.scalar("clip", clip, positive=True))

    def slope(self, step: Step) -> Tensor:
        return rgcl_slope(step, self.rho)

    def move(self, visits: Visits, slope: Tensor) -> None:
        if self.clip is not None:
            slope = slope.clamp(-self.clip, self.clip)
        momentum = slope.lerp(self.state["temperature_slope"][:, visits.index].to(slope), 1.0 - self.beta)
        old = self.state["temperature"][:, visits.index]
        self.state.write("temperature_slope", visits, momentum)
        self.state.write("temperature", visits, (old - self.eta * momentum).clamp(self.t_min, self.t_max))


class RGCL(ISogCLR):
    """RGCL: the robust global contrastive loss, minimised by iSogCLR's steps; its value is the objective itself.

        loss = RGCL(samples=len(data))
        loss(image_features, text_features, index).backward()

        F = 1/n sum_i t_i (log u_i + rho) + (the same of texts),      t_min <= t_i <= t_max

    Value: F over the batch, with the averages u_i after this visit and the temperatures before it. Gradients, averages
    and temperatures are those of ISogCLR without a clip; with gamma=1 the value is that of the batch alone, and its
    derivatives are the gradients. With unimodal=True, where u_i is the mean of e^{s_ij / t_i}, F = 1/n sum_i t_i (log
    u_i + rho) - s_i+ of both views as anchors.

    One temperature for all samples, learned (RGCL-g): FastCLIP(version="v3").

    Args:
        temperature, t_min, t_max, rho: None: LibAUC's, 0.01, 0.005, 0.05 and 6.0; for two views 0.1, 0.05, 0.7 and 0.3.
        The rest as in ISogCLR.

    Source: Qiu et al. 2023, arXiv 2305.11965, eq. 6; LibAUC, GCLoss_v1 and GCLoss_v2 with enable_isogclr=True, whose
    gradients for images and texts are (N - 1) / 2 times these and whose value is a number with those gradients.
    """

    def __init__(
        self,
        samples: int,
        *,
        unimodal: bool = False,
        temperature: float | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
        rho: float | None = None,
        eta: float = 0.01,
        beta: float = 0.9,
        gamma: float = 0.9,
        gamma_epochs: int = 0,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        given = zip((temperature, t_min, t_max, rho), ROBUST[bool(unimodal)], strict=True)
        start, low, high, radius = (official if x is None else x for x, official in given)
        super().__init__(
            samples, unimodal=unimodal, temperature=start, t_min=low, t_max=high, rho=radius, eta=eta, beta=beta,
            clip=None, gamma=gamma, gamma_epochs=gamma_epochs, normalize=normalize, memory_budget=memory_budget,
            backend=backend, group=group,
        )  # fmt: skip

    def result(self, step: Step) -> tuple[Tensor, Tensor | None]:
        logs = step.average if step.anchors.relative else step.average - step.anchors.positive.detach()
        return step.share * (step.temperature * (logs + self.rho)).sum(), None


class FastCLIP(GlobalContrast):
    """FastCLIP: global contrastive losses of images and texts, with temperatures of four kinds.

        loss = FastCLIP(samples=len(data), version="v3", gamma_epochs=18)
        loss.set_epoch(epoch)
        loss(image_features, text_features, index).backward()

    version: With u_i and w_i of SogCLR, and texts like images,

        "v0"  1/n sum_i log u_i, t learned by the optimizer: parameter log_temperature
        "v1"  1/n sum_i log u_i, t fixed
        "v2"  1/n sum_i log u_i for features, t_i of every image and text by Adam's rule on RGCL (see ISogCLR)
        "v3"  t (1/n sum_i log u_i + rho), t learned by the optimizer: parameter log_temperature

    where log u_i stands for the mean of an image's and its text's. Value: the mean of w_i of images
    plus that of texts (v0 to v2); times t, plus t rho and t times the mean of log u (v3). As in the official code,
    features have the gradient of half the first part, and a learned temperature has that of the whole.

    Args:
        temperature: Fixed, or where learning starts; None: 0.07, for v2 0.03.
        max_scale: Bound of 1 / t where it is learned (v0, v3): forward clamps log_temperature in place, as the training
            loop does after a step. None: no bound.
        rho: For v2 (None: 7.0) and v3 (None: 6.5; 8.5 for 12 million samples, 16 for 400 million).
        eta: Step of v2's temperatures (None: 0.0133); they stay between 0.01 and 1. Adam's rates are 0.9 and 0.999; its
            bias is corrected by the number of epochs, and in epoch 0 there is no momentum: call set_epoch.
        gamma, gamma_epochs: As in SogCLR. Official: 0.2 (0.8 for 400 million samples), half of all epochs.
        normalize, memory_budget, backend, group: As in clip_loss.

    Cost: that of clip_loss. State: 4 bytes for each sample and modality; v2 16.

    Source: Wei et al. 2024, arXiv 2407.01445; Optimization-AI/fast_clip, FastCLIPLoss and FastCLIPLossIndividual.
    """

    def __init__(
        self,
        samples: int,
        version: Version = "v3",
        *,
        temperature: float | None = None,
        max_scale: float | None = 100.0,
        rho: float | None = None,
        eta: float | None = None,
        gamma: float = 0.2,
        gamma_epochs: int = 0,
        normalize: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
        group: Group = None,
    ) -> None:
        check.choice("version", version, get_args(Version))
        for name, value, versions in (("rho", rho, ("v2", "v3")), ("eta", eta, ("v2",))):
            if value is not None and version not in versions:
                raise ValueError(f"{name} must be None with version={version!r}: it would have no effect")
        given = STARTS[version] if temperature is None else temperature
        start = bounded("temperature", given, *ADAM_BOUNDS)[0] if version == "v2" else given
        numbers = {"temperature": start, "temperature_slope": 0.0, "temperature_square": 0.0}
        super().__init__(
            samples, gamma, gamma_epochs, normalize, memory_budget, backend, group,
            numbers=numbers if version == "v2" else None,
        )  # fmt: skip
        self.version: Version = version
        self.rho = float(check.scalar("rho", RHO[version] if rho is None else rho))
        self.eta = float(check.scalar("eta", 0.0133 if eta is None else eta, positive=True))
        self.temperature = float(check.scalar("temperature", start, positive=True))
        if version in ("v0", "v3"):
            self.bound(max_scale, learns=True)
            self.learn("temperature", start)
            self.temperature = None

    def row_factor(self, temperature: Tensor) -> Tensor:
        return 0.5 * temperature if self.version == "v3" else torch.full_like(temperature, 0.5)

    def result(self, step: Step) -> tuple[Tensor, Tensor | None]:
        t = step.temperature
        value = step.share * step.weight.sum()
        if self.version in ("v1", "v2"):
            return value, None
        slope = -2.0 * step.scale_slopes[0] / t.square()
        if self.version == "v0":
            return value, slope
        objective = self.rho + step.share * step.average.sum() / 2.0
        return t * (value + objective), slope + objective

    def slope(self, step: Step) -> Tensor:
        return rgcl_slope(step, self.rho)

    def move(self, visits: Visits, slope: Tensor) -> None:
        """Adam's rule. Its bias is that of epochs, as in the official code."""
        slope, epoch = slope.clamp(-5.0, 5.0), self.epoch
        rates = (0.9, 0.999) if epoch else (0.0, 0.0)
        corrected = []
        for name, new, rate in zip(("temperature_slope", "temperature_square"), (slope, slope**2), rates, strict=True):
            mean = new.lerp(self.state[name][:, visits.index].to(new), rate)
            self.state.write(name, visits, mean)
            corrected.append(mean / (1.0 - rate ** (epoch + 1)))
        moved = self.state["temperature"][:, visits.index] - self.eta * corrected[0] / (corrected[1].sqrt() + 1e-8)
        self.state.write("temperature", visits, moved.clamp(*ADAM_BOUNDS))


def rgcl_slope(step: Step, rho: float) -> Tensor:
    """d/dt_i of t_i (log u_i + rho), of each sample and modality; meant over views that share a temperature."""
    average = step.average if step.anchors.relative else step.average.mean(0, keepdim=True)
    return average + rho - step.spread()

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
    """SogCLR: the contrastive loss over all negatives of the data set, with a moving average per sample.

        F = 1/n sum_i t log u_i + (the same of texts),      u_i = mean over all j != i of e^{(s_ij - s_ii) / t}
        g_i = mean over the batch's j != i,      u_i <- (1 - gamma) u_i + gamma g_i,      s_ij = <image_i, text_j>

    Gradient: w_i p_ij for every s_ij, with p the batch's softmax over the negatives and w_i = g_i / u_i, and -w_i for
    s_ii. The value is the mean of sum_j w_i p_ij (s_ij - s_ii), as in the official code: it has this gradient and is
    not an estimate of F.

    Args:
        samples: Number of samples in the data set.
        unimodal: Two views of images: both are anchors among the 2N - 2 views of other images, with one average for
            both. As in the official codes, u uses s_ij in place of s_ij - s_i+; the positive's gradient is -1.
        temperature: t, > 0.
        gamma: Share of the new estimate, in (0, 1].
        gamma_epochs: Over this many epochs, gamma falls from 1 to its value along half a cosine (FastCLIP-v1). Call
            set_epoch.
        warm_start: True: a sample's first estimate is its average. False: averages begin at 0, so weights are 1 / gamma
            at the first visit, as in iSogCLR's code.
        include_positive: True: the sum over negatives includes the positive's e^0 (still divided by N - 1), as in
            iSogCLR's code for images and texts.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks,
            and every rank keeps the same state.

    Cost: that of clip_loss. State: 4 bytes per sample and modality.

    Example:
        >>> loss = SogCLR(samples=1000, temperature=0.07)
        >>> image_features, text_features = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> index = torch.arange(8)  # which samples of the data set these are
        >>> loss(image_features, text_features, index).backward()

    Source: Yuan et al. 2022, https://arxiv.org/abs/2202.12387, algorithm 1; LibAUC, GCLoss_v1 and GCLoss_v2, whose
    value and gradients for images and texts are (N - 1) / 2 times these; zhqiu/contrastive-learning-iSogCLR,
    SogCLR_Loss.
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
    """iSogCLR: SogCLR with a temperature for every image and every text, learned along the way. Its objective is RGCL.

        F = 1/n sum_i t_i (log u_i + rho) + (the same of texts),      t_min <= t_i <= t_max
        m_i <- (1 - beta) m_i + beta dF/dt_i,      t_i <- t_i - eta m_i

    at the visits of i, with the gradient log u_i + rho - w_i E_p[(s_ij - s_ii) / t_i], whose mean over p is formed with
    the gradients of features. The temperatures move in forward; no optimizer sees them. u_i, w_i, and p are those of
    `SogCLR`.

    Args:
        samples: Number of samples in the data set.
        unimodal: Two views of images: both are anchors among the 2N - 2 views of other images, with one average for
            both. Official values are then temperature 0.1, t_min 0.05, rho 0.4, clip 3.
        temperature: Where all temperatures start, > 0.
        t_min, t_max: Bounds of the temperatures.
        rho: Larger values make temperatures smaller.
        eta: Step of the temperatures; you may change it at any time.
        beta: Share of the new gradient in m.
        clip: Bound of a gradient's magnitude; None: no bound (LibAUC).
        gamma: Share of the new estimate in u, in (0, 1].
        gamma_epochs: Over this many epochs, gamma falls from 1 to its value along half a cosine. Call set_epoch.
        warm_start: True: a sample's first estimate is its average. False: averages begin at 0.
        include_positive: True: the sum over negatives includes the positive's e^0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks,
            and every rank keeps the same state.

    Cost: that of clip_loss: both directions have their own temperatures in one pass, 6 N^2 D FLOP where the scores fit
    memory_budget, else 8; with unimodal=True 1.5 times the FLOP of nt_xent. State: 12 bytes per sample and modality.

    Example:
        >>> loss = ISogCLR(samples=1000, temperature=0.01, rho=8.0)
        >>> image_features, text_features = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> loss(image_features, text_features, torch.arange(8)).backward()

    Source: Qiu et al. 2023, https://arxiv.org/abs/2305.11965, algorithm 1; zhqiu/contrastive-learning-iSogCLR,
    SogCLR_DRO_Loss, which is this with include_positive=True, warm_start=False for images and texts.
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
    """RGCL: the robust global contrastive loss, minimized by iSogCLR's steps; its value is the objective itself.

        F = 1/n sum_i t_i (log u_i + rho) + (the same of texts),      t_min <= t_i <= t_max

    The value is F over the batch, with the averages u_i after this visit and the temperatures before it. Gradients,
    averages, and temperatures are those of `ISogCLR` without a clip. With gamma=1 the value is that of the batch alone,
    and its derivatives are the gradients. With unimodal=True, where u_i is the mean of e^{s_ij / t_i}, F = 1/n sum_i
    t_i (log u_i + rho) - s_i+ with both views as anchors.

    For one learned temperature for all samples (RGCL-g), use FastCLIP(version="v3").

    Args:
        samples: Number of samples in the data set.
        unimodal: Two views of images: both are anchors among the 2N - 2 views of other images, with one average for
            both.
        temperature, t_min, t_max, rho: Start, bounds, and strength of the temperatures. None: LibAUC's 0.01, 0.005,
            0.05, and 6.0; for two views 0.1, 0.05, 0.7, and 0.3.
        eta: Step of the temperatures; you may change it at any time.
        beta: Share of the new gradient in the momentum of the temperatures.
        gamma: Share of the new estimate in u, in (0, 1].
        gamma_epochs: Over this many epochs, gamma falls from 1 to its value along half a cosine. Call set_epoch.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks,
            and every rank keeps the same state.

    Example:
        >>> loss = RGCL(samples=1000)
        >>> image_features, text_features = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> loss(image_features, text_features, torch.arange(8)).backward()

    Source: Qiu et al. 2023, https://arxiv.org/abs/2305.11965, eq. 6; LibAUC, GCLoss_v1 and GCLoss_v2 with
    enable_isogclr=True, whose gradients for images and texts are (N - 1) / 2 times these and whose value is a number
    with those gradients.
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
    """FastCLIP: global contrastive losses of images and texts, with four kinds of temperature.

    With u_i and w_i of `SogCLR`, and texts like images, version is one of

        "v0"  1/n sum_i log u_i, t learned by the optimizer: parameter log_temperature
        "v1"  1/n sum_i log u_i, t fixed
        "v2"  1/n sum_i log u_i for features, t_i of every image and text by Adam's rule on RGCL (see ISogCLR)
        "v3"  t (1/n sum_i log u_i + rho), t learned by the optimizer: parameter log_temperature

    where log u_i stands for the mean over an image and its text. The value is the mean of w_i of images plus that of
    texts (v0 to v2); times t, plus t rho and t times the mean of log u (v3). As in the official code, features have the
    gradient of half the first part, and a learned temperature has that of the whole.

    Args:
        samples: Number of samples in the data set.
        version: "v0" to "v3", see above.
        temperature: Fixed, or where learning starts; None: 0.07, for v2 0.03.
        max_scale: Bound of 1 / t where it is learned (v0, v3): forward clamps log_temperature in place, as the training
            loop does after a step. None: no bound.
        rho: For v2 (None: 7.0) and v3 (None: 6.5; 8.5 for 12 million samples, 16 for 400 million).
        eta: Step of v2's temperatures (None: 0.0133); they stay between 0.01 and 1. Adam's rates are 0.9 and 0.999. The
            number of epochs corrects its bias, and in epoch 0 there is no momentum: call set_epoch.
        gamma: Share of the new estimate in u, in (0, 1]. Official: 0.2 (0.8 for 400 million samples).
        gamma_epochs: Over this many epochs, gamma falls from 1 to its value along half a cosine. Official: half of all
            epochs. Call set_epoch.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: the batch is that of all ranks,
            and every rank keeps the same state.

    Cost: that of clip_loss. State: 4 bytes per sample and modality; v2 16.

    Example:
        >>> loss = FastCLIP(samples=1000, version="v3", gamma_epochs=18)
        >>> loss.set_epoch(0)
        >>> image_features, text_features = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2).requires_grad_()
        >>> loss(image_features, text_features, torch.arange(8)).backward()

    Source: Wei et al. 2024, https://arxiv.org/abs/2407.01445; Optimization-AI/fast_clip, FastCLIPLoss and
    FastCLIPLossIndividual.
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

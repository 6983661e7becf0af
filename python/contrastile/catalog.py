"""One row per loss: where it comes from, its dense reference, and inputs to try it on. Tests, selftest and docs
read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from . import losses, reference


@dataclass(frozen=True)
class Case:
    """Arguments of one call. `magnitude`: the largest |logit|, which sets the size of float32 rounding.
    `views`: the first argument is (k, N, D), not (N, D). `derived`: what is multiplied is computed from the features,
    so half precision rounds once more. `frozen`: places and names of what the loss takes as constant."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    magnitude: float = 1.0
    views: bool = False
    derived: bool = False
    frozen: tuple[int | str, ...] = ()

    def constant(self, argument: int | str) -> bool:
        """Whether an argument, by place or name, gets no gradient."""
        return argument in self.frozen or argument in CONSTANTS

    @property
    def n(self) -> int:
        """The size of the batch."""
        return int(self.args[0].shape[1 if self.views else 0])


# arguments that are numbers without a gradient
CONSTANTS = ("weights", "key_log_prob", "negative_log_prob")

CaseMaker = Callable[[int, int, Generator, torch.dtype], Case]


@dataclass(frozen=True)
class LossCard:
    """A loss of the package."""

    name: str
    task: str  # what one would use it for
    paper: str
    equation: str
    gemm: int  # forward + backward cost is gemm * N^2 * D FLOP (N: rows the loss works on), 0 = no pairs
    variants: dict[str, CaseMaker]
    times: str = ""  # what multiplies that, for k modalities or views
    stacked: bool = False  # all k views are rows of one matrix: k N rows for a batch of N
    forward: int = 0  # of gemm; 0: a third where scores serve the gradients at once, else a quarter
    copies: float = 3.0  # of 16-dimensional features: no more bytes than these are held for backward

    @property
    def function(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(losses, self.name))

    @property
    def reference(self) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], getattr(reference, self.name))

    def flop(self, n: int, d: int, k: int, backward: bool = True) -> float:
        """Of the products over all pairs, for k tensors of features (N, D) each."""
        times = {"": 1, "k": k, "(k-1)": k - 1}[self.times]
        # backward: both gradients, and once more the scores where they were not differentiated on the way
        forward = self.forward or self.gemm / (3 if self.gemm == 6 else 4)
        gemm = self.gemm if backward else forward
        return float(gemm * times * (n * k if self.stacked else n) ** 2 * d)

    @property
    def module(self) -> type[nn.Module]:
        return next(
            cls
            for cls in vars(losses).values()
            if isinstance(cls, type) and getattr(cls, "function", None) is self.function
        )


def unit_rows(n: int, d: int, g: Generator, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=g), dim=-1).to(dtype)


def related(x: Tensor, g: Generator, noise: float = 0.5) -> Tensor:
    """Unit rows that resemble x's, as the two sides of a trained model do."""
    return F.normalize(x.float() + noise * F.normalize(torch.randn(x.shape, generator=g), dim=-1), dim=-1).to(x.dtype)


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def pair(temperature: float, **options: Any) -> CaseMaker:
    """Two related batches and a temperature that takes a gradient."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        kwargs = {"temperature": scalar(temperature), **options}
        return Case((x, related(x, g)), kwargs, 1.0 / temperature)

    return make


def with_extras(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """`pair` plus any of: negatives, hard_negatives, ids, key_ids, row temperatures."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = pair(temperature, **options)(n, d, g, dtype)
        kwargs = dict(case.kwargs)
        if "negatives" in names:
            kwargs["negatives"] = unit_rows(n // 2 + 3, d, g, dtype)
        if "hard_negatives" in names:
            kwargs["hard_negatives"] = unit_rows(n * 3, d, g, dtype).view(n, 3, d)
        if "ids" in names:
            kwargs["query_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        if "key_ids" in names:
            kwargs["key_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        if "row_temperature" in names:
            kwargs["temperature"] = temperature * (1.0 + torch.rand(n, generator=g))
        return Case(case.args, kwargs, case.magnitude)

    return make


def scaled(scale: float, *, bias: float | None = None, equal: str = "", **options: Any) -> CaseMaker:
    """Image and text features with logit_scale (and logit_bias) as tensors; equal: "ids" or "labels" of both sides."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        more = (scalar(bias),) if bias is not None else ()
        kwargs = dict(options)
        for side in ("image", "text") if equal else ():
            kwargs[f"{side}_{equal}"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        return Case((x, related(x, g), scalar(scale), *more), kwargs, scale + abs(bias or 0.0))

    return make


def one_each(n: int, g: Generator, low: float = 0.0, high: float = 2.0) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g)


def some(n: int, g: Generator, *shape: int) -> Tensor:
    """Which items are there: most, and some of them always."""
    found = torch.rand(*shape, n, generator=g) < 0.8
    found[..., : min(n, 2)] = True
    return found


ROW_OPTIONS: dict[str, Callable[[int, Generator], Tensor]] = {
    "weights": one_each,
    "present": some,
    "temperature": lambda n, g: one_each(n, g, 0.05, 0.1),
    "key_temperature": lambda n, g: one_each(n, g, 0.05, 0.1),
    "logit_scale": lambda n, g: one_each(n, g, 5.0, 15.0),
    "text_logit_scale": lambda n, g: one_each(n, g, 5.0, 15.0),
}


def each(maker: CaseMaker, *names: str) -> CaseMaker:
    """A case with options that have one number for each item, by name."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = maker(n, d, g, dtype)
        wide = dtype if dtype == torch.float64 else torch.float32
        more = {name: ROW_OPTIONS[name](case.n, g) for name in names}
        more = {name: x.to(wide) if x.is_floating_point() else x for name, x in more.items()}
        args = case.args
        if "logit_scale" in more:  # comes by place
            args = (*args[:2], more.pop("logit_scale"), *args[3:])
        return replace(case, args=args, kwargs={**case.kwargs, **more})

    return make


def each_view(maker: CaseMaker) -> CaseMaker:
    """A case of views of which some are missing, with weights of instances."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = each(maker, "weights")(n, d, g, dtype)
        return replace(case, kwargs={**case.kwargs, "present": some(case.n, g, case.args[0].shape[0])})

    return make


def gathered(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs whose keys are among others, with ids and the log-probabilities that are named."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        extras = [name for name in names if name == "ids"]
        case = with_extras(temperature, "negatives", *extras, **options)(n, d, g, dtype)
        query, key = case.args
        key = torch.cat([unit_rows(2, d, g, dtype), key, unit_rows(3, d, g, dtype)])
        kwargs = {**case.kwargs, "key_offset": 2}
        if extras:
            kwargs["key_ids"] = torch.randint(0, n // 2 + 1, (len(key),), generator=g)
        return log_probabilities(Case((query, key), kwargs, case.magnitude), g, names)

    return make


def sampled(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs whose candidates were sampled with the probabilities that are named."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = with_extras(temperature, "negatives", **options)(n, d, g, dtype)
        return log_probabilities(case, g, names)

    return make


def log_probabilities(case: Case, g: Generator, names: tuple[str, ...]) -> Case:
    found = {}
    for name in [name for name in names if name.endswith("log_prob")]:
        columns = case.args[1] if name == "key_log_prob" else case.kwargs["negatives"]
        wide = columns.dtype if columns.dtype == torch.float64 else torch.float32
        found[name] = one_each(len(columns), g, -6.0, -1.0).to(wide)
    return replace(case, kwargs={**case.kwargs, **found}, magnitude=case.magnitude + 6.0)


def labelled(temperature: float, classes: float, views: int = 0, **options: Any) -> CaseMaker:
    """Features of any number of views with labels; classes is relative to n."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n * max(views, 1), d, g, dtype)
        x = x.view(views, n, d) if views else x
        labels = torch.randint(0, int(n * classes) + 1, (n,), generator=g)
        return Case((x, labels), {"temperature": scalar(temperature), **options}, 1.0 / temperature, views=views > 0)

    return make


def several_views(count: int, temperature: float, **options: Any) -> CaseMaker:
    """Related batches as one (count, n, d) tensor."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        views = torch.stack([related(x, g) for _ in range(count)])
        return Case((views,), {"temperature": scalar(temperature), **options}, 1.0 / temperature, views=True)

    return make


def taught(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs and a teacher that saw them: by itself, or (teacher_key) with candidates and a temperature of its own."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = with_extras(temperature, *(name for name in names if name in ("negatives", "ids", "key_ids")))(
            n, d, g, dtype
        )
        teacher: tuple[Tensor, ...] = (related(case.args[0], g),)
        kwargs = {**case.kwargs, **options}
        if "teacher_key" in names:
            wide = unit_rows(n, d + 3, g, dtype)
            teacher = (wide, related(wide, g))
            kwargs["teacher_temperature"] = scalar(2.0 * temperature)
            if "negatives" in kwargs:
                kwargs["teacher_negatives"] = unit_rows(len(kwargs["negatives"]), d + 3, g, dtype)
        if "negative_ids" in names:
            kwargs["negative_ids"] = torch.randint(0, n // 2 + 1, (len(kwargs["negatives"]),), generator=g)
        frozen = (2, 3, "teacher_temperature", "teacher_negatives") if options.get("detach_targets", True) else ()
        return Case((*case.args, *teacher), kwargs, case.magnitude, frozen=frozen)

    return make


def clip_taught(scale: float, teacher_scale: float | None = None, **options: Any) -> CaseMaker:
    """Image and text features of a student and of a teacher of another width."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case, wide = scaled(scale)(n, d, g, dtype), unit_rows(n, d + 3, g, dtype)
        own = () if teacher_scale is None else (scalar(teacher_scale),)
        frozen = (2, 3, 5) if options.get("detach_targets", True) else ()
        args = (*case.args[:2], wide, related(wide, g), case.args[2], *own)
        return replace(case, args=args, kwargs=options, frozen=frozen)

    return make


def similar(scale: float, **options: Any) -> CaseMaker:
    """`scaled`, with features of the items that say how alike they are."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = scaled(scale, **options)(n, d, g, dtype)
        kwargs = {**case.kwargs, "weight_features": unit_rows(n, d + 3, g, dtype)}
        return replace(case, kwargs=kwargs, frozen=("weight_features",))

    return make


def gated(scale: float, keys: bool = False) -> CaseMaker:
    """Samples of a few classes, each with a gate and a class that it is paired with."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        gate = (0.2 + 0.8 * torch.rand(n, d, generator=g)).to(dtype)
        labels, partners = torch.randint(0, n // 3 + 2, (2, n), generator=g)
        args: tuple[Any, ...] = (unit_rows(n, d, g, dtype), gate, labels, partners)
        if keys:
            args += (unit_rows(n + 5, d, g, dtype), torch.randint(0, n // 3 + 2, (n + 5,), generator=g))
        return Case(args, {"logit_scale": scalar(scale)}, 2.0 * scale, derived=True)

    return make


def points(count: int, radius: float = 1.0, **options: Any) -> CaseMaker:
    """One or two clouds of points, not on the sphere unless radius is 1."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        clouds = tuple((unit_rows(n, d, g, torch.float32) * radius).to(dtype) for _ in range(count))
        return Case(clouds, options, 4.0 * radius**2 * options.get("t", 2.0))

    return make


def tuples(
    count: int, temperatures: dict[str, float], noise: float = 0.5, derived: bool = False, **options: Any
) -> CaseMaker:
    """Matched modalities of the same samples, and temperatures that take a gradient."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        first = unit_rows(n, max(d, 2 * count), g, dtype)  # fewer dimensions than modalities: every volume is 0
        others = [related(first, g, noise) for _ in range(count - 1)]
        kwargs = {name: scalar(value) for name, value in temperatures.items()}
        return Case((first, *others), {**kwargs, **options}, count / min(temperatures.values()), derived=derived)

    return make


def volumes(count: int, temperature: float = 0.07, **options: Any) -> CaseMaker:
    return tuples(count, {"temperature": temperature}, derived=True, **options)


DENSE_TUPLES = 64  # items up to which a reference that holds all N^3 tuples is cheap


def mips(count: int, scale: float, radius: float = 1.0, **options: Any) -> CaseMaker:
    """Modalities of the same items for multilinear inner products, with fixed permutations where they are drawn."""
    every = options.get("negatives") == "n_squared"

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        n = min(n, DENSE_TUPLES) if every else n
        first = unit_rows(n, d, g, torch.float32)
        rows = [(radius * x).to(dtype) for x in (first, *(related(first, g) for _ in range(count - 1)))]
        kwargs = {"logit_scale": scalar(scale), **options}
        if not every:
            orders = [torch.randperm(n, generator=g) for _ in range(count * (count - 1))]
            kwargs["permutations"] = torch.stack(orders).view(count, count - 1, n)
        terms = torch.stack(rows).double().prod(0).abs().sum(1)
        return Case(tuple(rows), kwargs, scale * float(terms.max()))

    return make


def kernel_pairs(**options: Any) -> CaseMaker:
    """Two related batches for a kernel of distances; t and gamma take gradients."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n, d, g, dtype)
        y = related(x, g)
        kwargs = {"gamma": scalar(16.0), **options}
        if options.get("kernel") != "riesz":
            kwargs["t"] = scalar(2.0)
        magnitude = 8.0
        if "riesz" in options.get("kernel", ""):  # a rounding of d^2 counts by its share of the smallest
            pairs = [torch.pdist(x.float()), torch.pdist(y.float()), (x.float() - y.float()).norm(dim=1)]
            magnitude = max(8.0, 2.0 * abs(options.get("s", 2.0)) / float(torch.cat(pairs).min()) ** 2)
        return Case((x, y), kwargs, magnitude)

    return make


CATALOG: tuple[LossCard, ...] = (
    LossCard(
        "info_nce", "pairs, retrieval embeddings, hard negatives, queues", "arXiv 1807.03748", "eq. 4", 6,
        {
            "default": pair(0.07),
            "low temperature": pair(0.005),
            "symmetric": pair(0.07, symmetric=True),
            "negatives": with_extras(0.07, "negatives"),
            "hard negatives": with_extras(0.07, "negatives", "hard_negatives"),
            "ids": with_extras(0.07, "ids", "key_ids"),
            "symmetric ids": with_extras(0.05, "ids", symmetric=True),
            "margin": with_extras(0.07, "negatives", false_negative_margin=0.05, symmetric=True),
            "smoothing": with_extras(0.07, "negatives", "hard_negatives", label_smoothing=0.1),
            "symmetric smoothing": with_extras(0.07, "negatives", label_smoothing=0.1, symmetric=True),
            "row temperature": with_extras(0.07, "row_temperature", "negatives"),
            "normalize": pair(0.07, normalize=True),
            "weights": each(pair(0.07), "weights", "present"),
            "some hard negatives": each(with_extras(0.07, "negatives", "hard_negatives"), "weights", "present"),
            "symmetric weights": each(with_extras(0.07, "negatives", symmetric=True), "weights", "present"),
            "smoothing of some": each(pair(0.07, symmetric=True, label_smoothing=0.1), "weights", "present"),
            "both row temperatures": each(pair(0.07, symmetric=True), "temperature", "key_temperature"),
            "pair temperatures": each(with_extras(0.07, "negatives", "ids", symmetric=True), "temperature", "weights"),
            "rows": pair(0.07, symmetric=True, direction="rows"),
            "columns": pair(0.07, symmetric=True, direction="cols", false_negative_margin=0.05),
            "sum": pair(0.07, symmetric=True, direction="sum"),
            "detached": with_extras(0.07, "negatives", symmetric=True, detach_keys=True),
            "detached smoothing": with_extras(
                0.07, "negatives", symmetric=True, detach_keys=True, label_smoothing=0.1
            ),
            "detached rows": with_extras(0.07, "negatives", "hard_negatives", detach_keys=True),
            "sampled": sampled(0.07, "key_log_prob", "negative_log_prob", symmetric=True),
            "sampled positive": sampled(0.07, "key_log_prob", symmetric=True, positive_log_prob=False),
            "gathered": gathered(0.07, "ids", "key_log_prob", symmetric=True),
            "gathered smoothing": gathered(0.07, symmetric=True, label_smoothing=0.1),
        },
    ),
    LossCard(
        "clip_loss", "image-text and any two modalities", "arXiv 2103.00020", "figure 3", 8,
        {
            "default": scaled(14.3),
            "scale 100": scaled(100.0),
            "scale 1000": scaled(1000.0),
            "smoothing": scaled(14.3, label_smoothing=0.1),
            "ids": scaled(20.0, equal="ids"),
            "weights": each(scaled(14.3, equal="ids"), "weights", "present"),
            "smoothing of some": each(scaled(14.3, label_smoothing=0.1), "present"),
            "row scales": each(scaled(14.3), "logit_scale", "text_logit_scale"),
            "text to image": scaled(14.3, direction="cols"),
            "detached": scaled(14.3, detach_keys=True),
        },
    ),
    LossCard(
        "distill_info_nce", "pairs with a momentum encoder or a teacher, queues", "arXiv 2107.07651", "eq. 6", 8,
        {
            "default": taught(0.1),
            "queue": taught(0.1, "negatives"),
            "low temperature": taught(0.02),
            "teacher": taught(0.1, "negatives", "teacher_key", teacher_loss="kl"),
            "trained teacher": taught(0.2, "teacher_key", detach_targets=False, alpha=1.0, teacher_loss="kl"),
            "filter": taught(0.2, "negatives", "teacher_key", filter_wrong=True),
            "ids": taught(0.1, "negatives", "ids", "negative_ids"),
            "row temperature": each(taught(0.1, "negatives"), "temperature"),
            "weights": each(taught(0.1, alpha=0.8, normalize=True), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "clip_distill_loss", "image-text with a teacher", "open_clip DistillClipLoss", "official code", 12,
        {
            "default": clip_taught(14.3, 10.0),
            "blend": clip_taught(14.3, alpha=0.5, teacher_loss="kl"),
            "trained teacher": clip_taught(10.0, 5.0, detach_targets=False, teacher_loss="kl"),
            "filter": clip_taught(5.0, 5.0, filter_wrong=True, teacher_loss="kl"),
            "text to image": clip_taught(14.3, 20.0, direction="cols"),
            "weights": each(clip_taught(14.3, 10.0), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "softclip_loss", "two modalities, targets from how alike items are", "arXiv 2409.17777", "official code", 16,
        {
            "default": pair(0.125),
            "detached": pair(0.125, detach_targets=True),
            "columns": pair(0.2, direction="cols"),
            "weights": each(pair(0.2, normalize=True), "weights"),
        },
        copies=5.0,
    ),
    LossCard(
        "cwcl_loss", "a modality beside a frozen one, pairs weighed by likeness", "arXiv 2309.14580", "eq. 3", 12,
        {
            "default": scaled(14.3),
            "features": similar(20.0),
            "weights": each(scaled(14.3, normalize=True), "weights"),
        },
        forward=4,
    ),
    LossCard(
        "hydra_loss", "classes paired at random, in gated subspaces", "arXiv 2410.18200", "official code", 32,
        {"default": gated(10.0), "keys": gated(5.0, keys=True)},
        copies=12.0,
    ),
    LossCard(
        "siglip_loss", "image-text without a softmax over the batch", "arXiv 2303.15343", "algorithm 1", 6,
        {
            "default": scaled(10.0, bias=-10.0),
            "no bias": scaled(10.0),
            "scale 100": scaled(100.0, bias=-10.0),
            "labels": scaled(10.0, bias=-3.0, equal="labels"),
            "ids": scaled(10.0, bias=-3.0, equal="ids"),
            "weights": each(scaled(10.0, bias=-3.0), "weights", "present"),
            "weights and labels": each(scaled(10.0, bias=-3.0, equal="labels"), "weights", "present"),
        },
    ),
    LossCard(
        "nt_xent", "self-supervised, two views (SimCLR)", "arXiv 2002.05709", "eq. 1", 4,
        {
            "default": pair(0.5),
            "low temperature": pair(0.005),
            "normalize": pair(0.1, normalize=True),
            "weights": each(pair(0.1), "weights", "present"),
            "rows": each(pair(0.1, direction="rows"), "weights", "present"),
            "columns": pair(0.1, direction="cols"),
            "sum": each(pair(0.1, direction="sum"), "weights"),
            "detached": each(pair(0.5, detach_keys=True), "present"),
            "detached columns": pair(0.1, direction="cols", detach_keys=True),
        },
        stacked=True,
    ),
    LossCard(
        "debiased_info_nce", "pairs, negatives that may share a class", "arXiv 2007.00224", "eq. 8", 8,
        {
            "default": pair(0.5),
            "sharp": pair(0.07),
            "prior": pair(0.2, tau_plus=0.02),
            "weights": each(pair(0.2), "weights", "present"),
        },
    ),
    LossCard(
        "debiased_nt_xent", "two views, negatives that may share a class", "arXiv 2007.00224", "official code", 4,
        {
            "default": pair(0.5),
            "sharp": pair(0.1, tau_plus=0.01),
            "weights": each(pair(0.2), "weights", "present"),
        },
        stacked=True,
    ),
    LossCard(
        "sup_con", "labels: several positives per row", "arXiv 2004.11362", "eq. 2", 4,
        {"default": labelled(0.1, 0.25), "views": labelled(0.07, 0.5, views=2), "rare": labelled(0.1, 3.0),
            "weights": each(labelled(0.1, 0.5), "weights", "present"),
            "some views": each(labelled(0.1, 0.5, views=2), "weights", "present"),
            "detached": labelled(0.1, 0.5, detach_keys=True),
        },
        stacked=True,
    ),
    LossCard(
        "dcl", "two views, small batches", "arXiv 2110.06848", "L_DC", 4,
        {
            "default": pair(0.1),
            "low temperature": pair(0.005),
            "weights": each(pair(0.1), "weights", "present"),
            "rows": each(pair(0.1, direction="rows"), "weights"),
        },
        stacked=True,
    ),
    LossCard(
        "dclw", "two views, hard positives weighted", "arXiv 2110.06848", "L_DCW", 4,
        {
            "default": pair(0.1),
            "sigma": pair(0.1, sigma=1.0),
            "weights": each(pair(0.1), "weights", "present"),
            "columns": each(pair(0.1, direction="cols"), "present"),
        },
        stacked=True,
    ),
    LossCard(
        "dhel", "two views, repulsion within each view only", "arXiv 2405.18045", "DHEL", 8,
        {
            "default": pair(0.3),
            "low temperature": pair(0.005),
            "anchors only": pair(0.1, include_augs=False),
            "normalize": pair(0.2, normalize=True),
            "weights": each(pair(0.3), "weights", "present"),
        },
    ),
    LossCard(
        "mv_infonce", "k views, one softmax per instance", "arXiv 2507.06979", "MV-InfoNCE", 4,
        {
            "default": several_views(3, 0.5),
            "low temperature": several_views(3, 0.005),
            "eight views": several_views(8, 0.1),
            "across views": several_views(3, 0.2, negatives="cross_view"),
            "sharp across views": several_views(4, 0.01, negatives="cross_view"),
            "normalize": several_views(2, 0.2, normalize=True),
            "weights": each_view(several_views(3, 0.2)),
            "weights across views": each_view(several_views(3, 0.2, negatives="cross_view")),
        },
        stacked=True,
    ),
    LossCard(
        "mv_dhel", "k views, repulsion within each view only", "arXiv 2507.06979", "MV-DHEL", 4,
        {
            "default": several_views(3, 0.5),
            "low temperature": several_views(3, 0.005),
            "eight views": several_views(8, 0.1),
            "normalize": several_views(2, 0.2, normalize=True),
            "weights": each_view(several_views(3, 0.5)),
        },
        "k",
    ),
    LossCard(
        "pvc", "k views, each pair against the negatives", "arXiv 2403.05490", "poly-view", 4,
        {
            "default": several_views(3, 0.2),
            "sharp": several_views(4, 0.01),
            "arithmetic": several_views(4, 0.2, aggregation="arithmetic"),
            "sharp arithmetic": several_views(3, 0.005, aggregation="arithmetic"),
            "weights": each_view(several_views(4, 0.2)),
            "arithmetic weights": each_view(several_views(4, 0.2, aggregation="arithmetic")),
            "normalize": several_views(2, 0.2, normalize=True),
        },
        stacked=True,
    ),
    LossCard(
        "kcl", "two views, kernels instead of a softmax", "arXiv 2405.18045", "KCL", 8,
        {
            "default": kernel_pairs(),
            "log": kernel_pairs(kernel="log"),
            "imq": kernel_pairs(kernel="imq"),
            "riesz": kernel_pairs(kernel="riesz"),
            "negative riesz": kernel_pairs(kernel="riesz", s=-1.5),
            "gaussian riesz": kernel_pairs(kernel="gaussian_riesz", s=1.0),
            "some": each(kernel_pairs(), "present"),
            "some log": each(kernel_pairs(kernel="log"), "present"),
            "some riesz": each(kernel_pairs(kernel="riesz"), "present"),
        },
    ),
    LossCard(
        "cua", "image-text without a gap: CLIP, uniformity, alignment", "arXiv 2405.18570", "L_CUA", 16,
        {
            "default": scaled(100.0),
            "weights": scaled(20.0, t=1.0, clip_weight=0.3, uniformity_weight=0.5, alignment_weight=2.0),
            "some": each(scaled(20.0), "present"),
        },
        copies=4.5,  # each term has points measured from their mean
    ),
    LossCard(
        "cuaxu", "the same with uniformity across modalities", "arXiv 2405.18570", "L_CUAXU", 24,
        {
            "default": scaled(100.0),
            "weights": scaled(20.0, t=3.0, clip_weight=0.0, cross_uniformity_weight=2.0),
            "some": each(scaled(20.0), "present"),
        },
        copies=4.5,
    ),
    LossCard(
        "uniformity", "spread on the sphere, metric or term", "arXiv 2005.10242", "eq. 4", 4,
        {
            "default": points(1),
            "not unit": points(1, 1.7),
            "two sets": points(2),
            "wide": points(1, t=5.0),
            "normalize": points(1, 1.7, normalize=True),
            "some": each(points(1), "present"),
            "some of two sets": each(points(2), "present"),
        },
    ),
    LossCard(
        "alignment", "closeness of positives, metric or term", "arXiv 2005.10242", "eq. 3", 0,
        {
            "default": points(2),
            "alpha 1": points(2, alpha=1.0),
            "normalize": points(2, 1.7, normalize=True),
            "weights": each(points(2), "weights", "present"),
        },
    ),
    LossCard(
        "gram_loss", "k modalities, volume they span with an anchor", "arXiv 2412.11959", "eq. 6", 8,
        {
            "default": volumes(3),
            "two": volumes(2),
            "four": volumes(4),
            "low temperature": volumes(3, 0.005),
            "no smoothing": volumes(5, label_smoothing=0.0),
            "one direction": volumes(3, symmetric=False),
            "detached": volumes(3, detach_keys=True),
            "normalize": volumes(3, normalize=True),
            "weights": each(volumes(3, direction="sum"), "weights"),
            "columns": volumes(3, direction="cols"),
        },
        "(k-1)",
    ),
    LossCard(
        "triangle_loss", "three modalities, area of their triangle", "arXiv 2509.24734", "official code", 16,
        {
            "default": volumes(3),
            "area": volumes(3, squared=False),
            "low temperature": volumes(3, 0.02, noise=2.0, label_smoothing=0.0),
            "detached": volumes(3, detach_keys=True),
            "weights": each(volumes(3), "weights", "present"),
            "columns": volumes(3, direction="cols"),
        },
        copies=6.0,
    ),
    LossCard(
        "pmrl_loss", "any number of modalities, none the anchor", "arXiv 2507.17343", "L_intra + L_inter", 4,
        {
            "default": tuples(3, {"singular_temperature": 0.05, "instance_temperature": 0.1}, noise=2.0),
            "warm": tuples(3, {"singular_temperature": 0.5, "instance_temperature": 0.5}, noise=2.0),
            "two": tuples(2, {"singular_temperature": 0.3, "instance_temperature": 0.2}, noise=1.5),
            "pre-training": tuples(4, {"singular_temperature": 0.01, "instance_temperature": 0.1}),
            "normalize": tuples(3, {"singular_temperature": 0.2, "instance_temperature": 0.3}, noise=1, normalize=True),
            "weights": each(tuples(3, {"singular_temperature": 0.3, "instance_temperature": 0.2}), "weights"),
        },
        copies=5.0,
    ),
    LossCard(
        "symile_loss", "k modalities, one score for all of them", "arXiv 2411.01053", "official code", 8,
        {
            "default": mips(3, 14.3),
            "scale 100": mips(3, 100.0),
            "two": mips(2, 14.3),
            "weights": each(mips(3, 14.3), "weights"),
            "four": mips(4, 50.0),
            "not unit": mips(3, 1.0, radius=8.0),
            "normalize": mips(3, 14.3, radius=3.0, normalize=True),
            "n_squared": mips(3, 14.3, negatives="n_squared"),
            "n_squared scale 100": mips(3, 100.0, negatives="n_squared"),
            "n_squared not unit": mips(3, 1.0, radius=8.0, negatives="n_squared"),
        },
        "k", copies=6.5,
    ),
)  # fmt: skip

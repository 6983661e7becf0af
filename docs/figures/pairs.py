"""Which pairs a loss pulls together, pushes apart or leaves alone: the signs and sizes of dL/d<x_i, x_j>, from the
dense losses of contrastile.reference. Nothing here knows a formula, but for Symile, whose tuples are drawn."""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from contrastile import reference
from palette import FAINT, INK, PULL, PUSH, THIRD

NOTHING = 1e-10  # a gradient below this is rounding


def items(instances: int, views: int, noise: float = 0.7, seed: int = 3) -> Tensor:
    """(views * instances, D) float64 unit rows, view by view; the views of an instance resemble each other."""
    g = torch.Generator().manual_seed(seed)
    centre = F.normalize(torch.randn(instances, 24, generator=g, dtype=torch.float64), dim=1)
    moved = centre + noise * F.normalize(torch.randn(views, instances, 24, generator=g, dtype=torch.float64), dim=2)
    return F.normalize(moved, dim=2).flatten(0, 1)


def pair_gradients(loss: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """dL/d<x_i, x_j> of a loss that depends on its rows by their dot products alone; linearly independent rows."""
    gram = (rows @ rows.T).requires_grad_()
    loss(torch.linalg.cholesky(gram)).backward()
    return gram.grad + gram.grad.T


def matrix(axes: plt.Axes, gradient: Tensor, title: str, rows: str, cols: str, lines: tuple[int, ...] = ()) -> None:
    """One cell per pair; its shade is the size of the gradient. `lines`: where another view or block begins."""
    shade = (gradient.abs() / gradient.abs().max()).sqrt()
    height, width = gradient.shape
    for i, j in product(range(height), range(width)):
        value = gradient[i, j].item()
        if abs(value) < NOTHING:
            axes.plot(j + 0.5, i + 0.5, ".", color=FAINT, markersize=3)
        else:
            look = {"facecolor": PULL if value < 0 else PUSH, "alpha": 0.15 + 0.85 * shade[i, j].item()}
            axes.add_patch(Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, linewidth=0, **look))
    for at in lines:
        axes.axvline(at, color=INK, linewidth=0.8)
        if at < height:
            axes.axhline(at, color=INK, linewidth=0.8)
    axes.set(
        xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], title=title, xlabel=cols, ylabel=rows
    )
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)


def panels(count: int, width: float = 2.5, height: float = 3.0) -> tuple[plt.Figure, list[plt.Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def legend(figure: plt.Figure) -> plt.Figure:
    dot = plt.Line2D([], [], linestyle="", marker=".", color=FAINT, label="not compared")
    handles = [Patch(color=PULL, label="pulled together"), Patch(color=PUSH, label="pushed apart"), dot]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def contrastive() -> plt.Figure:
    n, queue = 5, 3
    x, extra = items(n, 2), items(queue, 1, seed=9)
    ids = torch.tensor([0, 0, 1, 2, 3])
    figure, (first, second, third) = panels(3)
    both = pair_gradients(lambda r: reference.clip_loss(r[:n], r[n:], 5.0), x)[:n, n:]
    matrix(first, both, "clip_loss", "image", "text")
    queued = pair_gradients(
        lambda r: reference.info_nce(r[:n], r[n : 2 * n], temperature=0.2, negatives=r[2 * n :]), torch.cat([x, extra])
    )[:n, n:]
    matrix(second, queued, "info_nce, negatives", "query", "key | queue", (n,))
    known = pair_gradients(lambda r: reference.info_nce(r[:n], r[n:], temperature=0.2, query_ids=ids), x)[:n, n:]
    matrix(third, known, "info_nce, query_ids", "query", "key")
    return legend(figure)


def sigmoid() -> plt.Figure:
    n = 5
    x, labels = items(n, 2), torch.tensor([0, 0, 1, 2, 3])
    figure, (first, second, third) = panels(3)
    for axes, title, options in (
        (first, "siglip_loss", {}),
        (second, "siglip_loss with image_labels", {"image_labels": labels}),
    ):
        found = pair_gradients(lambda r, options=options: reference.siglip_loss(r[:n], r[n:], 10.0, -5.0, **options), x)
        matrix(axes, found[:n, n:], title, "image", "text")
    cosine = torch.linspace(-1, 1, 201)
    logit = 10 * cosine - 5
    third.plot(cosine, torch.sigmoid(-logit), color=PULL, label="matched")
    third.plot(cosine, torch.sigmoid(logit), color=PUSH, label="not matched")
    third.axvline(0.5, color=FAINT, linewidth=0.8)
    third.set(title="force on a pair", xlabel="cosine", ylabel="|dL/dz|", box_aspect=1)
    third.legend(loc="center left")
    return legend(figure)


def two_views() -> plt.Figure:
    n = 4
    x = items(n, 2)
    figure, axes = panels(4, 2.4)
    for panel, name in zip(axes, ("nt_xent", "dcl", "dhel"), strict=False):
        loss = getattr(reference, name)
        found = pair_gradients(lambda r, loss=loss: loss(r[:n], r[n:], temperature=0.3), x)
        matrix(panel, found, name, "view 1 | view 2", "view 1 | view 2", (n,))
    cosine = torch.linspace(0.0, 0.98, 60, dtype=torch.float64)
    for name, colour in (("nt_xent", PULL), ("dcl", THIRD)):
        axes[3].plot(cosine, [pull(getattr(reference, name), p, 16) for p in cosine], color=colour, label=name)
    axes[3].set(title="pull on a positive", xlabel="its cosine (others 0)", ylim=(0, None), box_aspect=1)
    axes[3].set_ylabel("-dL/dz")
    axes[3].legend()
    return legend(figure)


def pull(loss: Callable[..., Tensor], cosine: Tensor, n: int) -> float:
    """The pull on a matched pair of this cosine, all other cosines 0, temperature 0.3."""
    eye = torch.eye(n, dtype=torch.float64)
    gram = torch.cat([torch.cat([eye, cosine * eye], 1), torch.cat([cosine * eye, eye], 1)])
    found = pair_gradients(lambda r: loss(r[:n], r[n:], temperature=0.3, reduction="sum"), torch.linalg.cholesky(gram))
    return -0.3 / 2 * found[0, n].item()


def supervised() -> plt.Figure:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    n = len(labels)
    figure, (first, second) = panels(2, 3.0)
    found = pair_gradients(lambda r: reference.sup_con(r, labels, temperature=0.3), items(n, 1, seed=5))
    matrix(first, found, "labels 0 0 0 1 1 2", "row", "row", (3, 5))
    views = pair_gradients(
        lambda r: reference.sup_con(r.view(2, n // 2, -1), labels[1:4], temperature=0.3),
        items(n // 2, 2),
    )
    matrix(second, views, "labels 0 0 1, two views each", "view 1 | view 2", "view 1 | view 2", (n // 2,))
    return legend(figure)


def multi_positive() -> plt.Figure:
    """Five images, the first two of one thing, and seven captions, of which the first of each thing is the closest;
    videos with bags of two texts."""
    n, bags = 5, 3
    ids, captions = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 2, 3])
    m, centre = len(captions), items(4, 1)
    noise = torch.tensor([0.4, 0.9, 1.4, 0.4, 1.4, 0.4, 0.4], dtype=torch.float64)[:, None]
    x = F.normalize(centre[ids] + 0.4 * items(n, 1, seed=9), dim=1)
    y = F.normalize(centre[captions] + noise * items(m, 1, seed=10), dim=1)
    figure, axes = panels(4, 2.4)
    for panel, form in zip(axes, ("out", "in", "each"), strict=False):
        found = pair_gradients(
            lambda r, form=form: reference.multi_positive(r[:n], r[n:], ids, captions, form=form, temperature=0.2),
            torch.cat([x, y]),
        )
        matrix(panel, found[:n, n:], f'form="{form}"', "image", "caption")
    rows = items(bags, 3)
    found = pair_gradients(
        lambda r: reference.mil_nce(r[:bags], r[bags:].view(2, bags, -1).transpose(0, 1), temperature=0.3), rows
    )
    order = [*range(bags, 3 * bags)]
    order = [order[bag + bags * place] for bag in range(bags) for place in range(2)]
    matrix(axes[3], found[:bags, order], "mil_nce", "video", "text, bag by bag")
    return legend(figure)


def with_a_copy(roles: int, noise: float = 0.7) -> list[Tensor]:
    """`roles` views of five items each, of which the first two are nearly one."""
    views = items(4, 2 * roles, noise).unflatten(0, (2 * roles, 4))
    return [torch.cat([views[2 * role, :1], views[2 * role + 1]]) for role in range(roles)]


def candidates() -> plt.Figure:
    n, k = 4, 2
    x = torch.cat([items(n, 2), items(n, 1).repeat_interleave(k, 0) + items(n * k, 1, seed=8)])
    figure, panel = panels(2, 3.6)
    for axes, loss in zip(panel, (reference.info_nce, reference.grouped_info_nce), strict=True):

        def own(r: Tensor, loss: Callable[..., Tensor] = loss) -> Tensor:
            query, key, more = r.split([n, n, n * k])
            return loss(query, key, hard_negatives=more.view(n, k, -1), temperature=0.3)

        matrix(axes, pair_gradients(own, x)[:n, n:], loss.__name__, "query", "key | own candidates", (n,))
    return legend(figure)


def mixup() -> plt.Figure:
    n = 5
    x, flipped = items(n, 2), torch.arange(5).flip(0)
    figure, (first, second) = panels(2, 3.0)
    found = pair_gradients(lambda r: reference.mixup_info_nce(*r.split(n), flipped, 0.7, temperature=0.3), x)[:n, n:]
    matrix(first, found, "mixup_info_nce", "mixed", "clean")
    matrix(second, pair_gradients(lambda r: reference.m2_mix(*r.split(n), 0.7), x), "m2_mix", "x | y", "x | y", (n,))
    return legend(figure)


def structured() -> plt.Figure:
    figure, axes = panels(4, 2.4)
    labels = torch.tensor([0, 0, 1, 1, 2])
    rows = torch.cat([items(3, 2)[[0, 0, 1, 1, 2]] + 0.3 * items(5, 1, seed=8), items(3, 2)[3:]])

    def classes(r: Tensor) -> Tensor:
        return reference.prototype_loss(r[:5], r[5:], labels, temperature=0.3)

    def parts(r: Tensor) -> Tensor:
        return reference.global_local_info_nce(r[:3], r[3:].view(2, 3, -1).transpose(0, 1), temperature=0.3)

    def blocks(r: Tensor) -> Tensor:
        return reference.block_info_nce(*r.split(6), 2, same_pair_weight=2.0, temperature=0.3)

    matrix(axes[0], pair_gradients(classes, rows)[:5, 5:], "prototype_loss", "item", "class")
    found = pair_gradients(parts, items(3, 3))[:3, [3, 6, 4, 7, 5, 8]]
    matrix(axes[1], found, "global_local_info_nce", "item", "parts of 1 | 2 | 3")
    for at in (2, 4):
        axes[1].axvline(at, color=INK, linewidth=0.8)
    matrix(axes[2], pair_gradients(blocks, items(6, 2))[:6, 6:], "block_info_nce", "x", "y", (3,))
    found = pair_gradients(lambda r: reference.m3el_loss(*r.split(4), temperature=0.3), items(4, 2))
    matrix(axes[3], found, "m3el_loss", "x | y", "x | y", (4,))
    return legend(figure)


def distillation() -> plt.Figure:
    n = 5
    figure, (first, second, third) = panels(3)
    queued = torch.cat([with_a_copy(1)[0], with_a_copy(2, 0.2)[1], with_a_copy(3, 0.2)[2], items(3, 1, seed=9)])

    def momentum(r: Tensor, alpha: float) -> Tensor:
        query, key, teacher, queue = r.split([n, n, n, 3])
        return reference.distill_info_nce(
            query, key, teacher, temperature=0.5, teacher_temperature=0.1, alpha=alpha, negatives=queue
        )

    columns = [*range(n, 2 * n), *range(3 * n, 3 * n + 3)]
    for axes, alpha in ((first, 0.0), (second, 0.8)):
        found = pair_gradients(lambda r, alpha=alpha: momentum(r, alpha), queued)[:n, columns]
        matrix(axes, found, f"distill_info_nce, alpha={alpha:g}", "query", "key | queue", (n,))
    taught = torch.cat([*with_a_copy(2), *with_a_copy(4, 0.2)[2:]])
    found = pair_gradients(lambda r: reference.clip_distill_loss(*r.split(n), 2.0, 10.0), taught)[:n, n : 2 * n]
    matrix(third, found, "clip_distill_loss", "image", "text")
    return legend(figure)


def soft_targets() -> plt.Figure:
    n = 5
    two = torch.cat([0.4 * with_a_copy(2)[0], with_a_copy(2, 0.2)[1]])
    figure, axes = panels(4, 2.4)
    labels = torch.eye(n, dtype=torch.float64)
    labels[0, 1] = labels[1, 0] = 0.9
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    m = len(classes)

    def hydra(r: Tensor) -> Tensor:
        return reference.hydra_loss(r[:m], torch.ones_like(r[:m]), classes, (classes + 1) % 3, r[m:], classes)

    for panel, name, loss, rows, sides in (
        (axes[0], "softclip_loss", lambda r: reference.softclip_loss(*r.split(n), temperature=0.2), two, "xy"),
        (axes[1], "cwcl_loss", lambda r: reference.cwcl_loss(*r.split(n)[::-1], 6.0), two, ("anchor", "other")),
        (axes[2], "hydra_loss", hydra, items(m, 2), ("sample", "key")),
        (
            axes[3],
            "multilabel_contrastive",
            lambda r: reference.multilabel_contrastive(*r.split(n), labels, logit_scale=2.0),
            two,
            "xy",
        ),
    ):
        half = len(rows) // 2
        matrix(panel, pair_gradients(loss, rows)[:half, half:], name, *sides)
    return legend(figure)


def multiview() -> plt.Figure:
    k, n = 3, 3
    x = items(n, k)
    figure, axes = panels(4, 2.4)
    for panel, (name, options, title) in zip(
        axes,
        (
            ("mv_infonce", {}, "mv_infonce"),
            ("mv_infonce", {"negatives": "cross_view"}, "mv_infonce, cross"),
            ("mv_dhel", {}, "mv_dhel"),
            ("pvc", {}, "pvc"),
        ),
        strict=True,
    ):
        loss = getattr(reference, name)
        found = pair_gradients(
            lambda r, loss=loss, options=options: loss(r.view(k, n, -1), temperature=0.5, **options), x
        )
        matrix(panel, found, title, "view 1 | 2 | 3", "view 1 | 2 | 3", (n, 2 * n))
    return legend(figure)


def symile() -> plt.Figure:
    """For one anchor row, which pairs of rows of the two other modalities form a tuple with it."""
    n, own = 7, 2
    g = torch.Generator().manual_seed(1)
    every = torch.ones(n, n)
    drawn = torch.zeros(n, n)
    columns = torch.stack([torch.randperm(n, generator=g), torch.randperm(n, generator=g)])
    for j in range(n):
        if j != own:
            drawn[tuple(columns[:, j])] = 1.0
    figure, axes = panels(2, 3.0)
    for panel, tuples, title in zip(axes, (drawn, every), ('negatives="n"', 'negatives="n_squared"'), strict=True):
        tuples = tuples.clone()
        tuples[own, own] = -1.0
        matrix(panel, tuples, title, "row of the second modality", "row of the third modality")
    return legend(figure)

"""Volume, area, singular values and gap as pictures; the numbers in them come from contrastile."""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from torch import Tensor

import contrastile
from palette import FAINT, INK, PULL, PUSH, THIRD

COLOURS = (PULL, PUSH, THIRD)
CLOSE = torch.tensor([[0.30, 0.20, 0.93], [0.52, 0.12, 0.85], [0.28, 0.50, 0.82]], dtype=torch.float64)
APART = torch.tensor([[0.30, 0.20, 0.93], [0.98, 0.10, 0.20], [0.05, 0.95, 0.25]], dtype=torch.float64)


def space(figure: plt.Figure, position: int, title: str, size: float) -> plt.Axes:
    """Room for vectors up to `size` along each axis."""
    axes = figure.add_axes((0.33 * position - 0.36, -0.08, 0.38, 1.05), projection="3d")
    axes.set_axis_off()
    axes.view_init(22, 35)
    axes.set(xlim=(-0.1, size), ylim=(-0.1, size), zlim=(0, size))
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    axes.text2D(0.5, 1.0, title, transform=axes.transAxes, ha="center", fontsize=10)
    return axes


def arrows(axes: plt.Axes, vectors: Tensor) -> None:
    for vector, colour in zip(vectors, COLOURS, strict=True):
        axes.quiver(0, 0, 0, *vector, color=colour, arrow_length_ratio=0.12, linewidth=2)


def curve(figure: plt.Figure, lines: dict[str, tuple[Tensor, str]], angle: Tensor, title: str) -> None:
    axes = figure.add_axes((0.72, 0.2, 0.26, 0.62))
    for label, (values, colour) in lines.items():
        axes.plot(angle.rad2deg(), values, color=colour, label=label)
    axes.set(title=title, xlabel="angle", xticks=[0, 45, 90, 135, 180], ylim=(0, None))
    axes.legend(fontsize=8)


def plane(angle: Tensor) -> Tensor:
    """Unit vectors in a plane, (len, 3)."""
    return torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)


def gram() -> plt.Figure:
    figure = plt.figure(figsize=(8, 3.0))
    for position, (name, vectors) in enumerate((("matched", CLOSE), ("mixed", APART)), start=1):
        vectors = F.normalize(vectors, dim=1)
        volume = float(contrastile.gram_volume(*(v[None] for v in vectors)))
        axes = space(figure, position, f"{name}: volume {volume:.2f}", 2.6 if name == "matched" else 1.4)
        axes.add_collection3d(Line3DCollection(edges(vectors), colors=FAINT, linewidths=1))
        axes.add_collection3d(Poly3DCollection(faces(vectors), facecolor=PULL, alpha=0.12))
        arrows(axes, vectors)
    angle = torch.linspace(0, torch.pi, 181, dtype=torch.float64)
    first = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(181, 3)
    third = F.normalize(torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64), dim=1).expand(181, 3)
    lines = {
        "k = 2": (contrastile.gram_volume(first, plane(angle)), PULL),
        "k = 3, third at 45°": (contrastile.gram_volume(first, plane(angle), third), THIRD),
        "1 - cosine": (1 - angle.cos(), FAINT),
    }
    curve(figure, lines, angle, "volume against the angle of two")
    return figure


def edges(vectors: Tensor) -> list[list[list[float]]]:
    """The twelve edges of the parallelotope."""
    found = []
    for axis in range(3):
        others = [v for index, v in enumerate(vectors) if index != axis]
        for i, j in product((0, 1), repeat=2):
            start = i * others[0] + j * others[1]
            found.append([start.tolist(), (start + vectors[axis]).tolist()])
    return found


def faces(vectors: Tensor) -> list[list[list[float]]]:
    found = []
    for axis in range(3):
        a, b = (v for index, v in enumerate(vectors) if index != axis)
        for start in (0 * vectors[axis], vectors[axis]):
            found.append([x.tolist() for x in (start, start + a, start + a + b, start + b)])
    return found


def triangle() -> plt.Figure:
    figure = plt.figure(figsize=(8, 3.0))
    for position, (name, corners) in enumerate((("matched", CLOSE), ("mixed", APART)), start=1):
        corners = F.normalize(corners, dim=1)
        area = float(contrastile.area(*(c[None] for c in corners)))
        axes = space(figure, position, f"{name}: area {area:.2f}", 1.1)
        axes.add_collection3d(Poly3DCollection([corners.tolist()], facecolor=THIRD, edgecolor=INK, alpha=0.3))
        arrows(axes, corners)
    angle = torch.linspace(0, torch.pi, 181, dtype=torch.float64)
    first = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(181, 3)
    third = F.normalize(torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64), dim=1).expand(181, 3)
    lines = {
        "area": (contrastile.area(first, plane(angle), third), THIRD),
        "volume": (contrastile.gram_volume(first, plane(angle), third), PULL),
    }
    curve(figure, lines, angle, "the second vector turns away")
    return figure


def pmrl() -> plt.Figure:
    """Three unit vectors and the direction they share, for three states; below them their singular values."""
    figure, axes = plt.subplots(2, 3, figsize=(8, 3.9), layout="constrained", height_ratios=(2, 1))
    states = (("one direction", (80, 90, 97)), ("spread", (50, 90, 140)), ("opposed", (20, 140, 262)))
    for (top, bottom), (name, degrees) in zip(axes.T, states, strict=True):
        angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        z = torch.stack([angle.cos(), angle.sin()])  # (D = 2, k = 3)
        left, sigma, _ = torch.linalg.svd(z)
        leading = left[:, 0] * torch.sign(left[:, 0] @ z.sum(1))
        for vector, colour in zip(z.T, COLOURS, strict=True):
            top.annotate("", vector.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        top.annotate("", leading.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.5, "ls": "--"})
        top.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", title=name)
        top.set_axis_off()
        bottom.barh([1, 0], sigma, color=[INK, FAINT], height=0.6)
        bottom.set(xlim=(0, 1.8), yticks=[1, 0], yticklabels=["$s_1$", "$s_2$"], xticks=[0, 1, 3**0.5])
        bottom.set_xticklabels(["0", "1", "√3"])
    return figure


def gap() -> plt.Figure:
    """128 pairs of free unit vectors in 32 dimensions, 400 steps on each loss, seen along the gap at the start."""
    start = two_cones(128, 32)
    axis = F.normalize(start[0].mean(0) - start[1].mean(0), dim=0)
    spread = start[0] - start[0].mean(0)
    up = torch.linalg.svd(spread - torch.outer(spread @ axis, axis)).Vh[0]
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.2), layout="constrained")
    for panel, name in zip(axes, ("start", "clip_loss", "cua", "cuaxu"), strict=True):
        x, y = start if name == "start" else trained(start, getattr(contrastile, name))
        for ends in zip(x, y, strict=True):
            panel.plot(*(torch.stack(ends) @ torch.stack([axis, up]).T).T, color=FAINT, linewidth=0.5)
        for side, colour in ((x, PULL), (y, PUSH)):
            panel.plot(side @ axis, side @ up, "o", color=colour, markersize=3)
        distance = contrastile.metrics.centroid_distance(x, y).item()
        panel.set(xlim=(-1, 1), ylim=(-0.7, 0.7), aspect="equal", title=f"{name}\ngap {distance:.2f}")
        panel.set_axis_off()
    return figure


def two_cones(n: int, d: int) -> Tensor:
    """Pairs that resemble each other weakly, each modality around a direction of its own, (2, n, d)."""
    g = torch.Generator().manual_seed(0)
    common, noise = torch.randn(2, n, d, generator=g)
    directions = F.normalize(torch.randn(2, 1, d, generator=g), dim=2)
    rows = torch.stack([common, common + noise])
    return F.normalize(0.35 * F.normalize(rows, dim=2) + 0.9 * directions, dim=2)


def trained(rows: Tensor, loss: Callable[..., Tensor], steps: int = 400) -> Tensor:
    free = rows.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*F.normalize(free, dim=2), 100.0).backward()
        optimizer.step()
    return F.normalize(free.detach(), dim=2)

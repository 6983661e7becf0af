"""Volume, area, singular values and gap as pictures; the numbers in them come from contrastile."""

from itertools import product

import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from palette import FAINT, INK, PULL, PUSH, THIRD
from torch import Tensor

import contrastile

COLOURS = (PULL, PUSH, THIRD)
CLOSE = torch.tensor([[0.30, 0.20, 0.93], [0.52, 0.12, 0.85], [0.28, 0.50, 0.82]], dtype=torch.float64)
APART = torch.tensor([[0.30, 0.20, 0.93], [0.98, -0.10, 0.20], [-0.15, 0.95, 0.25]], dtype=torch.float64)


def space(figure: plt.Figure, position: int, title: str) -> plt.Axes:
    axes = figure.add_subplot(1, 3, position, projection="3d")
    axes.set_axis_off()
    axes.view_init(22, 35)
    axes.set(xlim=(-0.3, 1.2), ylim=(-0.3, 1.2), zlim=(0, 1.5), title=title)
    axes.set_box_aspect((1, 1, 1), zoom=1.25)
    return axes


def arrows(axes: plt.Axes, vectors: Tensor) -> None:
    for vector, colour in zip(vectors, COLOURS, strict=True):
        axes.quiver(0, 0, 0, *vector, color=colour, arrow_length_ratio=0.12, linewidth=2)


def curve(figure: plt.Figure, lines: dict[str, tuple[Tensor, str]], angle: Tensor, title: str) -> None:
    axes = figure.add_subplot(1, 3, 3, box_aspect=0.9)
    for label, (values, colour) in lines.items():
        axes.plot(angle.rad2deg(), values, color=colour, label=label)
    axes.set(title=title, xlabel="angle", xticks=[0, 45, 90, 135, 180], ylim=(0, None))
    axes.legend(fontsize=8)


def plane(angle: Tensor) -> Tensor:
    """Unit vectors in a plane, (len, 3)."""
    return torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)


def gram() -> plt.Figure:
    figure = plt.figure(figsize=(8, 2.9), layout="constrained")
    for position, (name, vectors) in enumerate((("matched", CLOSE), ("mixed", APART)), start=1):
        vectors = F.normalize(vectors, dim=1)
        volume = float(contrastile.gram_volume(*(v[None] for v in vectors)))
        axes = space(figure, position, f"{name}: volume {volume:.2f}")
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
    figure = plt.figure(figsize=(8, 2.9), layout="constrained")
    for position, (name, corners) in enumerate((("matched", CLOSE), ("mixed", APART)), start=1):
        corners = F.normalize(corners, dim=1)
        area = float(contrastile.area(*(c[None] for c in corners)))
        axes = space(figure, position, f"{name}: area {area:.2f}")
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
    """Pairs on a circle, the two modalities in two caps at the start; after 400 steps on each loss."""
    start = torch.linspace(-0.9, 0.9, 16, dtype=torch.float64)
    angles = torch.stack([start, torch.pi + start.flip(0) + 0.1])
    runs = {
        "start": (None, {}),
        "clip_loss": (contrastile.clip_loss, {}),
        "cua": (contrastile.cua, {}),
        "cuaxu": (contrastile.cuaxu, {}),
    }
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.7), layout="constrained")
    for panel, (name, (loss, options)) in zip(axes, runs.items(), strict=True):
        x, y = points(angles if loss is None else trained(angles.clone(), loss, **options))
        for ends in zip(x, y, strict=True):
            panel.plot(*torch.stack(ends).T, color=FAINT, linewidth=0.8)
        for side, colour in ((x, PULL), (y, PUSH)):
            panel.plot(*side.T, "o", color=colour, markersize=4)
        distance = float(contrastile.metrics.centroid_distance(x, y))
        panel.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", title=f"{name}\ngap {distance:.2f}")
        panel.set_axis_off()
    return figure


def points(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], -1)


def trained(angles: Tensor, loss: object, steps: int = 400, **options: float) -> Tensor:
    angles.requires_grad_()
    optimizer = torch.optim.Adam([angles], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = points(angles)
        loss(x, y, 20.0, **options).backward()
        optimizer.step()
    return angles.detach()

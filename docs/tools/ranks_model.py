"""The table of docs/distributed.md: what CLIP over many GPUs costs, by arithmetic. Nothing here is measured.

python docs/tools/ranks_model.py
"""

from __future__ import annotations

from dataclasses import dataclass

N, D = 2**20, 768  # global batch, features; bfloat16, gradients float32
RATE = 0.6 * 989e12  # assumed FLOP/s of the kernels: 60 % of an H100's dense bfloat16 peak
LATENCY = 10e-6  # assumed seconds of a transfer, whatever its size


@dataclass(frozen=True)
class Cluster:
    """Bandwidth: assumed bytes a second that a rank sends and receives at once."""

    ranks: int
    bandwidth: float
    link: str


CLUSTERS = (
    Cluster(8, 350e9, "NVLink"),
    Cluster(64, 40e9, "400 Gbit/s network"),
    Cluster(1024, 40e9, "400 Gbit/s network"),
)


@dataclass(frozen=True)
class Cost:
    compute: float  # seconds
    sent: float  # bytes of a rank
    total: float  # seconds, with what overlaps
    held: float  # bytes of columns and their gradients on a rank


def rows(cluster: Cluster) -> int:
    return N // cluster.ranks


def compute(cluster: Cluster, products: int) -> float:
    return products * rows(cluster) * N * D / RATE


def gather(cluster: Cluster) -> Cost:
    """Features come, gradients go; in between everything is computed. Nothing overlaps."""
    sent = (cluster.ranks - 1) * rows(cluster) * D * (2 + 4)
    statistics = 3 * 4 * N * 2  # two all-reduces of three float32 a column, each sent twice
    wire = (sent + statistics) / cluster.bandwidth + 2 * (cluster.ranks - 1) * LATENCY
    held = N * D * (2 + 4)
    return Cost(compute(cluster, 8), sent, compute(cluster, 8) + wire, held)


def ring(cluster: Cluster) -> Cost:
    """Two tours; a step takes as long as the longer of its products and its transfers."""
    w, block = cluster.ranks, rows(cluster) * D
    statistics = max(compute(cluster, 2) / w, 2 * block / cluster.bandwidth + LATENCY)
    gradients = max(compute(cluster, 6) / w, (2 + 4) * block / cluster.bandwidth + LATENCY)
    sent = 2 * (w - 1) * block * 2 + w * block * 4
    held = block * (2 * 2 + 3 * 4)  # two shards of features, three of gradients
    return Cost(compute(cluster, 8), sent, w * (statistics + gradients), held)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.{0 if seconds > 0.1 else 1}f} ms"


def lines() -> list[str]:
    out = [
        "| GPUs | link | rows per rank | strategy | compute | sent per rank | columns held | total | total / compute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cluster in CLUSTERS:
        for name, cost in (("gather", gather(cluster)), ("ring", ring(cluster))):
            out.append(
                f"| {cluster.ranks:,} | {cluster.link} | {rows(cluster):,} | {name} | {milliseconds(cost.compute)} "
                f"| {cost.sent / 1e9:.3g} GB | {cost.held / 1e9:.2g} GB | {milliseconds(cost.total)} "
                f"| {cost.total / cost.compute:.2f} |"
            )
    return out


if __name__ == "__main__":
    print("\n".join(lines()))

"""The demo's three-view part: losses of whole triples against CLIP on pairs, by retrieval of the missing view.

Each scan gives its left half, its right half and its map of stroke directions. For a held-out scan two of the three
are given and the third is looked for, with the score that the loss trains.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import contrastile
from contrastile.cli.demo_data import Scans, make_views
from contrastile.cli.demo_train import Encoders, Trainer
from contrastile.cli.table import format_table

VIEWS = ("left half", "right half", "strokes")

TripleLoss = Callable[[Sequence[Tensor], nn.ParameterDict], Tensor]
Score = Callable[[Tensor, Tensor, Tensor], Tensor]


class TripleObjective(nn.Module):
    """A loss of the embeddings of all three views, and the score that finds the third of two.

    Args:
        loss: Of the three embeddings, (N, D) each, and the learned scalars.
        score: (given, given, candidates) -> (N, N), larger is better: column j scores candidate j.
        scalars: Start values of what is learned beside the encoders.
    """

    def __init__(self, loss: TripleLoss, score: Score, /, **scalars: float) -> None:
        super().__init__()
        self.loss, self.score = loss, score
        self.scalars = nn.ParameterDict({name: nn.Parameter(torch.tensor(value)) for name, value in scalars.items()})

    def forward(self, embeddings: dict[str, Tensor], _: Tensor) -> Tensor:
        return self.loss([embeddings[name] for name in VIEWS], self.scalars)


def make_objectives(seed: int) -> dict[str, TripleObjective]:
    """The losses by the name of their function; seed: of the negatives that Symile draws."""
    c = contrastile
    generator = torch.Generator().manual_seed(seed)
    scale = {"log_scale": math.log(1 / 0.07)}
    return {
        "gram_loss": TripleObjective(
            lambda x, s: c.gram_loss(x[2], x[0], x[1], temperature=(-s["log_scale"]).exp()),
            lambda x, y, candidates: -c.gram_volume_matrix(candidates, x, y).T,
            **scale,
        ),
        "symile_loss": TripleObjective(
            lambda x, s: c.symile_loss(*x, logit_scale=s["log_scale"].exp(), generator=generator),
            lambda x, y, candidates: c.mip_similarity(candidates, [x, y]),
            log_scale=math.log(60.0),  # products of three unit rows are small
        ),
        "mv_dhel": TripleObjective(lambda x, _: c.mv_dhel(x, temperature=0.3), _sum_of_cosines),
        "clip_loss, pairwise": TripleObjective(
            lambda x, s: c.pairwise_aggregate(x, c.clip_loss, logit_scale=s["log_scale"].exp()),
            _sum_of_cosines,
            **scale,
        ),
    }


def _sum_of_cosines(x: Tensor, y: Tensor, candidates: Tensor) -> Tensor:
    return (x + y) @ candidates.T


@dataclass(frozen=True)
class ViewsOutcome:
    """What training with one loss gave: recall@1 of each view given the other two, as fractions."""

    name: str
    before: dict[str, float]
    after: dict[str, float]
    seconds: float

    @property
    def mean(self) -> float:
        """Over the three views, after training."""
        return sum(self.after.values()) / len(self.after)


def results_table(outcomes: Sequence[ViewsOutcome]) -> str:
    headers = ["loss", "before", "after", *VIEWS, "seconds"]
    rows = [
        [
            outcome.name,
            f"{sum(outcome.before.values()) / len(VIEWS):.2%}",
            f"{outcome.mean:.1%}",
            *(f"{outcome.after[name]:.1%}" for name in VIEWS),
            f"{outcome.seconds:.1f}",
        ]
        for outcome in outcomes
    ]
    return format_table(headers, rows, "<>>>>>>")


def three_view_trainer(trainer: Trainer) -> Trainer:
    """The same scans, epochs and seed, with encoders of the three views."""
    encoders = copy.deepcopy(trainer.encoders)
    for name in set(encoders.perceptrons) - set(VIEWS):
        del encoders.perceptrons[name]
    return Trainer(trainer.train, trainer.held_out, encoders, trainer.epochs, trainer.seed)


def fit(trainer: Trainer, name: str, objective: TripleObjective, advance: Callable[[], None]) -> ViewsOutcome:
    """Train a copy of the trainer's encoders with one loss."""
    encoders = copy.deepcopy(trainer.encoders)
    before = missing_view_recall(encoders, objective.score, trainer.held_out)
    started = time.perf_counter()
    for _ in trainer.train_steps(encoders, objective, advance):
        pass
    seconds = time.perf_counter() - started
    return ViewsOutcome(name, before, missing_view_recall(encoders, objective.score, trainer.held_out), seconds)


@torch.no_grad()
def missing_view_recall(encoders: Encoders, score: Score, scans: Scans) -> dict[str, float]:
    """How often the best candidate for each view, given the other two, is that of the same scan."""
    encoders.eval()
    embeddings = encoders(make_views(scans.images))
    encoders.train()
    truth = torch.arange(len(scans))
    recall = {}
    for missing in VIEWS:
        x, y = (embeddings[name] for name in VIEWS if name != missing)
        found = score(x, y, embeddings[missing]).argmax(1)
        recall[missing] = (found == truth).float().mean().item()
    return recall

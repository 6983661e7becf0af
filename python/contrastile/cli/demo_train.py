"""The demo's training: one small encoder per view, one loss for every pair of views."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contrastile
from contrastile.cli.demo_data import Scans, make_views

EMBEDDING_DIM = 64
_HIDDEN_DIM = 256
_BATCH_SIZE = 256
_ENCODER_RATE, _SCALAR_RATE = 4e-3, 2e-2  # peak learning rates of the one-cycle schedule

PairLoss = Callable[[Tensor, Tensor, Tensor, nn.ParameterDict], Tensor]


class Objective(nn.Module):
    """A loss of two embeddings and labels, for every pair of views, with the scalars learned beside the encoders."""

    def __init__(self, pair_loss: PairLoss, /, **scalars: float) -> None:
        super().__init__()
        self.pair_loss = pair_loss
        self.scalars = nn.ParameterDict({name: nn.Parameter(torch.tensor(value)) for name, value in scalars.items()})

    def forward(self, embeddings: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Mean over the pairs of views; embeddings (N, D) unit rows, labels (N,)."""
        pairs = itertools.combinations(embeddings.values(), 2)
        return torch.stack([self.pair_loss(x, y, labels, self.scalars) for x, y in pairs]).mean()


def make_objectives() -> dict[str, Objective]:
    """Every loss of the demo under the name of its function."""
    c = contrastile
    return {
        "clip_loss": Objective(
            lambda x, y, _, s: c.clip_loss(x, y, s["log_scale"].exp()), log_scale=math.log(1 / 0.07)
        ),
        "siglip_loss": Objective(
            lambda x, y, _, s: c.siglip_loss(x, y, s["log_scale"].exp(), s["bias"]),
            log_scale=math.log(10.0),
            bias=-10.0,
        ),
        "info_nce": Objective(lambda x, y, *_: c.info_nce(x, y, temperature=0.07)),
        "debiased_info_nce": Objective(lambda x, y, *_: c.debiased_info_nce(x, y, temperature=0.1, tau_plus=0.01)),
        "nt_xent": Objective(lambda x, y, *_: c.nt_xent(x, y, temperature=0.1)),
        "debiased_nt_xent": Objective(lambda x, y, *_: c.debiased_nt_xent(x, y, temperature=0.1, tau_plus=0.01)),
        "dcl": Objective(lambda x, y, *_: c.dcl(x, y, temperature=0.1)),
        "dclw": Objective(lambda x, y, *_: c.dclw(x, y, temperature=0.1)),
        "sup_con": Objective(lambda x, y, labels, _: c.sup_con([x, y], labels, temperature=0.1)),
        "alignment + uniformity": Objective(
            lambda x, y, *_: c.alignment(x, y) + (c.uniformity(x) + c.uniformity(y)) / 2
        ),
    }


class Encoders(nn.Module):
    """One two-layer perceptron per view, all mapping to unit vectors of one space."""

    def __init__(self, views: dict[str, Tensor]) -> None:
        super().__init__()
        self.perceptrons = nn.ModuleDict({name: _perceptron(view.shape[1]) for name, view in views.items()})

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: F.normalize(encode(views[name]), dim=1) for name, encode in self.perceptrons.items()}


def _perceptron(features: int) -> nn.Sequential:
    # the input normalisation centres the ink, so that untrained embeddings do not all point one way
    return nn.Sequential(
        nn.BatchNorm1d(features),
        nn.Linear(features, _HIDDEN_DIM),
        nn.GELU(),
        nn.Linear(_HIDDEN_DIM, EMBEDDING_DIM),
    )


@dataclass(frozen=True)
class Recall:
    """Retrieval on held-out scans, as fractions."""

    same_scan: float  # recall@1, mean over all ordered pairs of views
    left_to_right: float  # recall@1 of right halves given left halves
    same_digit: float  # of the same retrieval, how often the digit is right


@dataclass(frozen=True)
class Outcome:
    """What training with one loss gave."""

    name: str
    curve: list[float]  # mean training loss of each epoch
    before: Recall
    after: Recall
    seconds: float


@dataclass(frozen=True)
class Trainer:
    """Trains a copy of the same initial encoders on the same batches, whatever the loss."""

    train: Scans
    held_out: Scans
    encoders: Encoders
    epochs: int
    seed: int

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.train) // _BATCH_SIZE)

    def fit(self, name: str, objective: Objective, advance: Callable[[], None]) -> Outcome:
        """Train with one loss; ``advance`` is called after every step."""
        encoders = copy.deepcopy(self.encoders)
        before = measure_recall(encoders, self.held_out)
        started = time.perf_counter()
        losses = list(self.train_steps(encoders, objective, advance))
        seconds = time.perf_counter() - started
        curve = torch.tensor(losses).view(self.epochs, -1).mean(1).tolist()
        return Outcome(name, curve, before, measure_recall(encoders, self.held_out), seconds)

    def train_steps(self, encoders: Encoders, objective: nn.Module, advance: Callable[[], None]) -> Iterator[float]:
        """Trains the encoders in place; the loss of every step."""
        generator = torch.Generator().manual_seed(self.seed)
        optimizer, schedule = _optimization(encoders, objective, self.steps)
        for rows in itertools.chain.from_iterable(_batches(len(self.train), generator) for _ in range(self.epochs)):
            batch = self.train.select(rows)
            embeddings = encoders(make_views(batch.images, generator))
            loss = objective(embeddings, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance()
            yield loss.item()


def _batches(count: int, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(count, generator=generator)
    return [rows for rows in torch.split(order, _BATCH_SIZE) if len(rows) == _BATCH_SIZE]


def _optimization(
    encoders: Encoders, objective: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(
        [
            {"params": encoders.parameters(), "weight_decay": 0.05},
            {"params": objective.parameters(), "weight_decay": 0.0},
        ]
    )
    rates = [_ENCODER_RATE, _SCALAR_RATE]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)


@torch.no_grad()
def measure_recall(encoders: Encoders, scans: Scans) -> Recall:
    """Retrieve, for every held-out scan and ordered pair of views, the most similar candidate."""
    encoders.eval()
    embeddings = encoders(make_views(scans.images))
    encoders.train()
    truth = torch.arange(len(scans))
    hits = [_nearest(embeddings[x], embeddings[y]) == truth for x, y in itertools.permutations(embeddings, 2)]
    found = _nearest(embeddings["left half"], embeddings["right half"])
    return Recall(
        same_scan=_fraction(torch.stack(hits)),
        left_to_right=_fraction(found == truth),
        same_digit=_fraction(scans.labels[found] == scans.labels),
    )


def _nearest(queries: Tensor, candidates: Tensor) -> Tensor:
    return (queries @ candidates.T).argmax(1)


def _fraction(hits: Tensor) -> float:
    return hits.float().mean().item()

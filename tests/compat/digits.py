"""Short trainings on real digit scans, the same with either package's loss, and what a loss holds in memory."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

STEPS, BATCH = 25, 64
EPS = 2.0**-23


@cache
def scans():
    """1797 scans of 8 x 8 pixels in [0, 1], and the digit of each."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).double() / 16.0, torch.from_numpy(labels).long()


def batches(dtype, steps=STEPS, size=BATCH):
    """Batches of scans, digits, and two noisy views of the scans."""
    images, labels = scans()
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        rows = torch.randint(0, len(images), (size,), generator=generator)
        noise = 0.2 * torch.randn(2, size, images.shape[1], generator=generator, dtype=torch.float64)
        x = images[rows]
        yield x.to(dtype), labels[rows], (x + noise[0]).to(dtype), (x + noise[1]).to(dtype)


def encoder(dtype, seed=0):
    """Smooth: at the kink of a ReLU, a rounding would become a step of its own."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 24)).to(dtype)


def trained(model, losses):
    """Plain steps of SGD over losses(model) as they come; their values."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    values = []
    for loss in losses(model):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return torch.tensor(values, dtype=torch.float64)


def assert_same_training(train, ours, peer, warm_up=0):
    """train(loss maker, dtype) gives the loss of every step. The peer's training in float64 is the truth, and its
    float32 training shows what rounding may do to a step and to all after it. warm_up: steps before the loss falls."""
    truth, twin, found = train(peer, torch.float64), train(peer, torch.float32), train(ours, torch.float32)
    size = truth.abs().max()
    budget = 4.0 * (twin - truth).abs().cummax(0).values + 64.0 * EPS * size
    assert ((found - truth).abs() <= budget).all(), ((found - truth).abs() / budget).max()
    assert (budget <= 1e-3 * size).all()  # the runs stay together, so that the budget means something
    early, late = truth[warm_up:].chunk(2)
    assert late.mean() < early.mean()  # something is learnt


class LargestTensor(TorchDispatchMode):
    """The largest number of elements any operation returns; the engine's own blocks are not seen."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            self.numel = max(self.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
        return result


def largest_tensor(loss, *features):
    """Elements of the largest tensor that forward and backward of a loss make outside the engine."""
    features = [x.clone().requires_grad_() for x in features]
    with LargestTensor() as mode:
        loss(*features).backward()
    return mode.numel

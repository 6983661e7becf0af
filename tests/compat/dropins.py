"""What the tests of the smaller drop-ins share: signatures, short trainings, what autograd saves."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.ops import pair
from support.memory import saved_bytes

OURS = {"memory_budget", "backend", "gather_with_grad"}  # keyword arguments no other package has
DTYPES = pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=str)


def assert_same_signature(ours, theirs):
    """Their names, order and defaults, then our own keyword-only arguments."""

    def parameters(function):
        return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]

    their = parameters(theirs)
    assert [(p.name, p.kind) for p in parameters(ours)[: len(their)]] == [(p.name, p.kind) for p in their]
    for mine, other in zip(parameters(ours), their, strict=False):
        assert mine.default is other.default or mine.default == other.default, mine.name
    for p in parameters(ours)[len(their) :]:
        assert p.kind == inspect.Parameter.KEYWORD_ONLY and p.name in OURS, p.name


def correlated(shapes, dtype=torch.float64, noise=1.0, seed=0):
    """Features that resemble each other by row: (N, D) and (N, K, D)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(max(s[0] for s in shapes), shapes[0][-1], generator=generator, dtype=torch.float64)
    found = []
    for shape in shapes:
        own = base[: shape[0]] if len(shape) == 2 else base[: shape[0], None]
        found.append((own + noise * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype))
    return found


def training(loss, modalities, dtype, steps=8, rows=24):
    """Losses of a short training of small encoders, one for each modality, on data with a common cause.

    loss(features, log_scale) -> scalar; the scale is learned, too.
    """
    torch.manual_seed(5)
    encoders = nn.ModuleList(
        nn.Sequential(nn.Linear(10 + i, 16), nn.GELU(), nn.Linear(16, 12)) for i in range(modalities)
    ).to(dtype)
    log_scale = nn.Parameter(torch.tensor(1.0, dtype=dtype))
    mixes = [torch.randn(6, 10 + i, dtype=dtype) for i in range(modalities)]
    optimizer = torch.optim.Adam([*encoders.parameters(), log_scale], lr=1e-2)
    values = []
    for _ in range(steps):
        cause = torch.randn(rows, 6, dtype=dtype)
        inputs = [cause @ mix + 0.1 * torch.randn(rows, mix.shape[1], dtype=dtype) for mix in mixes]
        features = [F.normalize(net(x), dim=1) for net, x in zip(encoders, inputs, strict=True)]
        value = loss(features, log_scale)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.detach())
    return torch.stack(values)


def assert_trains_alike(ours, theirs, modalities, dtype, rtol):
    """Step by step the same losses, and they fall."""
    found, expected = (training(loss, modalities, dtype) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=rtol, atol=rtol)
    assert expected[-1] < expected[0]


def assert_saves_rows(function, tensors, monkeypatch):
    """Twice the rows, twice the bytes that autograd keeps. tensors(n): the leaves of a batch of n."""
    monkeypatch.setattr(pair, "STATS_BUDGET", 0)
    monkeypatch.setattr(pair, "LOSS_BUDGET", 0)
    few, many = (saved_bytes(function, *(x.requires_grad_() for x in tensors(n))) for n in (512, 1024))
    assert many <= 2.1 * few + 4096
    assert many < 1024 * 1024 * 4 / 2


def assert_module(module, keys=()):
    """state_dict as expected; survives deepcopy and pickle with its options."""
    assert set(module.state_dict()) == set(keys)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module)


def assert_kernels_agree(package):
    """The tests of kernels.py that run this package's kernels in Triton's interpreter, in a process of their own."""
    for needed in ("triton", package):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is missing: pip install --no-deps -r requirements-peers.txt")
    environment = os.environ | {"TRITON_INTERPRET": "1", "MEMEFF_INPUT_PRECISION": "ieee"}
    tests = Path(__file__).with_name("kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", package, str(tests)]
    done = subprocess.run(command, env=environment, cwd=tests.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout

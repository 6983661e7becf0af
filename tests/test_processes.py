"""Threads and processes around the losses: Python threads and a loader's workers."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import contrastile
from support.loss_cases import FAMILIES, call, default, gradients

SOURCE = Path(contrastile.__file__).parents[1]
LARGE = 530  # more than one thread works on it


def test_losses_called_from_python_threads_are_right(two_threads):
    """The engine releases the interpreter lock and keeps nothing between calls."""
    cases = [(card, default(card, n)) for card in FAMILIES.values() for n in (20, LARGE)]
    expected = [[call(card, case), *gradients(card, case)] for card, case in cases]
    with ThreadPoolExecutor(4) as pool:
        repeated = [(index, pool.submit(gradients, *cases[index])) for _ in range(3) for index in range(len(cases))]
        values = [(index, pool.submit(call, *cases[index])) for index in range(len(cases))]
    for index, future in repeated:
        assert all(torch.equal(x, y) for x, y in zip(future.result(), expected[index][1:], strict=True)), cases[index]
    for index, future in values:
        assert torch.equal(future.result(), expected[index][0]), cases[index]


# As a loader's worker does: forked after the parent has computed in parallel, with one thread of its own.
LOADER = """
import torch, contrastile

def losses():
    x = torch.linspace(-1, 1, 600 * 40).view(600, 40).sin().requires_grad_()
    values = [
        contrastile.clip_loss(x, x.cos(), 5.0), contrastile.nt_xent(x, x.cos()),
        contrastile.siglip_loss(x, x.cos(), 5.0, reduction="none").mean(),
    ]
    sum(values).backward()
    return torch.stack([*values, x.grad.norm()]).detach()

class Losses(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return losses()

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = losses()
    loader = torch.utils.data.DataLoader(
        Losses(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for found in loader:
        torch.testing.assert_close(found, expected)
    print("equal", torch.equal(losses(), expected))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch forks safely on Linux only")
def test_forked_workers_of_a_loader_compute_losses(tmp_path):
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal True\n"


# torch's own operations hang in a forked child that has more than one thread, once the parent computed in parallel, so
# this loss is small enough for them to stay serial. The native module may use two threads in it, and must not.
FORK = """
import os, signal, sys
import torch, contrastile

def loss():
    leaf = x.detach().requires_grad_()
    value = contrastile.clip_loss(leaf, y, 5.0, backend="cpu")
    value.backward()
    return value.detach(), leaf.grad

torch.set_num_threads(int(sys.argv[1]))
x = torch.linspace(-1, 1, 500 * 40).view(500, 40).sin()
y = x.cos()
expected = loss()
torch.set_num_threads(2)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    os._exit(not all(map(torch.equal, loss(), expected)))
assert os.waitpid(child, 0)[1] == 0, "the child hung or differs"
assert all(map(torch.equal, loss(), expected)), "the parent differs"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch forks safely on Linux only")
@pytest.mark.parametrize("threads_of_parent", ["1", "2"])
def test_forked_child_with_two_threads_computes_a_loss(threads_of_parent):
    if reason := contrastile.available_backends()["cpu"]:
        pytest.skip(reason)
    command = [sys.executable, "-c", FORK, threads_of_parent]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""Memory is O(N D), never N x N: what autograd saves, and the peak of a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import contrastile
from combinations import each_once
from contrastile import pair_loss, pair_reduce, reference
from contrastile.backends import products, torch_tiles
from contrastile.ops import library, pair

D = 16
MIB = 2**20
BACKENDS = ("torch", "cpu")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """By default a small problem's scores are saved from forward to backward; here only what a call asks for is."""
    monkeypatch.setattr(pair, "STATS_BUDGET", 0)


def saved_bytes(function, *leaves):
    """Bytes of all tensors a graph holds, each storage once; leaves and what they share are free."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = function(*leaves)
    assert value.requires_grad
    own = {x.untyped_storage().data_ptr() for x in leaves}
    return sum(size for pointer, size in storages.items() if pointer not in own)


def unit(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, D, generator=generator), dim=1).requires_grad_()


def labels(n):
    return torch.arange(n) % 7


LOSSES = {
    "info_nce": lambda m, x, y: m.info_nce(x, y),
    "info_nce ids": lambda m, x, y: m.info_nce(x, y, query_ids=labels(len(x)), symmetric=True),
    "info_nce none": lambda m, x, y: m.info_nce(x, y, negatives=y, reduction="none").sum(),
    "clip_loss": lambda m, x, y: m.clip_loss(x, y, 10.0),
    "clip_loss none": lambda m, x, y: m.clip_loss(x, y, 10.0, reduction="none").sum(),
    "clip_loss smoothing": lambda m, x, y: m.clip_loss(x, y, 10.0, label_smoothing=0.1),
    "siglip_loss": lambda m, x, y: m.siglip_loss(x, y, 10.0, -10.0),
    "nt_xent": lambda m, x, y: m.nt_xent(x, y),
    "debiased_info_nce": lambda m, x, y: m.debiased_info_nce(x, y),
    "debiased_nt_xent": lambda m, x, y: m.debiased_nt_xent(x, y),
    "sup_con": lambda m, x, y: m.sup_con(x, labels(len(x))) + y.sum() * 0,
    "dcl": lambda m, x, y: m.dcl(x, y),
    "dclw": lambda m, x, y: m.dclw(x, y),
    "dhel": lambda m, x, y: m.dhel(x, y),
    "mv_infonce": lambda m, x, y: m.mv_infonce([x, y]),
    "mv_infonce across": lambda m, x, y: m.mv_infonce([x, y], negatives="cross_view"),
    "mv_dhel": lambda m, x, y: m.mv_dhel([x, y]),
    "mv_dhel none": lambda m, x, y: m.mv_dhel([x, y], reduction="none").sum(),
    "pvc": lambda m, x, y: m.pvc([x, y]),
    "kcl": lambda m, x, y: m.kcl(x, y),
    "kcl log": lambda m, x, y: m.kcl(x, y, kernel="log"),
    "kcl riesz": lambda m, x, y: m.kcl(x, y, kernel="riesz"),
    "cuaxu": lambda m, x, y: m.cuaxu(x, y),
    "uniformity": lambda m, x, y: m.uniformity(x, y),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_saves_rows_not_pairs(backend, name):
    """Twice the rows, twice the bytes: a few copies of the features and some numbers per row."""
    used = [
        saved_bytes(lambda x, y: LOSSES[name](Using(contrastile, backend), x, y), unit(n, 1), unit(n, 2))
        for n in (512, 1024)
    ]
    assert used[1] <= 2 * used[0] + 4096
    assert used[1] <= 6 * 1024 * D * 4 + 64 * 1024


class Using:
    """contrastile's functions with a backend filled in."""

    def __init__(self, module, backend):
        self.module, self.backend = module, backend

    def __getattr__(self, name):
        return lambda *args, **kwargs: getattr(self.module, name)(*args, backend=self.backend, **kwargs)


@pytest.mark.parametrize("name", ["info_nce", "clip_loss", "siglip_loss", "nt_xent"])
def test_the_dense_reference_saves_pairs(name):
    """The measure itself works: it sees the N x N matrix where there is one."""
    used = saved_bytes(lambda x, y: LOSSES[name](reference, x, y), unit(512, 1), unit(512, 2))
    assert used >= 512 * 512 * 4


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_by_default_all_scores_of_a_small_problem_are_kept_or_none(backend, monkeypatch):
    a, b = unit(600, 1), unit(700, 2)
    without = saved_bytes(lambda x, y: pair_reduce(x, y, memory_budget=0, backend=backend).rows, a, b)
    for limit, least, most in ((600 * 700 * 4 - 1, 0, 0), (600 * 700 * 4, 600 * 600 * 4, 600 * 700 * 4)):
        monkeypatch.setattr(pair, "STATS_BUDGET", limit)
        kept = saved_bytes(lambda x, y: pair_reduce(x, y, backend=backend).rows, a, b) - without
        assert least <= kept <= most


@pytest.mark.parametrize("budget", [0, 100_000, 10 * MIB])
@pytest.mark.parametrize("m", [700, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_budget_bounds_what_is_kept_for_backward(backend, m, budget):
    a, b = unit(600, 1), None if m is None else unit(m, 2)
    leaves = [x for x in (a, b) if x is not None]

    def rows(*_):
        return pair_reduce(a, b, cols=True, memory_budget=budget, backend=backend).rows

    without = saved_bytes(lambda *_: pair_reduce(a, b, cols=True, backend=backend).rows, *leaves)
    assert saved_bytes(rows, *leaves) <= without + budget
    if budget > 600 * 800 * 4:
        assert saved_bytes(rows, *leaves) >= without + 600 * 600 * 4 / 2  # it is used, too


@pytest.mark.parametrize("backend", BACKENDS)
def test_pair_loss_keeps_no_scores(backend):
    a, b = unit(600, 1), unit(700, 2)
    used = saved_bytes(lambda *_: pair_loss(a, b, cols=True, backend=backend), a, b)
    assert used <= 2 * 1300 * D * 4


# ---- peak of a process

PROBE = """
import re, sys, torch, contrastile
from pathlib import Path

torch.set_num_threads(2)

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def step(n):
    x, y = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1).requires_grad_() for _ in "ab")
    CALL.backward()

step(40)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = peak()
step(ROWS)
print(peak() - before)
"""
CLIP = "contrastile.clip_loss(x, y, 14.3, backend={!r}, memory_budget={})"
CLIP_ROWS = CLIP[:-1] + ", reduction='none').sum()"
needs_linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")


def peak_bytes(call, rows=8192):
    """Peak memory of forward and backward at D = 64, beyond what the process had before."""
    path = str(Path(contrastile.__file__).parents[1])
    # glibc: a fixed threshold gives every freed block back at once, so that none hides in the base
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    code = PROBE.replace("CALL", call).replace("ROWS", str(rows))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@needs_linux
def test_the_dense_reference_peaks_above_the_matrix():
    assert peak_bytes("contrastile.reference.clip_loss(x, y, 14.3)") > 8192 * 8192 * 4


@needs_linux
@pytest.mark.parametrize("call, budget", each_once((CLIP, CLIP_ROWS), (0, 100 * MIB)))
def test_the_peak_of_the_cpu_backend(call, budget):
    """Less than a third of the N x N float32 matrix, and no more than the budget beyond that."""
    assert peak_bytes(call.format("cpu", budget)) < 8192 * 8192 * 4 / 3 + budget


@needs_linux
def test_the_peak_with_the_default_budget():
    """pair_loss may hold 64 MiB of scores unless told otherwise."""
    assert peak_bytes(CLIP.format("cpu", None)) < 8192 * 8192 * 4 / 3 + 64 * MIB


@needs_linux
def test_the_peak_of_the_torch_backend():
    """Its chunks have several temporaries of the workspace's size, whatever N."""
    assert peak_bytes(CLIP.format("torch", 0), rows=12288) < 12288 * 12288 * 4 / 2


# ---- a GPU's, which is not there: torch's meta device has its blocks, and no memory


class LiveBytes(TorchDispatchMode):
    """peak: the most bytes that what was made inside held at a time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == "contrastile::pair_loss":
            with self:
                return library.pair_loss(*args)
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: found for key, found in self.live.items() if not found[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_of_the_torch_backend_on_a_gpu(dtype, monkeypatch):
    """The case of test_gpu.py, whose limit is a quarter of the matrix; the rest is for the caching allocator's gaps."""
    for module in (products, torch_tiles):
        monkeypatch.setattr(module, "mixed_product", lambda device, kind: kind == torch.bfloat16)
    monkeypatch.setattr(products, "writes_in_place", lambda device: True)
    n = 32768
    x, y = (torch.empty(n, 64, dtype=dtype, device="meta", requires_grad=True) for _ in range(2))
    with LiveBytes() as held:
        contrastile.clip_loss(x, y, 14.3, backend="torch").backward()
    assert 0.1 < held.peak / (n * n * 4 / 4) < 0.75

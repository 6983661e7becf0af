"""Memory is O(N D), never N x N: what autograd saves, and the peak of a process of its own."""

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import backends, pair_loss, pair_reduce
from contrastile.backends import products, torch_tiles
from contrastile.backends.waves import Pairs, best_block
from contrastile.catalog import CATALOG
from contrastile.ops import pair
from support.combinations import by_default, each_once
from support.loss_cases import differentiable, every_variant_once, id_of, leaves, make, takes
from support.memory import LiveBytes, needs_linux, peak_bytes, saved_bytes

D = 16
MIB = 2**20
BACKENDS = ("torch", "cpu")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """By default a small problem's scores are saved from forward to backward; here only what a call asks for is."""
    monkeypatch.setattr(pair, "STATS_BUDGET", 0)


def unit(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, D, generator=generator), dim=1).requires_grad_()


def held(card, function, variant, n, **options):
    """Bytes that autograd saves, and those of the features."""
    case = differentiable(make(card, variant, n, D))
    features = sum(x.untyped_storage().nbytes() for x in leaves(case) if x.dim() > 1)
    return saved_bytes(lambda *_: function(*case.args, **case.kwargs, **options).sum(), *leaves(case)), features


def assert_rows_not_pairs(card, variant, **options):
    """Twice the rows, twice the bytes: a few copies of the features and some numbers per row."""
    (few, _), (many, features) = (held(card, card.function, variant, n, **options) for n in (512, 1024))
    assert many <= 2 * few + 4096
    cleaned = "present" in make(card, variant, 2, D).kwargs  # features with zeros for what is missing: a copy of them
    assert many <= (card.copies + cleaned) * features


@every_variant_once("backend", BACKENDS)
def test_a_loss_saves_rows_not_pairs(card, variant, backend):
    assert_rows_not_pairs(card, variant, **on(card, backend))


@pytest.mark.parametrize("card", [card for card in CATALOG if takes(card, "reduction")], ids=id_of)
@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_of_rows_save_no_pairs_either(card, backend):
    assert_rows_not_pairs(card, next(iter(card.variants)), reduction="none", **on(card, backend))


def on(card, backend):
    if not card.gemm and backend != "torch":
        pytest.skip("no pairs, no backend")
    return {"backend": backend} if card.gemm else {}


@pytest.mark.parametrize("name", ["info_nce", "clip_loss", "siglip_loss", "nt_xent"])
def test_the_dense_reference_saves_pairs(name):
    """The measure itself works: it sees the N x N matrix where there is one."""
    card = next(card for card in CATALOG if card.name == name)
    assert held(card, card.reference, "default", 512)[0] >= 512 * 512 * 4


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

CLIP = "contrastile.clip_loss(x, y, 14.3, backend={!r}, memory_budget={})"
CLIP_ROWS = CLIP[:-1] + ", reduction='none').sum()"


@needs_linux
def test_the_dense_reference_peaks_above_the_matrix():
    assert peak_bytes("contrastile.reference.clip_loss(x, y, 14.3)", rows=4096) > 4096 * 4096 * 4


@needs_linux
@pytest.mark.parametrize("call, budget", each_once((CLIP, CLIP_ROWS), (0, 100 * MIB)))
def test_the_peak_of_the_cpu_backend(call, budget):
    """Less than a third of the N x N float32 matrix, and no more than the budget beyond that."""
    assert peak_bytes(call.format("cpu", budget)) < 8192 * 8192 * 4 / 3 + budget


@needs_linux
@pytest.mark.parametrize("cols", by_default((False, True), False))
def test_the_peak_with_a_teacher_on_the_cpu(cols):
    """Neither matrix is held, nor a third of one."""
    teacher = "targets=contrastile.Targets(y.detach(), x.detach(), 20.0)"
    call = f"contrastile.pair_loss(x, y, scale=14.3, cols={cols}, {teacher}, backend='cpu', memory_budget=0)"
    assert peak_bytes(call) < 8192 * 8192 * 4 / 3


@needs_linux
def test_the_peak_with_the_default_budget():
    """pair_loss may hold 64 MiB of scores unless told otherwise."""
    assert peak_bytes(CLIP.format("cpu", None)) < 8192 * 8192 * 4 / 3 + 64 * MIB


@needs_linux
def test_the_peak_of_the_torch_backend():
    """Its chunks have several temporaries of the workspace's size, whatever N."""
    assert peak_bytes(CLIP.format("torch", 0), rows=12288) < 12288 * 12288 * 4 / 2


# ---- a GPU's, which is not there: torch's meta device has its blocks, and no memory


@pytest.mark.parametrize(
    "dtype, options",
    [(torch.float32, {}), (torch.bfloat16, {}), (torch.bfloat16, {"matryoshka": (16, 64), "normalize": True})],
)
def test_the_peak_of_the_torch_backend_on_a_gpu(dtype, options, monkeypatch):
    """The case of test_gpu.py, whose limit is a quarter of the matrix; the rest is for the caching allocator's gaps."""
    for module in (products, torch_tiles):
        monkeypatch.setattr(module, "mixed_product", lambda device, kind: kind == torch.bfloat16)
    monkeypatch.setattr(products, "writes_in_place", lambda device: True)
    n = 32768
    x, y = (torch.empty(n, 64, dtype=dtype, device="meta", requires_grad=True) for _ in range(2))
    with LiveBytes() as held:
        contrastile.clip_loss(x, y, 14.3, backend="torch", **options).backward()
    assert 0.1 < held.peak / (n * n * 4 / 4) < 0.75


GPU_PEAKS = {  # bytes of a pair of a block: score gradients of halves, beside float32 scores on `cuda`
    "triton": 2, "cuda": 4 + 2,
}  # fmt: skip


@pytest.mark.parametrize("backend", GPU_PEAKS)
@pytest.mark.parametrize("n, d", [(32_768, 64), (65_536, 768)])
def test_the_peak_of_the_kernels_backends_on_a_gpu(backend, n, d, kernels_left_out, monkeypatch):
    """One block's pairs, float32 gradients and their copies for autograd; partial statistics are little. At D = 64 the
    case of test_gpu.py."""
    pytest.importorskip("triton")
    monkeypatch.setattr(products, "mixed_product", lambda device, kind: kind == torch.bfloat16)
    monkeypatch.setattr(products, "writes_in_place", lambda device: True)
    x, y = (torch.empty(n, d, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(2))
    with LiveBytes() as held:
        contrastile.clip_loss(x, y, 14.3, backend=backend, memory_budget=0).backward()
    limits = next(x for x in backends.BACKENDS if x.name == backend).limits(x.device)
    block = best_block(Pairs(n, n, d), limits.workspace // min(GPU_PEAKS[backend], 4), limits.min_chunk, False, 132)
    expected = block.rows * block.cols * GPU_PEAKS[backend] + 2 * n * d * (4 + 2)
    assert 0.9 * expected < held.peak < 1.1 * expected
    assert d != 64 or held.peak < 0.85 * n * n * 4 / 4


@needs_linux
def test_the_peak_does_not_depend_on_what_the_heap_held():
    """Score gradients of all chunks lie in the same memory, wherever the C library would put the next ones."""
    call = "contrastile.row_lse(x, y, scale=10.0, memory_budget=0, backend='cpu').sum()"
    assert peak_bytes(call, rows=8000, grown=True) < 1.5 * peak_bytes(call, rows=8000)

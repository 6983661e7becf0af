"""Tracers that cannot record a loss, and tensors that are not dense, are refused by name."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

import contrastile
from contrastile import metrics
from support.loss_cases import call, default, each_tensor, every_loss

X, Y, Z = torch.nn.functional.normalize(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)), dim=2)
IDS = torch.arange(8) // 2
OF_ONE_SET = ("anisotropy", "effective_rank", "wasserstein_uniformity")
OF_OTHER_THINGS = (*OF_ONE_SET, "InBatch", "RetrievalRanks", "mean_rank_variance")  # numbers of ranks
OTHERS = {
    "pair_loss": contrastile.pair_loss,
    "pair_reduce": lambda x, y: contrastile.pair_reduce(x, y).rows,
    "row_lse": contrastile.row_lse,
    "segment_reduce": lambda x, y: contrastile.segment_reduce(x, y, 2),
    "maxsim": lambda x, y: contrastile.maxsim(x[:, None], y[:, None]),
    "singular_alignment": lambda x, y: contrastile.losses.singular_alignment(x, y),
    "gram_volume": lambda x, y: contrastile.gram_volume(x, y),
    "gram_volume_matrix": contrastile.gram_volume_matrix,
    "area": lambda x, y: contrastile.losses.area(x, y, Z),
    "volume_computation": contrastile.losses.volume_computation,
    "mip_similarity": lambda x, y: contrastile.mip_similarity(x, [y, Z]),
    "pairwise_aggregate": lambda x, y: contrastile.pairwise_aggregate([x, y], contrastile.nt_xent),
    **{name: getattr(metrics, name) for name in metrics.__all__ if name not in OF_OTHER_THINGS},
    "anisotropy": lambda x, y: metrics.anisotropy(x),
    "effective_rank": lambda x, y: metrics.effective_rank(x),
    "wasserstein_uniformity": lambda x, y: metrics.wasserstein_uniformity(x),
    "neg_label_score": lambda x, y: metrics.neg_label_score(x, y, Z),
    "modality_integration_rate": lambda x, y: metrics.modality_integration_rate([x], [y]),
}
on_others = pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
REFUSED = r"contrastile: torch\.{} is not supported; use torch\.export or torch\.compile.*contrastile\.reference"


def refused(tracer):
    return pytest.raises(RuntimeError, match=REFUSED.format(tracer))


@every_loss
def test_jit_trace_refuses_every_loss(card):
    case = default(card)
    rest = case.args[1:]
    with refused(r"jit\.trace"):
        torch.jit.trace(lambda x: card.function(x, *rest, **case.kwargs), (case.args[0],), check_trace=False)


@on_others
def test_jit_trace_refuses_every_other_function(function):
    with refused(r"jit\.trace"):
        torch.jit.trace(function, (X, Y), check_trace=False)


@every_loss
@pytest.mark.filterwarnings("ignore")  # of torch: the trace is of one batch size
def test_jit_trace_takes_the_references(card):
    """What the refusal recommends."""
    case = default(card)
    function = functools.partial(card.reference, **case.kwargs)
    traced = torch.jit.trace(lambda *args: function(*args), case.args, check_trace=False)
    torch.testing.assert_close(traced(*case.args), function(*case.args))


def test_symbolic_trace_is_refused():
    for function in (
        lambda x: contrastile.info_nce(x, x),
        lambda x: contrastile.mv_infonce(x),
        lambda x: contrastile.row_lse(x),
    ):
        with refused(r"fx\.symbolic_trace"):
            torch.fx.symbolic_trace(function)
    with refused(r"fx\.symbolic_trace"):
        torch.fx.symbolic_trace(lambda t: contrastile.info_nce(X, Y, temperature=t))


def test_functional_call_replaces_what_a_module_learns():
    module = contrastile.losses.InfoNCE(learnable_temperature=True)
    log_temperature = torch.tensor(-1.0, requires_grad=True)
    found = torch.func.functional_call(module, {"log_temperature": log_temperature}, (X, Y))
    factor = log_temperature.detach().exp().requires_grad_()
    expected = contrastile.info_nce(X, Y, temperature=factor)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(log_temperature.grad, factor.grad * factor.detach())


# ---- layouts

NOT_DENSE = {
    "sparse": (torch.Tensor.to_sparse, r"layout torch\.sparse_coo"),
    "csr": (torch.Tensor.to_sparse_csr, r"layout torch\.sparse_csr"),
    "bsr": (lambda x: x.to_sparse_bsr((1, 1)), r"layout torch\.sparse_bsr"),
    "mkldnn": (torch.Tensor.to_mkldnn, r"layout torch\._mkldnn"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), r"nested one \(layout torch\.strided"),
    "jagged": (
        lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
        r"nested one \(layout torch\.jagged",
    ),
}
every_layout = pytest.mark.parametrize("change, said", NOT_DENSE.values(), ids=NOT_DENSE)


@every_loss
@every_layout
@pytest.mark.filterwarnings("ignore")
def test_layouts_of_features_are_refused(card, change, said):
    case = default(card)
    if case.args[0].dim() > 2:
        pytest.skip("takes one tensor of three dimensions")
    with pytest.raises(TypeError, match=rf"^[a-z_]\w*(\[\d\])? must be a dense tensor, got .*{said}"):
        call(card, each_tensor(case, lambda x: change(x) if x.dim() > 1 else x))


VECTORS = {
    "scale": lambda v: contrastile.pair_loss(X, Y, scale=v(torch.ones(8))),
    "row_bias": lambda v: contrastile.pair_loss(X, Y, row_bias=v(torch.ones(8))),
    "row_weight": lambda v: contrastile.pair_loss(X, Y, row_weight=v(torch.ones(8))),
    "row_ids": lambda v: contrastile.pair_loss(X, keep="other_id", row_ids=v(IDS)),
    "mask": lambda v: contrastile.pair_loss(X, Y, mask=v(torch.ones(8, 8, dtype=torch.bool))),
    "temperature": lambda v: contrastile.info_nce(X, Y, temperature=v(torch.ones(8))),
    "logit_scale": lambda v: contrastile.clip_loss(X, Y, v(torch.tensor(5.0))),
    "labels": lambda v: contrastile.sup_con(X, v(IDS)),
    "segments": lambda v: contrastile.segment_reduce(X, Y, v(torch.tensor([0, 8]))),
    "views": lambda v: contrastile.mv_infonce(v(torch.stack([X, Y]))),
}


@pytest.mark.parametrize("name", VECTORS)
def test_layouts_of_every_other_tensor_are_refused(name):
    with pytest.raises(TypeError, match=rf"^{name} must be a dense tensor, got layout torch\.sparse_coo"):
        VECTORS[name](torch.Tensor.to_sparse)


def test_distributed_tensors_are_refused_with_what_to_do(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

        mesh = init_device_mesh("cpu", (1,))
        there = functools.partial(distribute_tensor, device_mesh=mesh, placements=[Replicate()])
        whole = r"must be an ordinary tensor here, got a DTensor.*full_tensor\("
        rows = r"must be sharded by rows, Shard\(0\), got a DTensor with Replicate\(\).*redistribute\("
        words = dict.fromkeys(("logit_scale", "views"), whole)
        for name, message in {**words, **dict.fromkeys(("scale", "row_bias", "temperature", "labels"), rows)}.items():
            with pytest.raises(TypeError, match=f"^{name} {message}"):
                VECTORS[name](there)
    finally:
        dist.destroy_process_group()


class Subclass(torch.Tensor):
    pass


def test_tensors_that_behave_like_dense_ones_are_taken():
    for x in (nn.Parameter(X.clone()), X.as_subclass(Subclass), nn.Buffer(X.clone())):
        torch.testing.assert_close(contrastile.nt_xent(x, Y).as_subclass(torch.Tensor), contrastile.nt_xent(X, Y))

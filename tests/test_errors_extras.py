"""Bad ids, extra negatives and combinations of options, and bad vectors, masks and weights of the engine."""

import math
import re

import pytest
import torch

import contrastile
from contrastile import pair_loss, pair_reduce
from support.refusals import IDS, N, X, Y, refuses

ENGINES = pytest.mark.parametrize("engine", [pair_reduce, pair_loss])

# ---- ids

ID_ARGUMENTS = {
    "query_ids": lambda ids: contrastile.info_nce(X, Y, query_ids=ids),
    "key_ids": lambda ids: contrastile.info_nce(X, Y, query_ids=IDS, key_ids=ids),
    "negative_ids": lambda ids: contrastile.info_nce(X, Y, negatives=Y, query_ids=IDS, negative_ids=ids),
    "image_ids": lambda ids: contrastile.clip_loss(X, Y, 5.0, image_ids=ids),
    "text_ids": lambda ids: contrastile.siglip_loss(X, Y, 5.0, image_ids=IDS, text_ids=ids),
    "image_labels": lambda ids: contrastile.siglip_loss(X, Y, 5.0, image_labels=ids),
    "text_labels": lambda ids: contrastile.siglip_loss(X, Y, 5.0, image_labels=IDS, text_labels=ids),
    "labels": lambda ids: contrastile.sup_con(X, ids),
    "row_ids": lambda ids: pair_reduce(X, Y, keep="other_id", row_ids=ids, col_ids=IDS),
    "col_ids": lambda ids: pair_loss(X, Y, keep="same_id", row_ids=IDS, col_ids=ids),
}
on_ids = pytest.mark.parametrize("name", ID_ARGUMENTS)


@on_ids
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64, torch.uint64], ids=str)
def test_ids_of_a_wrong_type(name, dtype):
    with refuses(TypeError, f"^{name} must be int64, int32", f"got {dtype}"):
        ID_ARGUMENTS[name](IDS.to(dtype))


@on_ids
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_ids_of_any_integer_type_are_the_same(name, dtype):
    found, expected = ID_ARGUMENTS[name](IDS.to(dtype)), ID_ARGUMENTS[name](IDS)
    if name == "row_ids":
        found, expected = found.rows, expected.rows
    assert torch.equal(found, expected)


@on_ids
def test_ids_of_a_wrong_shape_or_device(name):
    for ids in (IDS[:5], IDS[None], IDS[0]):
        with refuses(ValueError, rf"^{name} must have shape \(6,\)", f"got {re.escape(str(tuple(ids.shape)))}"):
            ID_ARGUMENTS[name](ids)
    with refuses(ValueError, f"^{name} must be on cpu", "got meta"):
        ID_ARGUMENTS[name](IDS.to("meta"))


@pytest.mark.parametrize("name", [name for name in ID_ARGUMENTS if name != "labels"])
def test_ids_that_are_no_tensor(name):
    """col_ids may be a list, of one tensor for each block of columns."""
    given, got = (3, "int") if name == "col_ids" else (IDS.tolist(), "list")
    with refuses(TypeError, f"^{name} must be a (torch.Tensor|tensor or a list of tensors)", f"got {got}"):
        ID_ARGUMENTS[name](given)


def test_ids_need_each_other():
    with refuses(ValueError, "key_ids", "need query_ids"):
        contrastile.info_nce(X, Y, key_ids=IDS)
    with refuses(ValueError, "negative_ids", "need query_ids"):
        contrastile.info_nce(X, Y, negatives=Y, negative_ids=IDS)
    with refuses(ValueError, "negative_ids need negatives"):
        contrastile.info_nce(X, Y, query_ids=IDS, negative_ids=IDS)
    for loss in (contrastile.clip_loss, contrastile.siglip_loss):
        with refuses(ValueError, "text_ids need image_ids"):
            loss(X, Y, 5.0, text_ids=IDS)
    with refuses(ValueError, "text_labels need image_labels"):
        contrastile.siglip_loss(X, Y, 5.0, text_labels=IDS)
    with refuses(ValueError, "image_ids must be None with image_labels"):
        contrastile.siglip_loss(X, Y, 5.0, image_ids=IDS, image_labels=IDS)


@ENGINES
@pytest.mark.parametrize("given", [{"row_ids": IDS}, {"col_ids": IDS}])
def test_the_engine_needs_ids_of_both_sides(engine, given):
    with refuses(ValueError, "row_ids and col_ids"):
        engine(X, Y, keep="other_id", **given)


@ENGINES
@pytest.mark.parametrize("option", [{"keep": "same_id"}, {"keep": "other_id"}, {"positives": "same_id"}])
def test_the_engine_needs_ids_for_rules_about_ids(engine, option):
    ((name, value),) = option.items()
    with refuses(ValueError, f"{name}='{value}'", "row_ids and col_ids"):
        engine(X, Y, **option)


# ---- extra negatives of info_nce and combinations


@pytest.mark.parametrize(
    "name, value, error, words",
    [
        ("negatives", Y[:, :3], ValueError, ("width of query", "4", "got 3")),
        ("negatives", Y[None], ValueError, ("must have shape", r"got \(1, 6, 4\)")),
        ("negatives", Y.long(), TypeError, ("float32", "got torch.int64")),
        ("negatives", Y.to("meta"), ValueError, ("on cpu", "got meta")),
        ("negatives", [Y], TypeError, ("torch.Tensor", "got list")),
        ("hard_negatives", Y, ValueError, (r"\(N, K, D\)", r"got \(6, 4\)")),
        ("hard_negatives", Y[:5, None], ValueError, (r"\(6, K, D\)", r"got \(5, 1, 4\)")),
        ("hard_negatives", Y[:, None, :3], ValueError, ("width of query", "got 3")),
        ("hard_negatives", Y[:, None].int(), TypeError, ("float32", "got torch.int32")),
        ("hard_negatives", Y[:, None].to("meta"), ValueError, ("on cpu", "got meta")),
        ("hard_negatives", [Y], TypeError, ("torch.Tensor", "got list")),
    ],
)
def test_extra_negatives(name, value, error, words):
    with refuses(error, f"^{name} must", *words):
        contrastile.info_nce(X, Y, **{name: value})


@pytest.mark.parametrize("extra", [{"negatives": Y[:0]}, {"hard_negatives": Y[:, None][:, :0]}])
def test_no_extra_negatives_at_all_are_fine(extra):
    assert torch.equal(contrastile.info_nce(X, Y, **extra), contrastile.info_nce(X, Y))


@pytest.mark.parametrize("other", [{"query_ids": IDS}, {"false_negative_margin": 0.1}])
def test_label_smoothing_goes_with_all_candidates_only(other):
    with refuses(ValueError, "label_smoothing cannot be combined", "ids"):
        contrastile.info_nce(X, Y, label_smoothing=0.1, **other)
    with refuses(ValueError, "label_smoothing cannot be combined", "ids"):
        contrastile.clip_loss(X, Y, 5.0, label_smoothing=0.1, image_ids=IDS)


# ---- vectors, masks and weights of the engine

VECTORS = ("col_scale", "row_bias", "col_bias", "row_high", "col_high")
WEIGHTS = ("row_weight", "row_positive_weight", "col_weight", "col_positive_weight")


def engine_call(name, value):
    engine = pair_loss if name in WEIGHTS else pair_reduce
    return engine(X, Y, cols=True, positives="same_index", **{name: value})


@pytest.mark.parametrize("name", [*VECTORS, *WEIGHTS])
def test_vectors(name):
    for value in (torch.ones(5), torch.ones(N, 1), torch.ones(())):
        with refuses(ValueError, rf"^{name} must have shape \(6,\)", f"got {re.escape(str(tuple(value.shape)))}"):
            engine_call(name, value)
    with refuses(TypeError, f"^{name} must be floating point", "got torch.int64"):
        engine_call(name, IDS)
    with refuses(ValueError, f"^{name} must be on cpu", "got meta"):
        engine_call(name, torch.ones(N, device="meta"))
    with refuses(TypeError, f"^{name} must be a", "got str"):
        engine_call(name, "1")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_known_beforehand(name):
    with refuses(ValueError, f"^{name} must not require grad"):
        engine_call(name, torch.ones(N, requires_grad=True))
    with refuses(ValueError, f"^{name} must be finite", "got nan"):
        engine_call(name, math.nan)


@pytest.mark.parametrize(
    "weight, needs",
    [("row_positive_weight", "positives"), ("col_weight", "cols"), ("col_positive_weight", "cols")],
)
def test_weights_without_their_statistic_are_refused(weight, needs):
    """Dropping them silently would change the loss."""
    with refuses(ValueError, weight, needs):
        pair_loss(X, Y, **{weight: 0.5})


@ENGINES
@pytest.mark.parametrize(
    "mask, error, words",
    [
        (torch.ones(N, N), TypeError, ("bool", "got torch.float32")),
        (torch.ones(N, 5, dtype=torch.bool), ValueError, (r"\(6, 6\)", r"got \(6, 5\)")),
        (torch.ones(N, N, dtype=torch.bool, device="meta"), ValueError, ("on cpu", "got meta")),
        (1, TypeError, ("torch.Tensor", "got int")),
    ],
)
def test_masks(engine, mask, error, words):
    with refuses(error, "^mask must", *words):
        engine(X, Y, mask=mask)


@ENGINES
def test_blocks_of_columns(engine):
    with refuses(ValueError, "^b must hold at least one block", "got an empty"):
        engine(X, [])
    with refuses(TypeError, r"^b\[1\] must", "got int"):
        engine(X, [Y, 3])
    with refuses(ValueError, r"^b\[1\] must have the width of a", "got 3"):
        engine(X, [Y, Y[:, :3]])


@ENGINES
def test_the_scale_of_the_engine(engine):
    with refuses(TypeError, "^scale must be", "got str"):
        engine(X, Y, scale="1")
    with refuses(ValueError, "^scale must be", r"got shape \(5,\)"):
        engine(X, Y, scale=torch.ones(5))
    with refuses(ValueError, "^scale must be finite", "got nan"):
        engine(X, Y, scale=math.nan)


@ENGINES
@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, "float32"])
def test_the_type_to_multiply_in(engine, dtype):
    with refuses((ValueError, TypeError), "^compute_dtype must be", f"got {dtype}"):
        engine(X, Y, compute_dtype=dtype)


def test_what_the_maximum_cannot_do():
    with refuses(ValueError, "reduce='max'", "positives"):
        pair_reduce(X, Y, reduce="max", positives="same_index")
    with refuses(ValueError, "reduce='max'", "pair_reduce"):
        pair_loss(X, Y, reduce="max")


@pytest.mark.parametrize("name, value", [("reduce", "max"), ("normalize", True), ("cols", True)])
def test_row_lse_refuses_in_its_own_name(name, value):
    with refuses(TypeError, r"^row_lse\(\) got an unexpected", name):
        contrastile.row_lse(X, Y, **{name: value})

"""Bad input: ValueError or TypeError whose message names the argument, what was expected and what came."""

import math

import pytest
import torch

import contrastile
from contrastile import BackendUnsupported, available_backends, pair_loss, pair_reduce, row_lse
from contrastile.catalog import CATALOG
from support.loss_cases import call, default, emptied, every_loss, every_pair_loss, id_of, required, takes
from support.refusals import IDS, N, X, Y, refuses

ENGINES = {"pair_reduce": pair_reduce, "row_lse": row_lse, "pair_loss": pair_loss}
# one argument holds all features, or they are of different shapes: tests of their own
ONE_BATCH = {"sup_con", "mv_infonce", "mv_dhel", "pvc", "mil_nce", "prototype_loss", "global_local_info_nce"}
ONE_BATCH |= {"joint_entropy", "multiview_clip_loss", "late_interaction_info_nce", "word_region_loss", "fdt_loss"}
PAIRS = {card.name: card.function for card in CATALOG if card.name not in ONE_BATCH} | ENGINES
PAIRS["triangle_loss"] = lambda anchor, x, **options: contrastile.triangle_loss(anchor, x, x, **options)
PAIRS |= {
    "distill_info_nce": lambda x, y, **options: contrastile.distill_info_nce(x, y, X, **options),
    "clip_distill_loss": lambda x, y, **options: contrastile.clip_distill_loss(x, y, X, Y, **options),
    "hydra_loss": lambda x, y, **options: contrastile.hydra_loss(x, y, IDS, IDS, **options),
    "multi_positive": lambda x, y, **options: contrastile.multi_positive(x, y, IDS, IDS, **options),
    "margin_info_nce": lambda x, y, **options: contrastile.margin_info_nce(x, y, margin=0.1, **options),
    "cma_loss": lambda x, y, **options: contrastile.cma_loss(x, y, lam=0.1, **options),
    "mixup_info_nce": lambda x, y, **options: contrastile.mixup_info_nce(x, y, IDS, 0.5, **options),
    "m2_mix": lambda x, y, **options: contrastile.m2_mix(x, y, 0.5, **options),
    "grouped_info_nce": lambda x, y, **options: contrastile.grouped_info_nce(x, y, Y[:, None], **options),
    "grouped_margin_loss": lambda x, y, **o: contrastile.grouped_margin_loss(x, y, Y[:, None], margin=0.1, **o),
    "block_info_nce": lambda x, y, **options: contrastile.block_info_nce(x, y, 2, **options),
}
PAIRS["linear_cross_entropy"] = lambda x, y, **options: contrastile.linear_cross_entropy(x, y, IDS, **options)
SCALED = {"clip_loss", "siglip_loss", "symile_loss", "clip_distill_loss", "cwcl_loss", "cma_loss"}
GATHERED = {
    "info_nce",
    "gram_loss",
    "triangle_loss",
    "multi_positive",
    "linear_cross_entropy",
}  # more columns than rows
TOKENS = {"cosine_loss", "linear_cross_entropy", "dino_loss"}  # take features of three dimensions, too
NAMES = {  # what each function calls its two batches
    "info_nce": ("query", "key"), "debiased_info_nce": ("query", "key"),
    **dict.fromkeys(("clip_loss", "siglip_loss", "cua", "cuaxu"), ("image_features", "text_features")),
    **dict.fromkeys(("distill_info_nce", "multi_positive"), ("query", "key")),
    "clip_distill_loss": ("image_features", "text_features"),
    "softclip_loss": ("x", "y"), "cwcl_loss": ("anchor", "other"), "hydra_loss": ("x", "gate"),
    **dict.fromkeys(("grouped_info_nce", "grouped_margin_loss"), ("query", "positive")),
    "margin_info_nce": ("query", "key"), "cma_loss": ("image_features", "text_features"),
    "mixup_info_nce": ("mixed", "clean"), **dict.fromkeys(("m2_mix", "block_info_nce", "m3el_loss"), ("x", "y")),
    "uniformity": ("x", "y"), "alignment": ("x", "y"), **dict.fromkeys(ENGINES, ("a", "b")),
    **dict.fromkeys(("in_modal_consistency", "cross_modal_consistency", "cosine_loss"), ("x", "y")),
    "linear_cross_entropy": ("hidden", "weight"), "dino_loss": ("student", "teacher"),
    "symile_loss": (r"modalities\[0\]", r"modalities\[1\]"), "pmrl_loss": (r"modalities\[0\]", r"modalities\[1\]"),
    "gram_loss": ("anchor", "others"), "triangle_loss": ("anchor", "x"),
}  # fmt: skip


def names(function):
    return NAMES.get(function, ("z1", "z2"))


def run(name, x, y, **options):
    scale = {"logit_scale": 5.0} if name in SCALED else {}
    return PAIRS[name](x, y, **scale, **options)


# ---- features

BAD_FEATURES = {
    "one dimension": (X[0], ValueError, r"\(N, D\)", r"got \(4,\)"),
    "three dimensions": (X[None], ValueError, r"\(N, D\)", r"got \(1, 6, 4\)"),
    "integers": (X.long(), TypeError, "float32", "got torch.int64"),
    "complex": (X.cfloat(), TypeError, "float32", "got torch.complex64"),
    "bool": (X > 0, TypeError, "float32", "got torch.bool"),
    "a list": ([[1.0]], TypeError, "torch.Tensor", "got list"),
    "a number": (1.0, TypeError, "torch.Tensor", "got float"),
}
on_bad_features = pytest.mark.parametrize("bad", BAD_FEATURES.values(), ids=BAD_FEATURES.keys())
on_pairs = pytest.mark.parametrize("name", PAIRS)


@on_pairs
@on_bad_features
def test_first_batch(name, bad):
    x, error, *words = bad
    if name in TOKENS and getattr(x, "ndim", 0) == 3:
        pytest.skip("features of tokens or views")
    with refuses(error, f"^{names(name)[0]} must", *words):
        run(name, x, Y)


@on_pairs
@on_bad_features
def test_second_batch(name, bad):
    y, error, *words = bad
    if name in ENGINES:  # b may be a list of blocks
        words = [word.replace("torch.Tensor", "[tT]ensor") for word in words]
    with refuses(error, rf"^{names(name)[1]}(\[0\])? must", *words):
        run(name, X, y)


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in (*ENGINES, *GATHERED)])
def test_batches_of_different_lengths(name):
    x_name, y_name = names(name)
    with refuses(ValueError, y_name, f"shape of {x_name}", r"\(6, 4\)", r"got \(5, 4\)"):
        run(name, X, Y[:5])


@on_pairs
def test_batches_of_different_widths(name):
    x_name, y_name = names(name)
    with refuses(ValueError, y_name, x_name, "4", "got .*3"):
        run(name, X, Y[:, :3])


@on_pairs
def test_batches_on_different_devices(name):
    with refuses(ValueError, names(name)[1], "cpu", "got meta"):
        run(name, X, Y.to("meta"))


@pytest.mark.parametrize(
    "features, labels, error, words",
    [
        (X[0], IDS, ValueError, ("^features must have shape", r"\(N, D\)", r"got \(4,\)")),
        (X[None, None], IDS, ValueError, ("^features must have shape", r"got \(1, 1, 6, 4\)")),
        (X.int(), IDS, TypeError, ("^features must", "got torch.int32")),
        (X, None, TypeError, ("^labels must", "got NoneType")),
    ],
)
def test_features_of_sup_con(features, labels, error, words):
    with refuses(error, *words):
        contrastile.sup_con(features, labels)


# ---- numbers: temperatures, scales, biases, exponents

NUMBERS = {"temperature", "t", "sigma", "tau_plus", "alpha", "logit_scale", "logit_bias", "label_smoothing"}
NUMBERS |= {"false_negative_margin", "gamma", "clip_weight", "uniformity_weight", "alignment_weight"}
NUMBERS |= {"cross_uniformity_weight"}
POSITIVE = {"temperature", "t", "sigma", "alpha"}
SHARES = {"tau_plus", "label_smoothing"}
WITH_NUMBER = [(card, name) for card in CATALOG for name in sorted(NUMBERS) if takes(card, name)]
on_numbers = pytest.mark.parametrize("card, name", WITH_NUMBER, ids=id_of)


def with_number(card, name, value):
    case = default(card)
    tensors = [x for x in case.args if x.dim()]
    scale = {"logit_scale": 5.0} if takes(card, "logit_scale") else {}
    return card.function(*tensors, **{**required(card, case), **scale, name: value})


@on_numbers
@pytest.mark.parametrize("value", ["0.1", True, [0.1], 1j, torch.tensor(1), torch.tensor(1j)], ids=repr)
def test_things_that_are_no_numbers(card, name, value):
    came = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
    with refuses(TypeError, f"^{name} must be", f"got {came}"):
        with_number(card, name, value)


@on_numbers
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(card, name, value):
    with refuses(ValueError, f"^{name} must be", f"got {value}"):
        with_number(card, name, value)


@on_numbers
def test_numbers_out_of_range(card, name):
    bad = [0, 0.0, -0.1] if name in POSITIVE else [-0.1, 1.0, 1.5] if name in SHARES else []
    if name == "alpha" and card.name != "alignment":  # the share of a teacher, which may be all or nothing
        bad = [-0.1, 1.5]
    for value in bad:
        with refuses(ValueError, f"^{name} must be", f"got {value}"):
            with_number(card, name, value)


@on_numbers
def test_numbers_as_tensors_of_the_wrong_shape_or_device(card, name):
    with refuses(ValueError, f"^{name} must be", r"got .*\b2\b"):
        with_number(card, name, torch.ones(2))
    with refuses(ValueError, f"^{name} must be", "got .*meta"):
        with_number(card, name, torch.ones((), device="meta"))


def test_a_temperature_per_row():
    with refuses(ValueError, "^temperature must", r"got shape \(5,\)"):
        contrastile.info_nce(X, Y, temperature=torch.ones(5))
    with refuses(ValueError, "^temperature must be on cpu", "got meta"):
        contrastile.info_nce(X, Y, temperature=torch.ones(N, device="meta"))


# ---- choices

CHOICES = {"reduction": ["avg", "MEAN", None, 1, ["mean"]], "backend": ["gpu", "CPU", "", None, 1, ["cpu"]]}


@every_loss
@pytest.mark.parametrize("option", CHOICES)
def test_unknown_choices(card, option):
    if not takes(card, option):
        pytest.skip(f"has no {option}")
    for value in CHOICES[option]:
        with pytest.raises(ValueError) as error:
            call(card, default(card), **{option: value})
        message = str(error.value)
        assert message.startswith(f"{option} must be one of")
        assert message.endswith(f"got {value!r}")
        assert ("'mean'" if option == "reduction" else "'auto'") in message


@pytest.mark.parametrize("engine", [pair_reduce, pair_loss])
@pytest.mark.parametrize("option", ["reduce", "keep", "positives", "backend"])
@pytest.mark.parametrize("value", ["nothing", 3, ["all"]], ids=repr)
def test_unknown_choices_of_the_engine(engine, option, value):
    with pytest.raises((ValueError, TypeError)) as error:
        engine(X, Y, **{option: value})
    assert str(error.value).startswith(f"{option} must be")
    assert str(error.value).endswith(f"got {value!r}")


@every_pair_loss
def test_memory_budgets(card):
    for value, error in ((-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)):
        with refuses(error, "^memory_budget must be", f"got {value if error is ValueError else type(value).__name__}"):
            call(card, default(card), memory_budget=value)
    call(card, default(card), memory_budget=10**30)


@every_pair_loss
def test_options_are_checked_for_empty_batches_too(card):
    """A misspelt option must not wait for the first batch that is large enough."""
    empty = emptied(default(card))
    for option, value in (("backend", "gpu"), ("memory_budget", -1), ("reduction", "avg")):
        if takes(card, option):
            with refuses(ValueError, f"^{option} must be"):
                call(card, empty, **{option: value})


@every_loss
def test_misspelt_options_and_positional_ones(card):
    with refuses(TypeError, "temprature"):
        call(card, default(card), temprature=0.1)
    if card.name not in ("symile_loss", "gram_loss", "pmrl_loss"):  # take any number of batches
        with refuses(TypeError, "positional"):
            card.function(X, Y, 5.0, 0.0, 0.1, 0.1, 0.1)


# ---- backends


def test_a_named_backend_that_cannot_run_says_why_and_why_the_others_cannot():
    for loss in (contrastile.info_nce, contrastile.nt_xent, contrastile.uniformity, pair_reduce, pair_loss):
        with pytest.raises(BackendUnsupported) as error:
            loss(X.double(), Y.double(), backend="cpu")
        assert "'cpu' cannot run" in str(error.value)
        assert "torch.float64" in str(error.value)
        assert all(f"{name}: " in str(error.value) for name in available_backends())


@pytest.mark.parametrize("mode", ["mean", "none"])
def test_a_named_backend_never_falls_back_on_another_device(mode):
    x = X.to("meta")
    with refuses(BackendUnsupported, "'cpu' cannot run", "on meta"):
        contrastile.info_nce(x, x, backend="cpu", reduction=mode)


def test_unsupported_backends_are_runtime_errors_not_bad_arguments():
    assert issubclass(BackendUnsupported, RuntimeError)
    assert not issubclass(BackendUnsupported, ValueError | TypeError)

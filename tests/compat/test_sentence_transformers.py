"""The sentence-transformers drop-ins against the package's own losses, run whole on known embeddings.

The package in float64 is the truth and in float32 the twin, see support/pairing.py.
"""

import copy
import inspect
import itertools
import pickle
import weakref
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from contrastile.catalog import Case
from contrastile.compat.columns import propagated
from support.pairing import assert_agreement
from support.sentence_encoders import Given
from support.views import free_rows, unit_rows

from .sentence_losses import guided_like, made, ours, peer, whole

from sentence_transformers import util  # isort: skip  (skipped with the encoders)

pytestmark = pytest.mark.peers

OTHERS = ("query_to_query", "doc_to_query", "doc_to_doc")
DIRECTIONS = [("query_to_doc", *some) for r in range(4) for some in itertools.combinations(OTHERS, r)]
PARTITIONS = [("joint", directions) for directions in DIRECTIONS] + [
    ("per_direction", ("query_to_doc",)),
    ("per_direction", ("query_to_doc", "doc_to_query")),
]
HARDNESS = (None, "in_batch_negatives", "hard_negatives", "all_negatives")
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
EVERYTHING = {"directions": DIRECTIONS[-1], "hardness_mode": "all_negatives", "hardness_strength": 9.0}
SOME = [{}, SYMMETRIC, EVERYTHING, {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0}]
NAMES = ["MultipleNegativesRankingLoss", "GISTEmbedLoss"]
CACHED = ["CachedMultipleNegativesRankingLoss", "CachedGISTEmbedLoss"]
SYMMETRIC_NAMES = ["MultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesSymmetricRankingLoss"]
ALL_NAMES = NAMES + CACHED + SYMMETRIC_NAMES


def columns(n, d, k, dtype=torch.float32, make=free_rows):
    """An anchor, its positive, k - 1 hard negatives between the two and noise."""
    anchor = unit_rows(n, d, seed=n)
    weights = [0.0] + [1.2 + 0.4 * i for i in range(k)]
    lengths = make(n * (k + 1), 1, seed=n).abs().view(k + 1, n, 1)
    noisy = [anchor + w * unit_rows(n, d, seed=n + 7 * i) for i, w in enumerate(weights)]
    unit = [torch.nn.functional.normalize(x, dim=1) for x in noisy]
    return tuple((x * s).to(dtype) for x, s in zip(unit, lengths, strict=True))


def check(name, case, wrap=None, backend="auto", memory_budget=None, **options):
    found = whole(ours, name, wrap, **options)
    assert_agreement(found, whole(peer, name, wrap, **options), case, backend=backend, memory_budget=memory_budget)


def ranking_case(n, d, k, dtype=torch.float32, scale=20.0, make=free_rows):
    return Case(columns(n, d, k, dtype, make), {}, scale)


def guided_case(n, d, k, dtype=torch.float32, temperature=0.05, guides=torch.float32):
    """The guide sees other numbers; some of its candidates are duplicates, which tie with the positive."""
    guided = [x.to(guides) for x in columns(n, d + 3, k, torch.float64)]
    if n > 5:
        guided[1][4] = guided[1][3]  # a positive given twice
        guided[1][2] = guided[0][2]  # a positive that equals its anchor
    return Case(columns(n, d, k, dtype), {f"guide_{i}": x for i, x in enumerate(guided)}, 1 / temperature)


# ---- values and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("hardness", HARDNESS)
@pytest.mark.parametrize(("partition", "directions"), PARTITIONS)
def test_every_combination_of_options(partition, directions, hardness, k):
    """k - 1 hard negatives. The strength is the one that the paper of the mode uses."""
    strength = {None: 0.0, "hard_negatives": 5.0}.get(hardness, 9.0)
    options = {"directions": directions, "partition_mode": partition, "hardness_mode": hardness}
    case = ranking_case(33, 12, k, scale=20.0 + strength)
    check("MultipleNegativesRankingLoss", case, **options, hardness_strength=strength)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", SOME)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (97, 40)])
def test_sizes_and_types(n, d, options, dtype):
    """The package widens half precision to float32; so do we, and no more."""
    scale = 20.0 + options.get("hardness_strength", 0.0)
    check("MultipleNegativesRankingLoss", ranking_case(n, d, 2, dtype, scale), **options)


@pytest.mark.parametrize("options", SOME)
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_scales(scale, options):
    total = scale + options.get("hardness_strength", 0.0)
    check("MultipleNegativesRankingLoss", ranking_case(64, 16, 3, scale=total), scale=scale, **options)


@pytest.mark.parametrize("budget", [0, None])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("options", [SYMMETRIC, EVERYTHING | {"directions": SYMMETRIC["directions"]}])
def test_more_rows_than_a_chunk(options, backend, budget):
    case = ranking_case(900, 16, 2, scale=20.0 + options.get("hardness_strength", 0.0))
    check("MultipleNegativesRankingLoss", case, backend=backend, memory_budget=budget, **options)


@pytest.mark.parametrize("options", SOME)
def test_dot_products(options):
    case = ranking_case(40, 8, 2, scale=2 * (20.0 + options.get("hardness_strength", 0.0)))
    check("MultipleNegativesRankingLoss", case, similarity_fct=util.dot_score, **options)


@pytest.mark.parametrize("name", ["GISTEmbedLoss", "CachedGISTEmbedLoss"])
@pytest.mark.parametrize("contrast", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.15), ("absolute", -0.1),
                                                  ("relative", 0.1), ("relative", -0.2)])  # fmt: skip
@pytest.mark.parametrize("k", [1, 2])
def test_guided_options(k, strategy, margin, contrast, name):
    options = {"margin_strategy": strategy, "margin": margin, "temperature": 0.05}
    options |= dict(zip(("contrast_anchors", "contrast_positives"), contrast, strict=True))
    check(name, guided_case(37, 12, k), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 3, 2), (2, 1, 1), (97, 20, 2)])
def test_guided_sizes_and_types(n, d, k, dtype):
    guides = torch.float64 if dtype == torch.float64 else torch.float32
    check("GISTEmbedLoss", guided_case(n, d, k, dtype, guides=guides), temperature=0.05)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("budget", [0, 1 << 19, None])
def test_guided_blocks_of_rows(budget, backend):
    check("CachedGISTEmbedLoss", guided_case(300, 5, 3), backend=backend, memory_budget=budget, temperature=0.05,
          mini_batch_size=100)  # fmt: skip


def test_the_default_temperature_of_the_guided_loss():
    check("GISTEmbedLoss", guided_case(64, 16, 2, temperature=0.01))


def test_the_guide_decides_in_float32_whatever_its_type():
    """A deliberate difference: the package rounds a bfloat16 guide's similarities to bfloat16 and ties abound."""
    case = guided_case(64, 16, 1)
    half = {name: x.bfloat16() for name, x in case.kwargs.items()}
    wide = {name: x.float() for name, x in half.items()}
    run = whole(ours, "GISTEmbedLoss")
    assert run(*case.args, **half) == run(*case.args, **wide)


@pytest.mark.parametrize("name", SYMMETRIC_NAMES)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_symmetric_losses(name, k):
    check(name, ranking_case(50, 12, k))


@pytest.mark.parametrize("options", SOME)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_cached_loss(size, options):
    case = ranking_case(23, 12, 3, scale=20.0 + options.get("hardness_strength", 0.0))
    check("CachedMultipleNegativesRankingLoss", case, mini_batch_size=size, **options)


@pytest.mark.parametrize("name", NAMES + CACHED)
def test_inside_matryoshka(name):
    """Every width is a loss of its own on the first coordinates; GradCache losses go through another decorator."""
    wrap = {"matryoshka_dims": [16, 9, 2], "matryoshka_weights": [1.0, 0.5, 2.0]}
    case, options = ranking_case(40, 16, 2, scale=70.0), {}
    if "GIST" in name:
        case, options = guided_case(40, 16, 2), {"temperature": 0.05}
    check(name, case, wrap, **options)


@pytest.mark.parametrize("name", CACHED)
def test_evaluation_of_cached_losses(name):
    case = guided_case(20, 8, 2) if "GIST" in name else ranking_case(20, 8, 2)
    with torch.no_grad():
        found, expected = (whole(module, name)(*case.args, **case.kwargs) for module in (ours, peer))
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_a_scale_that_learns():
    """A tensor is beyond the signature's float, but the package differentiates it, where it does not multiply the -inf
    of left out pairs; the strength has no share in it."""
    case = Case(columns(30, 8, 2), {"scale": torch.tensor(20.0)}, 29.0)
    for options in (SOME[0], SYMMETRIC, SOME[3], EVERYTHING | {"directions": SYMMETRIC["directions"]}):

        def run(module, *embeddings, scale, options=options, **own):
            loss = module.MultipleNegativesRankingLoss(Given(), **options, **own)
            loss.scale = scale
            return loss.compute_loss_from_embeddings(list(embeddings), None)

        assert_agreement(lambda *x, **o: run(ours, *x, **o), lambda *x, **o: run(peer, *x, **o), case, backend="auto")


class Watched(torch.autograd.Function):
    """x, whose backward pass notes whether autocast is on."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.seen.append(torch.is_autocast_enabled("cpu"))
        return grad, None


def test_the_backward_pass_of_the_loss_stage_is_outside_of_autocast():
    seen, x = [], torch.ones((), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        propagated(Watched.apply(x, seen), True)
    assert seen == [False]


# ---- the rest of the class -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_NAMES)
def test_signatures_begin_with_the_packages(name):
    theirs = inspect.signature(getattr(peer, name).__init__).parameters.values()
    mine = list(inspect.signature(getattr(ours, name).__init__).parameters.values())
    assert [(p.name, p.default, p.kind) for p in theirs] == [(p.name, p.default, p.kind) for p in mine[: len(theirs)]]
    assert [(p.name, p.kind) for p in mine[len(theirs) :]] == [
        ("memory_budget", inspect.Parameter.KEYWORD_ONLY), ("backend", inspect.Parameter.KEYWORD_ONLY)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_trainer_and_the_model_card_read(name):
    found, expected = (made(module, name, 8) for module in (ours, peer))
    config, theirs = found.get_config_dict(), expected.get_config_dict()
    assert {k: v for k, v in config.items() if k != "guide"} == {k: v for k, v in theirs.items() if k != "guide"}
    assert getattr(found, "citation", None) == getattr(expected, "citation", None)
    assert repr(found) == repr(expected)
    assert dict(found.state_dict()) == dict(expected.state_dict())
    assert [k for k, _ in found.named_children()] == [k for k, _ in expected.named_children()]
    assert peer.cached_multiple_negatives_ranking.CachedLossMixin.uses_gradient_cache is True
    assert getattr(found, "uses_gradient_cache", False) == ("Cached" in name)
    assert isinstance(found, getattr(peer, name.replace("Symmetric", "")))


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_copies_and_pickles(name):
    case = guided_case(9, 8, 1)
    loss = made(ours, name, 8, memory_budget=0)
    features = [{"model": x, "guide": case.kwargs[f"guide_{i}"]} for i, x in enumerate(case.args)]
    value = loss(features, None)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(features, None) == value


def test_options_of_the_cached_loss_may_be_assigned():
    loss = ours.CachedMultipleNegativesRankingLoss(Given())
    loss.scale, loss.directions = 5.0, ("query_to_doc", "doc_to_query")
    other = ours.CachedMultipleNegativesRankingLoss(Given(), 5.0, directions=("query_to_doc", "doc_to_query"))
    reps = [[x] for x in columns(9, 4, 1)]
    assert loss.calculate_loss(reps) == other.calculate_loss(reps)


@pytest.mark.parametrize("name", SYMMETRIC_NAMES)
def test_the_symmetric_classes_say_that_they_are_deprecated(name):
    with pytest.warns(
        DeprecationWarning, match=f"^{name} is deprecated .* use {name.replace('Symmetric', '')}"
    ) as seen:
        getattr(ours, name)(Given())
    assert seen[0].filename == __file__


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", [util.euclidean_sim, util.pairwise_cos_sim, torch.nn.CosineSimilarity(), max])
def test_other_similarities_are_refused(similarity):
    with pytest.raises(ValueError, match="similarity_fct must be cos_sim or dot_score"):
        ours.MultipleNegativesRankingLoss(Given(), similarity_fct=similarity)
    loss = ours.CachedMultipleNegativesRankingLoss(Given())
    loss.similarity_fct = similarity
    with pytest.raises(ValueError, match="similarity_fct must be cos_sim or dot_score"):
        loss.calculate_loss([[x] for x in columns(4, 3, 1)])


def test_the_similarity_of_a_model():
    model, x = Given(), list(columns(9, 4, 1))
    loss = ours.MultipleNegativesRankingLoss(model, similarity_fct=model.similarity)
    for name, same in (("cosine", util.cos_sim), ("dot", util.dot_score), ("cosine", util.pytorch_cos_sim)):
        model.similarity_fn_name = name
        other = ours.MultipleNegativesRankingLoss(model, similarity_fct=same)
        assert loss.compute_loss_from_embeddings(x) == other.compute_loss_from_embeddings(x)
    model.similarity_fn_name = "manhattan"
    with pytest.raises(ValueError, match=r"similarity_fct .* got 'manhattan'"):
        loss.compute_loss_from_embeddings(x)


@pytest.mark.parametrize("name", NAMES + CACHED)
def test_own_options_are_checked(name):
    with pytest.raises(ValueError, match="backend must be one of"):
        made(ours, name, 8, backend="cublas")
    with pytest.raises(ValueError, match="memory_budget must be >= 0"):
        made(ours, name, 8, memory_budget=-1)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"directions": ()}, {"directions": ("doc_to_query",)},
                                     {"partition_mode": "both"}, {"hardness_mode": "hardest"},
                                     {"hardness_strength": -1.0}])  # fmt: skip
def test_what_the_package_refuses_is_refused_with_its_words(options):
    words = []
    for module in (peer, ours):
        with pytest.raises(ValueError) as refusal:
            module.MultipleNegativesRankingLoss(Given(), **options)
        words.append(str(refusal.value))
    assert words[0] == words[1]


def test_embeddings_are_checked():
    loss, (x, y) = ours.MultipleNegativesRankingLoss(Given()), columns(5, 4, 1)
    for embeddings, error, words in (
        ([x], ValueError, "Expected at least 2 embeddings, got 1"),
        ([x, y[:4]], ValueError, r"embeddings\[1\] must have the shape of embeddings\[0\]"),
        ([x, y.to_sparse()], TypeError, r"embeddings\[1\] must be a dense tensor"),
        ([x, y.long()], TypeError, r"embeddings\[1\] must be float32"),
        ([x[0], y[0]], ValueError, r"embeddings\[0\] must have shape"),
    ):
        with pytest.raises(error, match=words):
            loss.compute_loss_from_embeddings(embeddings)


def test_the_guided_losses_check_their_columns():
    for count in (1, 4):
        features = [{"model": x, "guide": x} for x in columns(5, 4, 3)[:count]]
        with pytest.raises(ValueError, match=f"Expected 2 or 3 embeddings, got {count}"):
            made(ours, "GISTEmbedLoss", 4)(features, None)
    reps = [[x] for x in columns(5, 4, 1)]
    with pytest.raises(ValueError, match="same length"):
        made(ours, "CachedGISTEmbedLoss", 4).calculate_loss(reps, reps[:1])
    with pytest.raises(ValueError, match="the guide must embed 5 rows, got 4"):
        made(ours, "CachedGISTEmbedLoss", 4).calculate_loss(reps, [[x[0][:4]] for x in reps])
    with pytest.raises(ValueError, match="temperature must be finite and > 0"):
        made(ours, "CachedGISTEmbedLoss", 4, temperature=0.0).calculate_loss(reps, reps)


@pytest.mark.parametrize("name", NAMES + CACHED)
def test_gathering_works_with_one_process(name):
    case = guided_case(9, 8, 1)
    run = whole(ours, name, gather_across_devices=True)
    guided = case.kwargs if "GIST" in name else {}
    assert run(*case.args, **guided) == whole(ours, name)(*case.args, **guided)


# ---- memory --------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most elements any operator returned."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (list, tuple)) else [result]:
            self.most = max(self.most, x.numel() if isinstance(x, torch.Tensor) else 0)
        return result


class Kept:
    """A tensor that waits for a backward pass; graphs that are gone take theirs along."""

    def __init__(self, alive, x):
        self.x = x
        alive.add(self)


MEMORY = [("MultipleNegativesRankingLoss", options) for options in SOME] + [("GISTEmbedLoss", {})]


def used_elements(module, name, n, d, **options):
    """Elements kept from forward to backward, and of the largest tensor in either."""
    x = [y.requires_grad_() for y in columns(n, d, 1)]
    alive = weakref.WeakSet()
    run = whole(module, name, **{"temperature": 0.05} if "GIST" in name else options)
    with Largest() as found, torch.autograd.graph.saved_tensors_hooks(lambda y: Kept(alive, y), lambda kept: kept.x):
        loss = run(*x, backend="torch", memory_budget=1 << 20, **guided_like(name, x))
        kept = sum(held.x.numel() for held in alive)
        loss.backward()
    return kept, found.most


@pytest.mark.parametrize(("name", "options"), MEMORY)
def test_no_matrix_of_scores_or_decisions(name, options):
    """Neither between the passes nor at any time within: seen through the backend that is made of torch operators."""
    n, d = 3072, 4
    kept, largest = used_elements(ours, name, n, d, **options)
    assert kept <= 60 * n * d + 4 * (1 << 18)  # a few copies of the features, and what the budget of each pass allows
    assert largest <= 0.5 * n * n


@pytest.mark.parametrize("name", NAMES)
def test_the_package_keeps_matrices(name):
    """The measure works: it sees them where they are."""
    kept, largest = used_elements(peer, name, 200, 4)
    assert kept >= 200 * 200 and largest >= 200 * 200


# ---- edges ---------------------------------------------------------------------------------------------------------

LOSSES = pytest.mark.parametrize(("name", "options"), MEMORY)


@LOSSES
def test_an_empty_batch_gives_zero(name, options):
    """The package's mean over no rows is NaN."""
    x = [torch.empty(0, 4, requires_grad=True) for _ in range(2)]
    loss = whole(ours, name, **options)(*x, **guided_like(name, x))
    loss.backward()
    assert loss == 0.0 and x[0].grad is not None


@LOSSES
def test_nan_in_nan_out(name, options):
    x = [y.clone() for y in columns(9, 4, 1)]
    x[1][3, 2] = torch.nan
    assert whole(ours, name, **options)(*x, **guided_like(name, x)).isnan()


@LOSSES
def test_zero_and_equal_rows(name, options):
    x = [y.clone() for y in columns(12, 4, 1)]
    x[0][3], x[1][4], x[1][5] = 0.0, 0.0, x[1][6]
    x[0][7] = x[1][7]
    found, expected = ([y.clone().requires_grad_() for y in x] for _ in "ab")
    for module, leaves in ((ours, found), (peer, expected)):
        value = whole(module, name, **options)(*leaves, **guided_like(name, leaves))
        value.backward()
        assert value.isfinite()
    assert all(y.grad.isfinite().all() for y in found)
    assert not found[0].grad[3].any() and not found[1].grad[4].any()  # the package's: 1 / eps of the normalisation
    some = torch.ones(12, dtype=torch.bool).index_fill(0, torch.tensor([3, 4]), False)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.grad[some], b.grad[some], rtol=1e-4, atol=1e-6)


@LOSSES
def test_layouts_and_several_backward_passes(name, options):
    plain = [y.clone().requires_grad_() for y in columns(20, 8, 1)]
    odd = [y.detach().t().contiguous().t().requires_grad_() for y in plain]
    run = whole(ours, name, **options)
    run(*plain, **guided_like(name, plain)).backward()
    loss = run(*odd, **guided_like(name, odd))
    loss.backward(retain_graph=True)
    loss.backward(torch.tensor(2.0))
    for a, b in zip(plain, odd, strict=True):
        torch.testing.assert_close(3.0 * a.grad, b.grad)


def penalty(module, name, options):
    """The gradient of a penalty of gradients."""
    x = [y.double().requires_grad_() for y in columns(9, 4, 1)]
    grads = torch.autograd.grad(whole(module, name, **options)(*x, **guided_like(name, x)), x, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), x)


@LOSSES
def test_double_backward(name, options):
    if "GIST" in name or "hardness_mode" in options:
        with pytest.raises(RuntimeError, match="double backward"):
            penalty(ours, name, options)
        return
    for found, expected in zip(penalty(ours, name, options), penalty(peer, name, options), strict=True):
        torch.testing.assert_close(found, expected)


@LOSSES
def test_autocast(name, options):
    """Logits stay float32: nearer to the truth than the package, which rounds them to bfloat16."""
    x = columns(64, 16, 1)
    truth, found, theirs = ([y.to(t).requires_grad_() for y in x] for t in (torch.float64, x[0].dtype, x[0].dtype))
    whole(peer, name, **options)(*truth, **guided_like(name, truth)).backward()
    for module, leaves in ((ours, found), (peer, theirs)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = whole(module, name, **options)(*leaves, **guided_like(name, leaves))
        loss.backward()
        if module is ours:
            assert loss.dtype == torch.float32
    for true, mine, other in zip(truth, found, theirs, strict=True):
        assert (mine.grad - true.grad).norm() <= 1.01 * (other.grad - true.grad).norm() + 1e-6 * true.grad.norm()


@pytest.mark.slow
@pytest.mark.parametrize("options", SOME)
def test_compiled(options):
    loss, x = ours.MultipleNegativesRankingLoss(Given(), **options), list(columns(20, 8, 2))
    compiled = torch.compile(loss.compute_loss_from_embeddings, fullgraph=True)
    torch.testing.assert_close(compiled(x), loss.compute_loss_from_embeddings(x))


@pytest.mark.parametrize("options", [{}, {"mean_weight": None}, {"second_moment_weight": 0.3, "aggregation": "sum"}])
@pytest.mark.parametrize("n, d", [(9, 4), (4, 9), (1, 5)])
def test_global_orthogonal_regularisation(n, d, options):
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(n, d, generator=g, dtype=torch.float64) + 0.5 for _ in range(2)]
    for similarity in (util.cos_sim, util.dot_score):

        def total(module, *columns, similarity=similarity):
            loss = module.GlobalOrthogonalRegularizationLoss(Given(width=d), similarity, **options)
            return sum(loss([{"model": c} for c in columns]).values())

        assert_agreement(partial(total, ours), partial(total, peer), Case(tuple(x), {}, 20.0))
    with pytest.raises(ValueError, match="similarity_fct must be cos_sim or dot_score"):
        ours.GlobalOrthogonalRegularizationLoss(Given(width=d), lambda x, y: x @ y.T)


def test_losses_made_without_init_have_the_defaults():
    """As the package's own tests make them."""
    for name in ("GISTEmbedLoss", "CachedGISTEmbedLoss", "MultipleNegativesRankingLoss"):
        loss = getattr(ours, name).__new__(getattr(ours, name))
        assert loss.memory_budget is None and loss.backend == "auto"


def test_classes_are_cited_as_the_packages_own():
    for name in ours.__all__:
        cls = getattr(ours, name)
        assert util.fullname(cls) == util.fullname(getattr(peer, name)) and cls is not getattr(peer, name)
    loss = ours.MultipleNegativesRankingLoss(Given(width=4), scale=7.0)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert type(twin) is type(loss) and twin.scale == 7.0

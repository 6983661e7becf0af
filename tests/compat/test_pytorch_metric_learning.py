"""The drop-ins for pytorch-metric-learning (PML) against PML itself.

PML takes log(p + smallest normal number), so that its NTXentLoss stops at 87 (float64: 708) where ours goes on; and
where a list names a pair twice, PerAnchorReducer counts it once in the value and twice in the gradient.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from contrastile.testing import Case, compare
from support.pairing import Pairing, assert_agreement
from support.views import BACKENDS, BACKENDS_AND_DTYPES, free_rows, two_view_case

from .digits import assert_same_training, batches, encoder, largest_tensor, scans, trained

pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is missing", exc_type=ImportError)
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, trainers
from pytorch_metric_learning.utils import distributed, loss_and_miner_utils

from contrastile.compat import pytorch_metric_learning as ours

pytestmark = pytest.mark.peers

NAMES = ["NTXentLoss", "SupConLoss"]
EACH = pytest.mark.parametrize("name", NAMES)
WAYS = pytest.mark.parametrize("most_listed", [8, 0], ids=["few_are_listed", "none_are_listed"])
REDUCERS = {
    "default": lambda: None,
    "mean": reducers.MeanReducer,
    "sum": reducers.SumReducer,
    "non_zero": reducers.AvgNonZeroReducer,
    "threshold": partial(reducers.ThresholdReducer, low=0.5, high=12.0),
    "class_weights": lambda: reducers.ClassWeightedReducer(torch.linspace(0.5, 2.0, 50).double()),
    "per_anchor": reducers.PerAnchorReducer,
    "per_anchor_non_zero": lambda: reducers.PerAnchorReducer(reducers.AvgNonZeroReducer()),
    "several": lambda: reducers.MultipleReducers({"loss": reducers.SumReducer()}),
    "several_by_default": lambda: reducers.MultipleReducers({}, reducers.SumReducer()),
}


@pytest.fixture(autouse=True)
def listing(request, monkeypatch):
    """NTXentLoss lists few positives and sums over many; tests that take `most_listed` choose."""
    if "most_listed" in request.fixturenames:
        monkeypatch.setattr(ours, "LISTED_PER_ROW", request.getfixturevalue("most_listed"))


def labels_of(n, classes, seed=0):
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(n + seed))


def call(module, name, **options):
    """A loss made and called anew; lists of pairs follow the features."""

    def loss(embeddings, labels=None, *rest, temperature, **engine):
        made = {key: copy.deepcopy(value) for key, value in options.items()}
        return getattr(module, name)(temperature, **made, **engine)(embeddings, labels, *rest)

    return loss


def pair(name, **options):
    return call(ours, name, **options), call(losses, name, **options)


def labelled_case(n, d, classes, dtype, temperature):
    rows = free_rows(n, d, seed=classes).to(dtype)
    return Case((rows, labels_of(n, classes)), {"temperature": torch.tensor(temperature)}, 1 / temperature)


def close(mine, theirs, case, **options):
    found = compare(Pairing(mine, theirs), case, **options)
    assert found.ok, found.detail


# ---- all pairs by label


@BACKENDS_AND_DTYPES
@WAYS
@EACH
@pytest.mark.parametrize("temperature", [0.5, 0.05])
@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [
        pytest.param(17, 5, 4, id="few"),
        pytest.param(30, 1, 3, id="one_column"),
        pytest.param(48, 24, 2, id="two_classes"),
        pytest.param(61, 40, 50, id="rows_without_positive"),
    ],
)
def test_values_and_all_gradients_equal_pml(n, d, classes, temperature, name, most_listed, dtype, backend):
    assert_agreement(*pair(name), labelled_case(n, d, classes, dtype, temperature), backend=backend)


@pytest.mark.parametrize("temperature", [0.05, 0.01])
def test_sup_con_of_several_chunks_and_low_temperatures_equals_pml(temperature):
    assert_agreement(*pair("SupConLoss"), labelled_case(1100, 24, 50, torch.float32, temperature))


@WAYS
def test_nt_xent_of_several_chunks_equals_its_formula_in_float64(most_listed):
    """PML itself would hold (positive pairs) x (negative pairs)."""

    def reference(x, labels, *, temperature):
        z = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T / temperature
        same = labels[:, None] == labels
        u = z.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
        terms = torch.logaddexp(u - z, torch.zeros_like(z))
        return terms[same & ~torch.eye(len(x), dtype=torch.bool)].mean()

    case = labelled_case(1100, 24, 30, torch.float32, 0.07)
    assert_agreement(call(ours, "NTXentLoss"), reference, case)
    small = labelled_case(40, 24, 5, torch.float32, 0.07)
    close(reference, call(losses, "NTXentLoss"), small)


@WAYS
@EACH
@pytest.mark.parametrize("kind", REDUCERS)
def test_reducers_equal_pmls(kind, name, most_listed):
    case = labelled_case(48, 16, 6, torch.float64, 0.2)
    assert_agreement(*pair(name, reducer=REDUCERS[kind]()), case, backend="torch")


@EACH
@pytest.mark.parametrize("kind", ["sub_class", "custom_aggregation"])
def test_reducers_of_ones_own_get_all_terms(kind, name):
    class Largest(reducers.MeanReducer):
        def element_reduction(self, terms, *_):
            return terms.max()

    own = Largest() if kind == "sub_class" else reducers.PerAnchorReducer(aggregation_func=lambda x, _: x.sum(1).sqrt())
    assert_agreement(*pair(name, reducer=own), labelled_case(48, 16, 3, torch.float64, 0.2), backend="torch")


@EACH
def test_unreduced_terms_come_in_pmls_order(name):
    x, labels = free_rows(40, 6, seed=1), labels_of(40, 3)
    found, expected = (
        getattr(module, name)(reducer=reducers.DoNothingReducer())(x, labels)["loss"] for module in (ours, losses)
    )
    assert found["reduction_type"] == expected["reduction_type"]
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["indices"], expected["indices"], rtol=0, atol=0)


@WAYS
@EACH
@pytest.mark.parametrize(
    "distance",
    [
        distances.CosineSimilarity(),
        distances.CosineSimilarity(p=1),
        distances.DotProductSimilarity(),
        distances.DotProductSimilarity(normalize_embeddings=False),
    ],
    ids=["cosine", "l1", "dot", "dot_as_it_is"],
)
def test_distances_equal_pmls(distance, name, most_listed):
    assert_agreement(*pair(name, distance=distance), labelled_case(40, 8, 5, torch.float32, 0.5))


@WAYS
@EACH
def test_regularizers_equal_pmls(name, most_listed):
    options = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3}
    assert_agreement(*pair(name, **options), labelled_case(40, 8, 5, torch.float32, 0.2))


@pytest.mark.parametrize("kind", [torch.int32, torch.float32])
def test_labels_of_other_types_equal_pml(kind):
    case = labelled_case(30, 6, 4, torch.float64, 0.2)
    case = Case((case.args[0], case.args[1].to(kind).double().to(kind)), case.kwargs, case.magnitude)
    x, labels = case.args
    for name in NAMES:
        mine, theirs = pair(name)
        values = [loss(x, labels, temperature=0.2) for loss in (mine, theirs)]
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)


# ---- other columns


@BACKENDS_AND_DTYPES
@WAYS
@EACH
@pytest.mark.parametrize(
    "columns", ["other", "same_labels", "no_labels", "the_rows_themselves", "the_rows_and_their_labels"]
)
def test_reference_embeddings_equal_pml(columns, name, most_listed, dtype, backend):
    """PML skips pair (i, i) where ref_labels are the very labels or missing, also of other columns."""
    n, d = 30, 8
    x, y = free_rows(n, d, seed=1).to(dtype), free_rows(n + 5 * (columns == "other"), d, seed=2).to(dtype)
    labels, ref_labels = labels_of(n, 4), labels_of(len(y), 4, seed=9)

    def loss(module):
        def call(x, y, *, temperature, **engine):
            ref = {
                "other": (y, ref_labels), "same_labels": (y, labels), "no_labels": (y, None),
                "the_rows_themselves": (x, labels.clone()), "the_rows_and_their_labels": (x, labels),
            }[columns]  # fmt: skip
            return getattr(module, name)(temperature, **engine)(x, labels, None, *ref)

        return call

    case = Case((x, y), {"temperature": torch.tensor(0.1)}, 10.0)
    assert_agreement(loss(ours), loss(losses), case, backend=backend)


@WAYS
@EACH
@pytest.mark.parametrize("reducer", ["default", "class_weights", "non_zero"])
@pytest.mark.parametrize("references", [2, 30, 41])
def test_references_of_a_rank_lose_positive_pairs_of_equal_index_as_in_pml(references, reducer, name, most_listed):
    """What PML's DistributedLossWrapper(efficient=True) asks for: pair (i, i) stays where it is a negative."""
    x, y = free_rows(30, 8, seed=1), free_rows(references, 8, seed=2)
    labels, ref_labels = labels_of(30, 4), labels_of(references, 4, seed=9)
    shared = min(30, references)
    same = labels[:shared] == ref_labels[:shared]
    assert same.any() and not same.all()

    def loss(module, pairs):
        made = getattr(module, name)
        return lambda x, y, *, temperature, **engine: made(temperature, reducer=REDUCERS[reducer](), **engine)(
            x, labels, pairs, y, ref_labels
        )

    mine, theirs = ours.EveryPair(torch.arange(30)), distributed.get_indices_tuple(labels, ref_labels)
    case = Case((x, y), {"temperature": torch.tensor(0.2)}, 5.0)
    assert_agreement(loss(ours, mine), loss(losses, theirs), case, backend="torch")


@EACH
def test_unreduced_terms_of_a_memory_name_its_columns(name):
    """Pairs of PML's list, in its order, also where the memory has wrapped around."""
    memories = [
        module.CrossBatchMemory(getattr(module, name)(reducer=reducers.DoNothingReducer()), 6, 20)
        for module in (ours, losses)
    ]
    for step in range(4):
        x, labels = free_rows(9, 6, seed=step).float(), labels_of(9, 3, seed=step)
        found, expected = (memory(x, labels)["loss"] for memory in memories)
        torch.testing.assert_close(found["indices"], expected["indices"], rtol=0, atol=0)
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-4, atol=1e-5)


@EACH
def test_a_row_alone_is_no_positive_of_itself_in_a_memory(name):
    """PML leaves the copy in where the batch is one row: so a step of one row is that of a step of many."""
    x, labels = free_rows(6, 6, seed=1), torch.tensor([0, 0, 1, 1, 2, 0])
    memories = [module.CrossBatchMemory(getattr(module, name)(0.2), 6, 20) for module in (ours, losses)]
    for memory in memories:
        memory(x[:5], labels[:5])
    mine, theirs = (memory(x[5:], labels[5:]) for memory in memories)
    same = labels[:5] == 0
    rows, cols = torch.zeros(5).long(), torch.arange(5)
    truth = getattr(losses, name)(0.2)(
        x[5:], labels[5:], (rows[same], cols[same], rows[~same], cols[~same]), x[:5], labels[:5]
    )
    assert mine.item() == pytest.approx(truth.item(), rel=1e-9)
    assert theirs.item() != pytest.approx(truth.item(), rel=1e-3)


@EACH
def test_labels_of_other_columns_must_be_given(name):
    x = free_rows(6, 3, seed=1)
    with pytest.raises(ValueError, match="ref_labels"):
        getattr(ours, name)()(x, labels_of(6, 2), ref_emb=free_rows(7, 3, seed=2))


@BACKENDS
@EACH
@pytest.mark.parametrize("symmetric", [True, False])
def test_self_supervised_loss_equals_pml(symmetric, name, backend):
    def wrapped(module):
        def loss(x, y, *, temperature, **engine):
            return losses.SelfSupervisedLoss(getattr(module, name)(temperature, **engine), symmetric)(x, y)

        return loss

    for n, d in ((1, 3), (2, 3), (17, 5), (40, 64)):
        close(wrapped(ours), wrapped(losses), two_view_case(n, d, torch.float32, 0.1), backend=backend)


# ---- lists of pairs


MINERS = {
    "multi_similarity": miners.MultiSimilarityMiner(),
    "triplets": miners.TripletMarginMiner(margin=0.3),
    "hard_triplets": miners.TripletMarginMiner(type_of_triplets="hard"),
    "pairs": miners.PairMarginMiner(pos_margin=0.5, neg_margin=1.2),
    "batch_hard": miners.BatchHardMiner(),
}


@EACH
@pytest.mark.parametrize("chunk", [4 << 20, 64], ids=["one_chunk", "many_chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("miner", MINERS)
def test_miners_equal_pml(miner, dtype, chunk, name, monkeypatch):
    from contrastile.compat import listed

    monkeypatch.setattr(listed, "CHUNK", chunk)
    case = labelled_case(20, 8, 4, dtype, 0.2)
    indices = MINERS[miner](*case.args)
    assert all(len(index) for index in indices)
    assert_agreement(*pair(name), Case((*case.args, indices), case.kwargs, case.magnitude))


@EACH
def test_lists_with_columns_of_another_batch_and_without_labels_equal_pml(name):
    x, y = free_rows(20, 6, seed=1), free_rows(33, 6, seed=2)
    indices = loss_and_miner_utils.get_all_pairs_indices(labels_of(20, 3), labels_of(33, 3))
    indices = tuple(index[::2] for index in indices)

    def loss(module):
        return lambda x, y, *, temperature, **engine: getattr(module, name)(temperature, **engine)(
            x, indices_tuple=indices, ref_emb=y
        )

    assert_agreement(loss(ours), loss(losses), Case((x, y), {"temperature": torch.tensor(0.2)}, 5.0), backend="torch")


@EACH
@pytest.mark.parametrize("kind", ["non_zero", "threshold", "class_weights", "sum", "per_anchor"])
def test_reducers_of_listed_pairs_equal_pmls(kind, name):
    case = labelled_case(30, 8, 4, torch.float64, 0.2)
    indices = loss_and_miner_utils.get_all_pairs_indices(case.args[1])
    case = Case((*case.args, tuple(index[::3] for index in indices)), case.kwargs, case.magnitude)
    assert_agreement(*pair(name, reducer=REDUCERS[kind]()), case, backend="torch")


def test_per_anchor_of_a_pair_listed_twice_has_the_value_of_pml_and_the_gradient_of_that_value():
    case = labelled_case(12, 4, 3, torch.float64, 0.5)
    x, labels = case.args
    triplets = miners.TripletMarginMiner(margin=0.5)(x, labels)
    mine, theirs = pair("NTXentLoss", reducer=reducers.PerAnchorReducer())
    torch.testing.assert_close(
        mine(x, labels, triplets, temperature=0.5), theirs(x, labels, triplets, temperature=0.5), rtol=1e-12, atol=0
    )
    z = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: mine(a, labels, triplets, temperature=0.5), (z,))
    assert not torch.autograd.gradcheck(
        lambda a: theirs(a, labels, triplets, temperature=0.5), (z,), raise_exception=False
    )


@EACH
@pytest.mark.parametrize("triplets", [False, True], ids=["pairs", "triplets"])
def test_negative_indices_count_from_the_end_as_in_pml(triplets, name):
    """One row and one column of a batch against another's, named from either end."""
    x, y = free_rows(6, 4, seed=1).double(), free_rows(9, 4, seed=2).double()
    anchors, positives, negatives = (
        torch.tensor([-1, 0, -6, -1]),
        torch.tensor([-9, 1, 2, 3]),
        torch.tensor([-1, 8, 5, 4]),
    )
    if name == "NTXentLoss":  # PML takes row 0 and row -6 for two anchors
        anchors = torch.tensor([-1, 0, -4, -1])
    given = (anchors, positives, negatives) if triplets else (anchors, positives, anchors, negatives)
    values = []
    for module in (ours, losses):
        rows, columns = x.clone().requires_grad_(), y.clone().requires_grad_()
        loss = getattr(module, name)()
        loss(rows, indices_tuple=given, ref_emb=columns).backward()
        values.append((rows.grad, columns.grad))
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)


@EACH
def test_an_anchor_is_one_row_from_whichever_end_it_is_counted(name):
    x, tail = free_rows(6, 4, seed=1), (torch.tensor([1, 2]), torch.tensor([0, 0]), torch.tensor([3, 4]))
    found = [getattr(ours, name)()(x, indices_tuple=(torch.tensor([0, anchor]), *tail)) for anchor in (0, -6)]
    torch.testing.assert_close(*found, rtol=0.0, atol=0.0)


@EACH
def test_python_lists_are_index_lists(name):
    """PML's SupConLoss takes them."""
    x, lists = free_rows(6, 4, seed=1).double(), ([0, 1, -1], [2, 3, 4], [0, 1, -1, -1], [4, 5, 0, 1])
    loss, tensors = getattr(ours, name)(), tuple(torch.tensor(index) for index in lists)
    assert torch.equal(loss(x, indices_tuple=lists), loss(x, indices_tuple=tensors))
    assert loss(x, indices_tuple=([], [], [0], [1])) == 0.0
    if name == "SupConLoss":
        torch.testing.assert_close(
            loss(x, indices_tuple=lists), losses.SupConLoss()(x, indices_tuple=lists), rtol=1e-12, atol=0.0
        )


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_what_torch_does_not_take_for_positions_is_refused(dtype, name):
    index, rest = torch.tensor([0, 1]), torch.tensor([[2, 3], [0, 1], [4, 5]])
    with pytest.raises(IndexError, match="indices_tuple"):
        getattr(ours, name)()(free_rows(6, 3, seed=1), indices_tuple=(index.to(dtype), *rest))


@EACH
def test_wrong_lists_are_named(name):
    x, one, none = free_rows(6, 3, seed=1), torch.tensor([1, 2]), torch.tensor([0, 0])
    with pytest.raises(IndexError, match="indices_tuple"):
        getattr(ours, name)()(x, None, (one, one + 5, one, none))
    with pytest.raises(IndexError, match="indices_tuple"):
        getattr(ours, name)()(x, None, (one, -one - 5, one, none))
    if name == "SupConLoss":
        for module in (ours, losses):
            with pytest.raises(AssertionError):
                module.SupConLoss()(x, None, (one, none, one, none))


# ---- nothing to compare


@EACH
@pytest.mark.parametrize(
    ("labels", "ref_labels"),
    [([], None), ([0], None), ([0, 0, 0], None), ([0, 1, 2], None), ([0], [0, 1]), ([0], [1, 1]), ([0, 1], [2, 3])],
    ids=str,
)
def test_batches_without_positives_or_negatives_equal_pml(labels, ref_labels, name):
    x = free_rows(len(labels), 4, seed=1).requires_grad_()
    ref = () if ref_labels is None else (None, free_rows(len(ref_labels), 4, seed=2), torch.tensor(ref_labels))
    values = []
    for module in (ours, losses):
        x.grad = None
        loss = getattr(module, name)()(x, torch.tensor(labels).long(), *ref)
        loss.backward()
        values.append((loss.item(), x.grad.abs().sum().item()))
    assert values[0] == values[1] == (0.0, 0.0)


# ---- wrappers and records


@WAYS
@EACH
def test_cross_batch_memory_equals_pml(name, most_listed):
    """PML's memory with our loss, and our memory: 8 batches fill it, wrap around and overwrite it."""
    memories = [
        memory(getattr(module, name)(0.2), 6, memory_size=30)
        for memory, module in (
            (losses.CrossBatchMemory, losses), (losses.CrossBatchMemory, ours), (ours.CrossBatchMemory, ours)
        )
    ]  # fmt: skip
    for step in range(8):
        labels, outcomes = labels_of(9, 4, seed=step), []
        for memory in memories:
            x = free_rows(9, 6, seed=step).float().requires_grad_()
            memory(x, labels).backward()
            outcomes.append(x.grad)
        for grad in outcomes[1:]:
            torch.testing.assert_close(grad, outcomes[0], rtol=1e-4, atol=2e-6)
        for memory in memories[1:]:
            assert memory.state_dict().keys() == memories[0].state_dict().keys()
            torch.testing.assert_close(memory.state_dict(), memories[0].state_dict(), rtol=0, atol=0)


@EACH
def test_cross_batch_memory_takes_miners_lists_and_masks_as_pml(name):
    x, labels = free_rows(12, 6, seed=1).float(), labels_of(12, 3)
    mask = torch.arange(12) % 2 == 0
    for options, call in (
        ({"miner": miners.MultiSimilarityMiner()}, lambda memory: memory(x, labels)),
        ({}, lambda memory: memory(x, labels, enqueue_mask=mask)),
        ({}, lambda memory: memory(x, labels, loss_and_miner_utils.get_all_pairs_indices(labels))),
    ):
        mine = ours.CrossBatchMemory(getattr(ours, name)(0.2), 6, 40, **options)
        theirs = losses.CrossBatchMemory(getattr(losses, name)(0.2), 6, 40, **options)
        for _ in range(3):
            torch.testing.assert_close(call(mine), call(theirs), rtol=1e-5, atol=0)


@EACH
def test_distributed_wrapper_takes_the_losses(name):
    x, labels = free_rows(12, 6, seed=1), labels_of(12, 3)
    wrapper = distributed.DistributedLossWrapper(getattr(ours, name)())
    with pytest.warns(UserWarning, match="non-distributed"):
        assert wrapper(x, labels).item() == getattr(ours, name)()(x, labels).item()
    distributed.DistributedLossWrapper(ours.CrossBatchMemory(getattr(ours, name)(), 6))


@WAYS
@EACH
def test_modules_are_pmls_in_class_text_state_and_records(name, most_listed):
    distance = partial(distances.CosineSimilarity, collect_stats=True)
    mine, theirs = (getattr(module, name)(0.2, distance=distance()) for module in (ours, losses))
    assert isinstance(mine, getattr(losses, name))
    assert repr(mine) == repr(theirs)
    assert mine.state_dict() == theirs.state_dict() == {}
    x, labels = free_rows(12, 6, seed=1), labels_of(12, 3)
    for twin in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert twin(x, labels).item() == mine(x, labels).item()
    theirs(x, labels)
    for statistic in (f"{when}_avg_{of}_norm" for when in ("initial", "final") for of in ("query", "ref")):
        assert getattr(mine.distance, statistic) == pytest.approx(getattr(theirs.distance, statistic), rel=1e-12)


# ---- edges


@EACH
@pytest.mark.parametrize(
    "distance",
    [distances.LpDistance(), distances.SNRDistance(), distances.CosineSimilarity(power=2)],
    ids=lambda x: type(x).__name__,
)
def test_distances_that_need_a_matrix_are_refused(distance, name):
    with pytest.raises(ValueError, match="distance"):
        getattr(ours, name)(distance=distance)


@EACH
def test_wrong_arguments_are_named(name):
    x, labels = free_rows(6, 3, seed=1), labels_of(6, 2)
    for options in ({"backend": "gpu"}, {"memory_budget": -1}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            getattr(ours, name)(**options)(x, labels)
    for args in ((x,), (x, labels[:3]), (x, labels[:, None]), (x[0], labels[:3])):
        with pytest.raises(ValueError, match=r"labels|embeddings"):
            getattr(ours, name)()(*args)
    with pytest.raises(TypeError):
        getattr(ours, name)(unknown=1)


@WAYS
@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_rows_rounded_once(name, dtype, most_listed):
    case = labelled_case(48, 16, 5, dtype, 0.2)
    close(*pair(name), Case(case.args, case.kwargs, case.magnitude, derived=True))


@EACH
def test_under_autocast_the_loss_is_float32_and_nearer_to_the_truth_than_bfloat16_logits(name):
    x, labels = free_rows(48, 16, seed=1).bfloat16(), labels_of(48, 5)
    mine, theirs = (getattr(module, name)(0.1) for module in (ours, losses))
    truth = theirs(x.double(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = mine(x, labels), theirs(x, labels)
    assert found.dtype == torch.float32
    assert (found - truth).abs() <= (rounded - truth).abs() + 4e-3 * truth


@WAYS
def test_a_term_beyond_pmls_limit_keeps_its_value_and_gradient(most_listed):
    """PML's log(p + smallest) stops at 87, without a gradient."""
    x = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.1], [1.0, 0.1], [1.0, -0.1]]), dim=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    mine, theirs = (module.NTXentLoss(0.01, reducer=reducers.SumReducer())(x, labels) for module in (ours, losses))
    truth = losses.NTXentLoss(0.01, reducer=reducers.SumReducer())(x.double(), labels)
    assert mine.item() == pytest.approx(truth.item(), rel=1e-6)
    assert theirs < 0.6 * truth
    mine.backward()
    assert x.grad.abs().sum() > 50.0


@WAYS
@EACH
def test_zero_rows_duplicates_strided_rows_and_nan(name, most_listed):
    x = torch.stack([free_rows(14, 6, seed=1)] * 2, 1)[:, 0]
    x[3], x[5] = 0.0, x[4]
    labels = torch.arange(14) // 3
    mine, theirs = pair(name)
    values = [loss(x, labels, temperature=0.1) for loss in (mine, theirs)]
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    x[2, 1] = torch.nan
    reducer = reducers.MeanReducer()
    assert call(ours, name, reducer=reducer)(x, labels, temperature=0.1).isnan()


@WAYS
@EACH
def test_no_grad_and_repeated_backward(name, most_listed):
    x, labels = free_rows(30, 6, seed=1).float().requires_grad_(), labels_of(30, 3)
    loss = getattr(ours, name)()(x, labels)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * first, rtol=1e-6, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(getattr(ours, name)()(x, labels), loss, rtol=1e-6, atol=0)


# ---- memory


@EACH
@pytest.mark.parametrize("classes", [7, 700])
def test_nothing_holds_n_times_n(classes, name):
    n = 1500
    x, labels = free_rows(n, 8, seed=1).float(), torch.arange(n) % classes
    criterion = getattr(ours, name)(memory_budget=0)
    assert largest_tensor(lambda z: criterion(z, labels), x) < n * n / 8
    assert largest_tensor(lambda z: criterion(z, labels, ref_emb=z.flip(0), ref_labels=labels), x) < n * n / 8
    own, few = ours.EveryPair(torch.arange(n)), torch.arange(n) % 3
    assert largest_tensor(lambda z: criterion(z, labels, own, z.flip(0), few), x) < n * n / 8
    wrapped = losses.SelfSupervisedLoss(criterion)
    assert largest_tensor(lambda z: wrapped(z, z.flip(0)), x) < n * n / 8
    memory = ours.CrossBatchMemory(criterion, 8, 2 * n)
    assert largest_tensor(lambda z: memory(z, labels), x) < n * n / 8
    assert largest_tensor(lambda z: memory(z, labels), x) < n * n / 8


def test_pml_holds_pairs():
    n = 1500
    x, labels = free_rows(n, 8, seed=1).float(), torch.arange(n) % 700
    assert largest_tensor(lambda z: losses.SupConLoss()(z, labels), x) >= n * n


# ---- trainings


@EACH
@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()], ids=["all_pairs", "mined"])
def test_a_training_on_digits_equals_pmls_step_by_step(miner, name):
    def train(module, dtype):
        criterion = getattr(module, name)(0.2)

        def steps(model):
            for x, labels, _, _ in batches(dtype, size=32):
                embeddings = model(x)
                yield criterion(embeddings, labels, None if miner is None else miner(embeddings, labels))

        return trained(encoder(dtype), steps)

    assert_same_training(train, ours, losses)


@EACH
@pytest.mark.parametrize("wrapper", ["self_supervised", "memory"])
def test_a_training_with_a_wrapper_equals_pmls_step_by_step(wrapper, name):
    def train(module, dtype):
        criterion = getattr(module, name)(0.2)
        if wrapper == "memory":
            memory = module.CrossBatchMemory(criterion, 24, 60)
            steps = lambda model: (memory(model(x), labels) for x, labels, _, _ in batches(dtype, size=24))  # noqa: E731
        else:
            both = losses.SelfSupervisedLoss(criterion)
            steps = lambda model: (both(model(x0), model(x1)) for _, _, x0, x1 in batches(dtype, size=24))  # noqa: E731
        return trained(encoder(dtype), steps)

    assert_same_training(train, ours, losses, warm_up=4)


@EACH
def test_pmls_own_trainer_equals_with_either_loss(name):
    def train(module, dtype):
        images, labels = scans()
        data = torch.utils.data.TensorDataset(images.to(dtype)[:320], labels[:320])
        values = []
        model = encoder(dtype)
        trainer = trainers.MetricLossOnly(
            {"trunk": model}, {"trunk_optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, 32,
            {"metric_loss": getattr(module, name)(0.2)}, data, dataloader_num_workers=0,
            data_device=torch.device("cpu"), dtype=dtype,
            end_of_iteration_hook=lambda t: values.append(t.losses["total_loss"].item()),
        )  # fmt: skip
        torch.manual_seed(5)
        trainer.train(num_epochs=3)
        return torch.tensor(values, dtype=torch.float64)

    assert_same_training(train, ours, losses)

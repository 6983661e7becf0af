"""Losses of several positives: what papers and official codes compute, restated densely in float64, is one call each;
value and every gradient. Any ids and label sets; a wrong coefficient is seen; bad input is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import mil_nce, multi_positive, reference, sup_con
from contrastile.catalog import CATALOG
from contrastile.losses import positives
from contrastile.testing import compare
from support.loss_cases import make
from support.refusals import refuses
from support.standins import load

module = import_module("contrastile.losses.multi_positive")  # the package has functions of these names
value, scalar = (import_module(f"contrastile.driver.{name}") for name in ("value", "scalar"))
N, K, D = 7, 3, 6
CARDS = {card.name: card for card in CATALOG}
IDS = torch.tensor([0, 1, 1, 2, 0, 3, 4])
OWN = torch.arange(N)


def rows(seed: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*(shape or (N, D)), generator=g, dtype=torch.float64), dim=-1)


def drawn(seed: int, high: int, size: int) -> Tensor:
    return torch.randint(0, high, (size,), generator=torch.Generator().manual_seed(seed))


def agree(ours: Callable[..., Tensor], truth: Callable[..., Tensor], *given: Tensor) -> None:
    """Value and every gradient, of a temperature, too."""
    leaves = [x.clone().requires_grad_() for x in (*given, torch.tensor(0.2, dtype=torch.float64))]
    found, expected = ours(*leaves), truth(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pairs = (torch.autograd.grad(x, leaves, allow_unused=True) for x in (found, expected))
    for x, y in zip(*pairs, strict=True):
        torch.testing.assert_close(*(torch.zeros(1) if g is None else g for g in (x, y)), rtol=1e-10, atol=1e-12)


# ---- papers


def test_unicl():
    """Soft-target cross entropies of both directions, targets the equal labels over their number."""
    labels = drawn(1, 4, N)

    def truth(image, text, t):
        z, target = image @ text.T / t, (IDS[:, None] == labels).double()
        target, back = target[target.any(1)], target.T[target.any(0)]
        some, other = z[IDS.unsqueeze(1).eq(labels).any(1)], z.T[IDS.unsqueeze(1).eq(labels).any(0)]
        return 0.5 * (
            F.cross_entropy(some, target / target.sum(1, True)) + F.cross_entropy(other, back / back.sum(1, True))
        )

    agree(lambda x, y, t: multi_positive(x, y, IDS, labels, temperature=t), truth, rows(1), rows(2))


@pytest.mark.parametrize("divided", [True, False])
def test_one_to_k_contrast(divided):
    """CCRK: the sum over the K texts of an image, the mean over all texts, halved; by default all of it over K."""

    def truth(image, text, t):
        log_p = (image @ text.T / t).log_softmax(1)
        own = torch.stack([log_p[i, K * i : K * i + K].sum() for i in range(N)])
        back = F.cross_entropy(text @ image.T / t, OWN.repeat_interleave(K))
        return (-own.mean() + back) / 2 / (K if divided else 1)

    factor = 1.0 / K if divided else 1.0
    weights = torch.full((N,), K * factor / N, dtype=torch.float64)
    key_weights = torch.full((N * K,), factor / (N * K), dtype=torch.float64)

    def ours(image, text, t):
        return multi_positive(
            image, text, OWN, OWN.repeat_interleave(K), temperature=t, weights=weights,
            key_weights=key_weights, reduction="sum",
        )  # fmt: skip

    agree(ours, truth, rows(1), rows(2, N * K, D))


def test_tcl_fine_tuning_with_a_queue():
    """Targets [id = id_j] / count over the momentum keys and the queue; candidates without gradient."""
    queue_ids = drawn(2, 6, 11)

    def truth(image, keys, queue, t):
        target = (IDS[:, None] == torch.cat([IDS, queue_ids])).double()
        return F.cross_entropy(image @ torch.cat([keys, queue]).T / t, target / target.sum(1, True))

    def ours(image, keys, queue, t):
        return multi_positive(
            image, keys, IDS, IDS, negatives=queue, negative_ids=queue_ids, temperature=t, direction="rows"
        )

    agree(ours, truth, rows(1), rows(2), rows(3, 11, D))


def test_log_sum_over_modalities():
    """SIGE: an item's behaviour against its representations in all modalities, their sum inside the logarithm."""

    def truth(anchor, keys, t):
        z = (anchor @ keys.T / t).view(N, K, N)
        return -(z.diagonal(dim1=0, dim2=2).logsumexp(0) - z.flatten(1).logsumexp(1)).mean()

    agree(
        lambda b, s, t: multi_positive(b, s, OWN, OWN.repeat(K), form="in", temperature=t, direction="rows"),
        truth, rows(1), rows(2, N * K, D),
    )  # fmt: skip


def test_coconut_between_modalities():
    """Supervised across modalities, the sum over samples and over both directions."""

    def truth(audio, text, t):
        same, total = IDS[:, None] == IDS, 0.0
        for z in (audio @ text.T / t, text @ audio.T / t):
            total = total - (torch.where(same, z.log_softmax(1), 0.0).sum(1) / same.sum(1)).sum()
        return total

    def ours(audio, text, t):
        return multi_positive(audio, text, IDS, IDS, temperature=t, direction="sum", reduction="sum")

    agree(ours, truth, rows(1), rows(2))


def test_coconut_with_an_older_model():
    """Anchors are rehearsal samples, positives those of the older model, and the batch is in the denominator."""
    rehearsal = torch.tensor([True, False, True, True, True, False, True])

    def truth(new, old, t):
        total = []
        for k in rehearsal.nonzero().flatten().tolist():
            same = rehearsal & (IDS == IDS[k])
            others = torch.arange(N) != k
            total.append((new[k] @ new[others].T / t).logsumexp(0) - (new[k] @ old[same].T / t).mean())
        return torch.stack(total).mean()

    def ours(new, old, t):
        return sup_con(
            new, IDS, keys=old[rehearsal], key_labels=IDS[rehearsal], keys_as="positives", anchor_mask=rehearsal,
            temperature=t,
        )  # fmt: skip

    agree(ours, truth, rows(1), rows(2))


def test_sup_con_with_a_queue():
    queue_labels = drawn(2, 6, 11)

    def truth(x, queue, t):
        every = torch.cat([x, queue])
        z = (x @ every.T / t).masked_fill(torch.eye(N, len(every), dtype=torch.bool), -torch.inf)
        same = (IDS[:, None] == torch.cat([IDS, queue_labels])) & ~torch.eye(N, len(every), dtype=torch.bool)
        some = same.any(1)
        return -(torch.where(same, z.log_softmax(1), 0.0).sum(1) / same.sum(1).clamp(min=1))[some].mean()

    agree(
        lambda x, queue, t: sup_con(x, IDS, keys=queue, key_labels=queue_labels, temperature=t), truth,
        rows(1), rows(3, 11, D),
    )  # fmt: skip


def official_mil_nce(video: Tensor, text: Tensor, t: Tensor) -> Tensor:
    """Both directions in one denominator, so that the matched pairs are there twice."""
    x = (video @ text.flatten(0, 1).T / t).view(N, N, K)
    every = torch.cat([x, x.permute(1, 0, 2)], 1).view(N, -1)
    return every.logsumexp(1) - x.diagonal().T.logsumexp(1)


def test_mil_nce_as_its_code():
    agree(
        lambda v, x, t: mil_nce(v, x, temperature=t), lambda *x: official_mil_nce(*x).mean(), rows(1), rows(2, N, K, D)
    )


BAGS = torch.tensor([True, True, False, True, True, False, True])


@pytest.mark.parametrize("joint", [True, False])
def test_vatt_with_missing_texts(joint):
    """Scores with a missing text are lowered by 1e9, its own loss is dropped, and the rest is divided by how many are
    left: AsymmetricNCE and SymmetricNCE."""

    def truth(video, text, t):
        video, text = F.normalize(video, dim=-1), F.normalize(text, dim=-1)
        x = torch.einsum("id,jkd->ijk", video, text) / t
        own = x.diagonal().T.logsumexp(1)
        gone = (~BAGS).double() * 1e9
        out, back = (x - gone[None, :, None]).flatten(1), (x.transpose(0, 1) - gone[:, None, None]).flatten(1)
        sides = [torch.cat([out, back], 1)] if joint else [out, back]
        return sum(((z.logsumexp(1) - own) * BAGS).mean() * N / BAGS.sum() for z in sides)

    options = {"joint": True} if joint else {"joint": False, "direction": "sum"}
    agree(
        lambda v, x, t: mil_nce(v, x, temperature=t, mask=BAGS[:, None].expand(N, K), normalize=True, **options),
        truth, 3.0 * rows(1), 0.5 * rows(2, N, K, D),
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_a_term_for_every_pair_as_pytorch_metric_learning(temperature):
    """MCR: NTXentLoss of all modalities of a batch with their labels; normalised as there, the mean over all pairs."""
    losses = load("pytorch_metric_learning.losses")
    x, labels = 2.0 * rows(4, 2 * N, D), IDS.repeat(2)

    def ours(x, t):
        return sup_con(x, labels, form="each", per_pair=True, temperature=temperature + 0.0 * t, normalize=True)

    agree(ours, lambda x, t: losses.NTXentLoss(temperature)(x, labels) + 0.0 * t, x)


def test_pairs_of_classes():
    """SimLAP: positives are keys of the partner class; those of the own class are left out; the mean over pairs."""
    classes, partners, of_keys = IDS, drawn(3, 5, N), drawn(4, 5, 11)

    def truth(x, keys, t):
        z, positive = x @ keys.T / t, partners[:, None] == of_keys
        negative = ~positive & (classes[:, None] != of_keys)
        z = z - z.mean(1, keepdim=True)  # a shift of the row, which cancels
        others = (z.exp() * negative).sum(1, keepdim=True)
        return (positive * ((z.exp() + others).log() - z)).sum() / positive.sum()

    def ours(x, keys, t):
        sets = [F.one_hot(c, 5).bool() for c in (partners, of_keys)]
        return multi_positive(
            x, keys, classes, of_keys, query_labels=sets[0], key_labels=sets[1], form="each", per_pair=True,
            temperature=t, direction="rows",
        )  # fmt: skip

    agree(ours, truth, rows(1), rows(2, 11, D))


SETS = torch.rand(N, 70, generator=torch.Generator().manual_seed(5)) < 0.02  # two words of 64


def test_images_with_sets_of_labels():
    """Two codes of each image; positives share a label, and one without labels has none."""
    same = (SETS.double() @ SETS.double().T > 0).repeat(2, 2) & ~torch.eye(2 * N, dtype=torch.bool)
    some = same.any(1)
    assert some.any() and not some.all()

    def truth(x, t):
        z = (x @ x.T / t).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
        return -(torch.where(same, z.log_softmax(1), 0.0).sum(1) / same.sum(1).clamp(min=1))[some].mean()

    agree(lambda x, t: sup_con(x.view(2, N, D), SETS, temperature=t), truth, rows(1, 2 * N, D))


# ---- any ids, any label sets


def test_any_ids_and_label_sets():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
    @hypothesis.given(st.data())
    def run(data):
        sizes = dict(zip(("query", "key", "negative"), data.draw(st.tuples(*[st.integers(1, 6)] * 3)), strict=True))
        names = data.draw(st.sampled_from([("ids",), ("labels",), ("ids", "labels"), ("ids", "groups")]))
        direction = data.draw(st.sampled_from(["mean", "rows", "cols"]))
        options = {"form": data.draw(st.sampled_from(["out", "in", "each"])), "per_pair": data.draw(st.booleans())}
        if direction == "cols":
            del sizes["negative"]
        for side, size in sizes.items():
            for name in names:
                one = st.lists(st.booleans(), min_size=3, max_size=3) if name == "labels" else st.integers(0, 2)
                options[f"{side}_{name}"] = torch.tensor(data.draw(st.lists(one, min_size=size, max_size=size)))
        features = [rows(seed, size, 3) for seed, size in enumerate(sizes.values())]
        agree(*(
            lambda q, k, *more, loss=loss: loss(
                q, k, negatives=more[0] if len(more) > 1 else None, temperature=more[-1], direction=direction, **options
            )
            for loss in (multi_positive, reference.multi_positive)
        ), *features)  # fmt: skip

    run()


# ---- how it is computed


@pytest.mark.parametrize("form", ["out", "in"])
def test_both_directions_come_from_one_weighted_sum(form, monkeypatch):
    calls: list[str] = []
    for name in ("weighted_sum", "pair_stats"):
        original = getattr(positives, name)
        monkeypatch.setattr(positives, name, lambda *x, n=name, f=original: (calls.append(n), f(*x))[1])
    multi_positive(rows(1), rows(2), IDS, IDS, form=form)
    assert calls == ["weighted_sum"]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_the_cross_entropy_of_sets_beyond_one_small_problem(backend):
    case = make(CARDS["multi_positive"], "in", 900, 20)
    assert compare(CARDS["multi_positive"], case, backend=backend).ok


MUTANTS = {
    "out": (positives, "-row * share", "-row", "default"),
    "out, columns": (positives, "-col * share", "-col", "default"),
    "direction": (positives, "factor * self.weight", "self.weight", "default"),
    "pairs": (positives, "each = each * positives", "each = each * 1", "label sets"),
    "weights": (positives, "each = each * weights", "pass", "queue"),
    "share": (positives, "Weights(anchors.weight * anchors.share)", "Weights(anchors.weight)", "each"),
    "sign": (positives, "scale=-own.scale", "scale=own.scale", "each"),
    "negatives": (positives, '"same_id": "other_id"', '"same_id": "same_id"', "each"),
    "kept": (positives, ".keep_positives = self.among and", ".keep_positives = False and", "label sets"),
    "queue": (positives, "x.new_zeros(block.shape[0])", "x.new_ones(block.shape[0])", "mean queue"),
    "detached": (module, "with_features(own, Tensor.detach, rows=False) if detach_keys else own", "own", "detached"),
    "in": (value, "of_positives = -of_others if", "of_positives = of_others if", "in"),
    "large": (value, "torch.zeros_like(weight) if weights.cross_entropy else weight  #", "weight  #", "in"),
    "one": (value, "both = positive_weight.double() + own.double() -", "both = weight.double() -", "in"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_coefficient_is_seen(name, monkeypatch):
    source, old, new, variant = MUTANTS[name]
    card, queued = CARDS["multi_positive"], variant == "mean queue"
    case = make(card, "queue" if queued else variant, 24, D, torch.float64)
    if queued:
        case.kwargs["direction"] = "mean"
    assert compare(card, case, backend="torch").ok
    text = Path(source.__file__).read_text()
    assert text.count(old) == 1
    mutant = ModuleType(source.__name__)
    mutant.__package__ = source.__package__
    monkeypatch.setitem(sys.modules, source.__name__, mutant)  # dataclasses look there
    exec(compile(text.replace(old, new), name, "exec"), mutant.__dict__)
    if source is value:
        monkeypatch.setattr(scalar, "weighed", mutant.weighed)
    else:
        own = ("two_directions",) if source is module else ("Anchors", "ManyPositives")
        for part in own:
            monkeypatch.setattr(module, part, getattr(mutant, part))
    assert not compare(card, case, backend="torch").ok


# ---- at the edges

FORMS = ("out", "in", "each")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (1, 1), (1, 5)])
def test_few_queries_or_keys(form, reduction, n, m):
    for labels in (False, True):
        x, y = rows(1, n, D).requires_grad_(), rows(2, m, D).requires_grad_()
        given = {"query_ids": OWN[:n], "key_ids": OWN[:m]}
        if labels:
            given = {f"{side}_labels": F.one_hot(i, N).bool() for side, i in (("query", OWN[:n]), ("key", OWN[:m]))}
        loss = multi_positive(x, y, form=form, reduction=reduction, **given)
        expected = reference.multi_positive(x, y, form=form, reduction=reduction, **given) if n and m else loss * 0
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        assert loss.shape == ((n + m,) if reduction == "none" else ())
        grads = torch.autograd.grad(loss.sum(), (x, y))
        assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_without_any_positive_the_loss_is_zero(form, reduction):
    x, y = rows(1).float().requires_grad_(), rows(2).float().requires_grad_()
    for loss in (
        multi_positive(x, y, OWN, OWN + N, form=form, reduction=reduction),
        sup_con(x, OWN, form=form, reduction=reduction),
    ):
        grads = torch.autograd.grad(loss.sum(), (x, y), allow_unused=True)
        assert not loss.any() and not any(g is not None and g.any() for g in grads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_without_any_negative(form, reduction):
    """ "in" and "each" are 0, and "out" is what positives differ by."""
    x, y = rows(1).requires_grad_(), rows(2).requires_grad_()
    ids = torch.zeros(N, dtype=torch.long)
    loss = multi_positive(x, y, ids, ids, form=form, reduction=reduction)
    expected = reference.multi_positive(x, y, ids, ids, form=form, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    grads = torch.autograd.grad(loss.sum(), (x, y))
    assert all(g.isfinite().all() for g in grads) and (form == "out") == any(bool(g.any()) for g in grads)


def test_a_row_alone_has_nothing_beside_keys_as_positives():
    x = rows(1, 1, D).requires_grad_()
    loss = sup_con(x, OWN[:1], keys=rows(2), key_labels=IDS, keys_as="positives", reduction="none")
    loss.sum().backward()
    assert not loss.any() and not x.grad.any()


def test_what_missing_texts_hold_does_not_matter():
    mask = torch.rand(N, K, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2] = False
    found = []
    for filler in (0.0, torch.nan, torch.inf):
        text = torch.where(mask[..., None], rows(2, N, K, D), filler).requires_grad_()
        video = rows(1).requires_grad_()
        loss = mil_nce(video, text, mask=mask)
        found.append([loss, *torch.autograd.grad(loss, (video, text))])
        assert not found[-1][2][~mask].any()
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


def test_layouts_types_and_no_gradient():
    x, y = rows(1, N, 2 * D)[:, ::2].float(), rows(2, D, N).float().T
    expected = multi_positive(x.contiguous(), y.contiguous(), IDS, IDS)
    assert torch.equal(multi_positive(x, y, IDS, IDS), expected)
    assert torch.equal(multi_positive(x, y, IDS.to(torch.int8), IDS.int()), expected)
    assert multi_positive(x.bfloat16(), y, IDS, IDS).dtype == torch.float32
    with torch.no_grad():
        assert not multi_positive(x.requires_grad_(), y, IDS, IDS, form="each").requires_grad


def test_nan_is_passed_on():
    x = rows(1).float()
    x[0, 0] = torch.nan
    for form in FORMS:
        assert multi_positive(x, rows(2).float(), IDS, IDS, form=form).isnan()


# ---- bad input

X, Y, Z = (rows(seed).float() for seed in (1, 2, 3))
SET = torch.ones(N, 4, dtype=torch.bool)
BAD = {
    "nothing": ({}, "query_ids or query_labels must be given"),
    "ids": ({"key_ids": IDS, "query_labels": SET}, "key_ids need query_ids"),
    "labels": ({"query_ids": IDS, "key_labels": SET}, "key_labels need query_labels"),
    "groups": ({"query_ids": IDS, "key_groups": IDS}, "key_groups need query_groups"),
    "negative ids": ({"query_ids": IDS, "negative_ids": IDS}, "negative_ids need negatives"),
    "negative labels": ({"query_labels": SET, "negative_labels": SET}, "negative_labels need negatives"),
    "groups of negatives": ({"query_ids": IDS, "query_groups": IDS, "negatives": Z}, "negative_groups must be given"),
    "widths of sets": ({"query_labels": SET, "key_labels": SET[:, :3]}, "must have the width of query_labels"),
    "size of sets": ({"query_labels": SET[:5]}, r"query_labels must have shape \(7, number of labels\), got \(5, 4\)"),
    "size of ids": ({"query_ids": IDS[:5]}, r"query_ids must have shape \(7,\), got \(5,\)"),
    "form": ({"query_ids": IDS, "form": "inner"}, "form must be one of 'out', 'in', 'each', got 'inner'"),
    "direction": ({"query_ids": IDS, "direction": "both"}, "direction must be one of"),
    "weights": ({"query_ids": IDS, "weights": torch.ones(N), "direction": "cols"}, "weights must be None with"),
    "queue": ({"query_ids": IDS, "negatives": Z, "direction": "cols"}, "negatives must be None with direction='cols'"),
    "key weights": ({"query_ids": IDS, "key_weights": torch.ones(N), "direction": "rows"}, "key_weights must be None"),
    "sign": ({"query_ids": IDS, "key_weights": -torch.ones(N)}, "key_weights must be >= 0"),
    "size of weights": ({"query_ids": IDS, "key_weights": torch.ones(3)}, r"key_weights must have shape \(7,\), got"),
    "width": ({"query_ids": IDS, "negatives": Z[:, :3]}, "negatives must have the width of query, 6, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    given, words = BAD[name]
    with refuses(ValueError, words):
        multi_positive(X, Y, **given)


def test_keys_without_ids_of_their_own():
    with refuses(ValueError, "query_ids need key_ids where there are 5 keys for 7 queries"):
        multi_positive(X, Y[:5], IDS)
    with refuses(TypeError, "query_labels must be a bool tensor, got torch.int64"):
        multi_positive(X, Y, query_labels=SET.long())


@pytest.mark.parametrize(
    "given, words",
    [
        ({"keys": Y}, "key_labels must be given with keys"),
        ({"key_labels": IDS}, "key_labels must be given with keys, and only with keys"),
        ({"keys": Y[:, :3], "key_labels": IDS}, "keys must have the width of query"),
        ({"keys": Y, "key_labels": IDS[:5]}, r"key_labels must have shape \(7,\)"),
        ({"keys_as": "positives"}, "keys_as='positives' needs keys"),
        ({"keys": Y, "key_labels": IDS, "keys_as": "positives", "form": "in"}, "needs keys and form='out'"),
        ({"keys_as": "queue"}, "keys_as must be one of"),
        ({"anchor_mask": SET[:5, 0]}, r"anchor_mask must have shape \(7,\), got \(5,\)"),
    ],
)
def test_bad_keys_of_sup_con(given, words):
    with refuses(ValueError, words):
        sup_con(X, IDS, **given)


@pytest.mark.parametrize(
    "video, text, given, error, words",
    [
        (X, Y, {}, ValueError, r"text must have shape \(N, K, D\), got \(7, 6\)"),
        (X, Y[:5, None], {}, ValueError, r"text must have shape \(7, K, D\), K > 0, got \(5, 1, 6\)"),
        (X, Y[:, None][:, :0], {}, ValueError, r"K > 0, got \(7, 0, 6\)"),
        (X, Y[:, None, :3], {}, ValueError, "text must have the width of video, 6, got 3"),
        (X[0], Y[:, None], {}, ValueError, r"video must have shape \(N, D\), got \(6,\)"),
        (X, Y[:, None].long(), {}, TypeError, "text must be float32"),
        (X, Y[:, None].to("meta"), {}, ValueError, "text must be on cpu"),
        (X, Y[:, None], {"mask": SET}, ValueError, r"mask must have shape \(7, 1\), got \(7, 4\)"),
        (X, Y[:, None], {"mask": SET[:, :1].long()}, TypeError, "mask must be a bool tensor"),
        (X, Y[:, None], {"direction": "rows"}, ValueError, "direction must be 'mean' with joint=True, got 'rows'"),
    ],
)
def test_bad_bags(video, text, given, error, words):
    with refuses(error, words):
        mil_nce(video, text, **given)

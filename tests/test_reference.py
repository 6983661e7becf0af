"""The dense references against literal loops over Python floats, torch's own losses, and gradcheck.

The loops know nothing of the references: they take nested lists and use `math` alone.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from contrastile import reference

N, D = 4, 3
IDS = torch.tensor([7, 5, 7, 2])  # rows 0 and 2 are duplicates
OTHER_IDS = torch.tensor([7, 2, 9, 5])  # ids of the other side where it has its own
NEGATIVE_IDS = torch.tensor([5, 8])


def embeddings(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


A, B = embeddings(N, D, seed=1), embeddings(N, D, seed=2)
NEGATIVES = embeddings(2, D, seed=3)
HARD = embeddings(N, 2, D, seed=4)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def assert_equal(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def log_sum_exp(values):
    return math.log(sum(math.exp(v) for v in values))


def mean(values):
    return sum(values) / len(values)


# ---- InfoNCE and CLIP


def loop_info_nce(query, key, temperature, **options):
    """Rows of one direction; `temperature` is a list with one entry per row."""
    negatives, hard = options.get("negatives", []), options.get("hard")
    query_ids, key_ids = options.get("query_ids"), options.get("key_ids")
    negative_ids = options.get("negative_ids")
    margin, smoothing = options.get("margin"), options.get("smoothing", 0.0)
    count = options.get("num_hard")
    rows = []
    for i, q in enumerate(query):
        own = dot(q, key[i])
        logits = [own / temperature[i]]
        for j, k in enumerate(key):
            same_id = query_ids is not None and query_ids[i] == key_ids[j]
            too_close = margin is not None and dot(q, k) > own + margin
            if j != i and not same_id and not too_close:
                logits.append(dot(q, k) / temperature[i])
        for m, negative in enumerate(negatives):
            same_id = negative_ids is not None and query_ids[i] == negative_ids[m]
            too_close = margin is not None and dot(q, negative) > own + margin
            if not same_id and not too_close:
                logits.append(dot(q, negative) / temperature[i])
        if count is not None:
            logits = [logits[0], *sorted(logits[1:], reverse=True)[:count]]
        if hard is not None:
            logits += [dot(q, h) / temperature[i] for h in hard[i]]
        log_p = [z - log_sum_exp(logits) for z in logits]
        target = [smoothing / len(log_p)] * len(log_p)
        target[0] += 1 - smoothing
        rows.append(-sum(t * lp for t, lp in zip(target, log_p, strict=True)))
    return rows


def loop_both_directions(query, key, temperature, **options):
    forward = loop_info_nce(query, key, temperature, **options)
    shared = {name: options[name] for name in ("margin", "smoothing", "num_hard") if name in options}
    backward = loop_info_nce(
        key,
        query,
        temperature,
        query_ids=options.get("key_ids"),
        key_ids=options.get("query_ids"),
        **shared,
    )
    return [(f + b) / 2 for f, b in zip(forward, backward, strict=True)]


INFO_NCE_CASES = {
    "plain": {},
    "negatives": {"negatives": NEGATIVES},
    "hard": {"hard_negatives": HARD},
    "both_negatives": {"negatives": NEGATIVES, "hard_negatives": HARD},
    "ids": {"query_ids": IDS, "negatives": NEGATIVES},
    "all_ids": {
        "query_ids": IDS,
        "key_ids": OTHER_IDS,
        "negatives": NEGATIVES,
        "negative_ids": NEGATIVE_IDS,
        "hard_negatives": HARD,
    },
    "one_id": {"query_ids": torch.zeros(N, dtype=torch.long)},
    "margin": {"false_negative_margin": 0.1, "negatives": NEGATIVES, "hard_negatives": HARD},
    "negative_margin": {"false_negative_margin": -0.5},
    "ids_and_margin": {"query_ids": IDS, "false_negative_margin": 0.3},
    "smoothing": {"label_smoothing": 0.2, "negatives": NEGATIVES, "hard_negatives": HARD},
    "hardest": {"num_hard": 2, "negatives": NEGATIVES, "query_ids": IDS},
    "hardest_of_few": {"num_hard": 5, "negatives": NEGATIVES},
}


def as_loop_options(options):
    names = {
        "hard_negatives": "hard",
        "false_negative_margin": "margin",
        "label_smoothing": "smoothing",
    }
    loop = {
        names.get(name, name): value.tolist() if torch.is_tensor(value) else value for name, value in options.items()
    }
    if "query_ids" in loop:
        loop.setdefault("key_ids", loop["query_ids"])
    return loop


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", INFO_NCE_CASES)
def test_info_nce_equals_its_loop(name, symmetric):
    options = INFO_NCE_CASES[name]
    loop = loop_both_directions if symmetric else loop_info_nce
    rows = loop(A.tolist(), B.tolist(), [0.3] * N, **as_loop_options(options))
    arguments = {"temperature": 0.3, "symmetric": symmetric, **options}
    assert_equal(reference.info_nce(A, B, reduction="none", **arguments), rows)
    assert_equal(reference.info_nce(A, B, **arguments), mean(rows))
    assert_equal(reference.info_nce(A, B, reduction="sum", **arguments), sum(rows))


@pytest.mark.parametrize("name", ["ids", "all_ids", "one_id", "margin", "negative_margin", "ids_and_margin"])
def test_every_masking_case_removes_something(name):
    """Guards the data: a case whose mask hits nothing would prove nothing."""
    options = INFO_NCE_CASES[name]
    base = {k: options[k] for k in ("negatives", "hard_negatives") if k in options}
    masked = reference.info_nce(A, B, temperature=0.3, reduction="none", **options)
    assert (masked < reference.info_nce(A, B, temperature=0.3, reduction="none", **base)).any()


def test_info_nce_takes_one_temperature_per_query():
    temperature = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    rows = loop_info_nce(
        A.tolist(),
        B.tolist(),
        temperature.tolist(),
        negatives=NEGATIVES.tolist(),
        hard=HARD.tolist(),
    )
    loss = reference.info_nce(
        A,
        B,
        temperature=temperature,
        negatives=NEGATIVES,
        hard_negatives=HARD,
        reduction="none",
    )
    assert_equal(loss, rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_info_nce_equals_torch_cross_entropy(smoothing):
    logits = A @ torch.cat([B, NEGATIVES]).T / 0.07
    logits = torch.cat([logits, (HARD @ A[:, :, None]).squeeze(2) / 0.07], dim=1)
    expected = F.cross_entropy(logits, torch.arange(N), label_smoothing=smoothing)
    loss = reference.info_nce(A, B, negatives=NEGATIVES, hard_negatives=HARD, label_smoothing=smoothing)
    assert_equal(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_clip_loss_equals_torch_cross_entropy(smoothing):
    logits, target = 5 * A @ B.T, torch.arange(N)
    both = [F.cross_entropy(z, target, label_smoothing=smoothing) for z in (logits, logits.T)]
    assert_equal(reference.clip_loss(A, B, 5.0, label_smoothing=smoothing), mean(both))


@pytest.mark.parametrize("text_ids", [None, OTHER_IDS])
def test_clip_loss_equals_its_loop(text_ids):
    ids = {"query_ids": IDS.tolist(), "key_ids": (IDS if text_ids is None else text_ids).tolist()}
    rows = loop_both_directions(A.tolist(), B.tolist(), [1 / 5] * N, **ids)
    given = {"image_ids": IDS, "text_ids": text_ids}
    assert_equal(reference.clip_loss(A, B, 5.0, reduction="none", **given), rows)
    assert_equal(reference.clip_loss(A, B, 5.0, reduction="sum", **given), sum(rows))


def test_a_removed_column_gets_no_gradient():
    negatives = NEGATIVES.clone().requires_grad_()
    loss = reference.info_nce(
        A,
        B,
        negatives=negatives,
        query_ids=torch.full((N,), 5),
        key_ids=torch.arange(10, 10 + N),
        negative_ids=NEGATIVE_IDS,
    )
    loss.backward()
    assert (negatives.grad[0] == 0).all()
    assert (negatives.grad[1] != 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1, "query_ids": IDS},
        {"label_smoothing": 0.1, "false_negative_margin": 0.1},
        {"key_ids": IDS},
        {"negatives": NEGATIVES, "negative_ids": NEGATIVE_IDS},
    ],
)
def test_info_nce_refuses_contradictions(options):
    with pytest.raises(ValueError):
        reference.info_nce(A, B, **options)


# ---- sigmoid


def loop_siglip(images, texts, scale, bias, sign):
    rows = []
    for i, image in enumerate(images):
        total = 0.0
        for j, text in enumerate(texts):
            y = sign(i, j)
            total += math.log(1 + math.exp(-y * (scale * dot(image, text) + bias))) if y else 0.0
        rows.append(total)
    return rows


@pytest.mark.parametrize("text", [None, OTHER_IDS])
@pytest.mark.parametrize("what", [None, "labels", "ids"])
@pytest.mark.parametrize("bias", [None, -1.5])
def test_siglip_equals_its_loop(what, text, bias):
    """Equal labels are matched; equal ids of another index are left out."""
    texts = IDS if text is None else text

    def sign(i, j):
        equal = IDS[i].item() == texts[j].item()
        if what == "labels":
            return 1 if equal else -1
        return 1 if i == j else 0 if what == "ids" and equal else -1

    given = {} if what is None else {f"image_{what}": IDS, f"text_{what}": text}
    rows = loop_siglip(A.tolist(), B.tolist(), 2.0, bias or 0.0, sign)
    assert_equal(reference.siglip_loss(A, B, 2.0, bias, reduction="none", **given), rows)
    assert_equal(reference.siglip_loss(A, B, 2.0, bias, **given), sum(rows) / N)
    assert_equal(reference.siglip_loss(A, B, 2.0, bias, reduction="sum", **given), sum(rows))


def test_siglip_equals_torch_binary_cross_entropy():
    logits = 2 * A @ B.T - 1
    target = torch.eye(N, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / N
    assert_equal(reference.siglip_loss(A, B, 2.0, scalar(-1.0)), expected)


@pytest.mark.parametrize("logit", [25.0, -20.5])
def test_siglip_keeps_the_tail_of_large_logits(logit):
    """torch's softplus is cut to a line above 20; -20.5 would lose 1e-9 to it."""
    one = torch.ones(1, 1, dtype=torch.float64)
    expected = math.log1p(math.exp(-abs(logit))) + max(-logit, 0.0)
    loss = reference.siglip_loss(one, one, logit)
    torch.testing.assert_close(loss, scalar(expected), rtol=1e-12, atol=0)


# ---- two views: NT-Xent, debiased, decoupled


def loop_two_views(z1, z2, temperature):
    """(positive logit, logits of the other instances) of each of the 2N rows [z1; z2]."""
    z, n = z1 + z2, len(z1)
    for i in range(2 * n):
        other = [dot(z[i], z[k]) / temperature for k in range(2 * n) if k % n != i % n]
        yield dot(z[i], z[(i + n) % (2 * n)]) / temperature, other


def loop_debiased(positive, negatives, temperature, tau_plus):
    count = len(negatives)
    estimate = sum(math.exp(z) for z in negatives) - count * tau_plus * math.exp(positive)
    g = max(estimate / (1 - tau_plus), count * math.exp(-1 / temperature))
    return -math.log(math.exp(positive) / (math.exp(positive) + g))


def loop_nt_xent(z1, z2, temperature):
    return [log_sum_exp([p, *other]) - p for p, other in loop_two_views(z1, z2, temperature)]


def loop_debiased_nt_xent(z1, z2, temperature, tau_plus=0.1):
    views = loop_two_views(z1, z2, temperature)
    return [loop_debiased(p, other, temperature, tau_plus) for p, other in views]


def loop_debiased_info_nce(query, key, temperature, tau_plus=0.1):
    rows = []
    for i, q in enumerate(query):
        logits = [dot(q, k) / temperature for k in key]
        negatives = logits[:i] + logits[i + 1 :]
        rows.append(loop_debiased(logits[i], negatives, temperature, tau_plus))
    return rows


def loop_dcl(z1, z2, temperature):
    return [log_sum_exp(other) - p for p, other in loop_two_views(z1, z2, temperature)]


def loop_dclw(z1, z2, temperature, sigma=0.5):
    von_mises = [math.exp(dot(a, b) / sigma) for a, b in zip(z1, z2, strict=True)]
    weights = [2 - v / mean(von_mises) for v in von_mises]
    views = enumerate(loop_two_views(z1, z2, temperature))
    return [log_sum_exp(other) - weights[i % len(z1)] * p for i, (p, other) in views]


TWO_VIEW_LOOPS = {
    "nt_xent": loop_nt_xent,
    "debiased_info_nce": loop_debiased_info_nce,
    "debiased_nt_xent": loop_debiased_nt_xent,
    "dcl": loop_dcl,
    "dclw": loop_dclw,
}


@pytest.mark.parametrize("temperature", [0.4, 2.0])
@pytest.mark.parametrize("name", TWO_VIEW_LOOPS)
def test_two_view_losses_equal_their_loops(name, temperature):
    loss = getattr(reference, name)
    rows = TWO_VIEW_LOOPS[name](A.tolist(), B.tolist(), temperature)
    assert_equal(loss(A, B, temperature=temperature, reduction="none"), rows)
    assert_equal(loss(A, B, temperature=scalar(temperature)), mean(rows))
    assert_equal(loss(A, B, temperature=temperature, reduction="sum"), sum(rows))


@pytest.mark.parametrize("name", ["debiased_info_nce", "debiased_nt_xent"])
@pytest.mark.parametrize("tau_plus", [0.0, 0.05, 0.9])
def test_debiased_losses_follow_tau_plus(name, tau_plus):
    rows = TWO_VIEW_LOOPS[name](A.tolist(), B.tolist(), 0.5, tau_plus)
    loss = getattr(reference, name)(A, B, tau_plus=tau_plus, reduction="none")
    assert_equal(loss, rows)


def test_debiased_estimate_is_bounded_below():
    """Positives far above all negatives: a negative estimate, so the floor K e^{-1/t} holds."""
    x = torch.eye(D, dtype=torch.float64)
    loss = reference.debiased_info_nce(x, x, temperature=0.2, tau_plus=0.5)
    assert_equal(loss, math.log1p(2 * math.exp(-1 / 0.2) / math.exp(1 / 0.2)))


def test_nt_xent_equals_torch_cross_entropy():
    z = torch.cat([A, B])
    logits = (z @ z.T / 0.5).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    target = torch.cat([torch.arange(N, 2 * N), torch.arange(N)])
    assert_equal(reference.nt_xent(A, B), F.cross_entropy(logits, target))


def test_debiased_without_false_negatives_is_info_nce():
    loss = reference.debiased_info_nce(A, B, temperature=3.0, tau_plus=0.0, normalize=True)
    assert_equal(loss, reference.info_nce(A, B, temperature=3.0, normalize=True))


def test_dclw_follows_sigma():
    rows = loop_dclw(A.tolist(), B.tolist(), 0.1, sigma=2.0)
    assert_equal(reference.dclw(A, B, sigma=2.0, reduction="none"), rows)


# ---- supervised


def loop_sup_con(rows, labels, temperature):
    """Losses of all rows and the number of rows with a positive."""
    losses, counted = [], 0
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        loss = 0.0
        for p in positives:
            denominator = sum(math.exp(dot(row, rows[a]) / temperature) for a in others)
            loss -= math.log(math.exp(dot(row, rows[p]) / temperature) / denominator)
        losses.append(loss / len(positives) if positives else 0.0)
        counted += bool(positives)
    return losses, counted


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 0, 1], [3, 1, 3, 2], [0, 1, 2, 3]], ids=str)
def test_sup_con_equals_its_loop(labels):
    losses, counted = loop_sup_con(A.tolist(), labels, 0.7)
    arguments = (A, torch.tensor(labels))
    assert_equal(reference.sup_con(*arguments, temperature=0.7, reduction="none"), losses)
    assert_equal(reference.sup_con(*arguments, temperature=0.7), sum(losses) / max(counted, 1))
    assert_equal(reference.sup_con(*arguments, temperature=0.7, reduction="sum"), sum(losses))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_sup_con_takes_every_view_as_a_row(views):
    features = embeddings(views, N, D)
    labels = [3, 1, 3, 2]
    rows = [row for view in features.tolist() for row in view]
    losses, counted = loop_sup_con(rows, labels * views, 0.7)
    none = reference.sup_con(features, torch.tensor(labels), temperature=0.7, reduction="none")
    assert none.shape == (views, N)
    assert_equal(none.flatten(), losses)
    loss = reference.sup_con(features, torch.tensor(labels), temperature=0.7)
    assert_equal(loss, sum(losses) / counted)


def test_sup_con_of_instances_is_nt_xent():
    loss = reference.sup_con([A, B], torch.arange(N), temperature=0.5)
    assert_equal(loss, reference.nt_xent(A, B, temperature=0.5))


# ---- alignment and uniformity


def test_uniformity_equals_its_loop():
    a, b = A.tolist(), B.tolist()
    within = [math.exp(-0.3 * distance(a[i], a[j]) ** 2) for i in range(N) for j in range(i)]
    across = [math.exp(-0.3 * distance(a[i], b[j]) ** 2) for i in range(N) for j in range(N) if i != j]
    assert_equal(reference.uniformity(A, t=0.3), math.log(mean(within)))
    assert_equal(reference.uniformity(A, B, t=0.3), math.log(mean(across)))


def test_uniformity_equals_the_official_form():
    assert_equal(reference.uniformity(A), torch.pdist(A).pow(2).mul(-2).exp().mean().log())


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_alignment_equals_its_loop(alpha):
    distances = [distance(a, b) for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    powers = [d**alpha for d in distances]
    assert_equal(reference.alignment(A, B, alpha=alpha), mean(powers))
    assert_equal(reference.alignment(A, B, alpha=alpha, reduction="sum"), sum(powers))
    assert_equal(reference.alignment(A, B, alpha=alpha, reduction="none"), powers)
    unit = reference.alignment(F.normalize(A), F.normalize(B), alpha=alpha)
    assert_equal(reference.alignment(3.0 * A, 0.5 * B, alpha=alpha, normalize=True), unit)
    assert_equal(reference.uniformity(3.0 * A, normalize=True), reference.uniformity(F.normalize(A)))


# ---- all losses: derivatives, conventions

LEARNABLE = scalar(0.6)
PAIR_LOSSES = {
    "info_nce": reference.info_nce,
    "clip_loss": lambda x, y, **kw: reference.clip_loss(x, y, 2.0, **kw),
    "siglip_loss": lambda x, y, **kw: reference.siglip_loss(x, y, 2.0, -1.0, **kw),
    **{name: getattr(reference, name) for name in TWO_VIEW_LOOPS},
    "sup_con": lambda x, y, **kw: reference.sup_con([x, y], IDS[: len(x)], **kw),
    "dhel": reference.dhel,
    "mv_infonce": lambda x, y, **kw: reference.mv_infonce([x, y, 2.0 * y - x], **kw),
    "mv_infonce_across": lambda x, y, **kw: reference.mv_infonce([x, y], negatives="cross_view", **kw),
    "mv_dhel": lambda x, y, **kw: reference.mv_dhel(torch.stack([x, y, x - y]), **kw),
    "pvc": lambda x, y, **kw: reference.pvc([x, y, x + y], **kw),
    "pvc_arithmetic": lambda x, y, **kw: reference.pvc([x, y, x + y], aggregation="arithmetic", **kw),
    "pairwise_aggregate": lambda x, y, **kw: reference.pairwise_aggregate([x, y, y], reference.nt_xent, **kw),
}


KERNELS = ("gaussian", "log", "imq", "riesz", "gaussian_riesz")


def with_temperature(loss, **options):
    return lambda *tensors: loss(*tensors[:-1], temperature=tensors[-1], **options)


GRADIENT_CASES = {
    **{
        f"info_nce_{name}": (
            with_temperature(reference.info_nce, symmetric=symmetric, **options),
            (A, B, LEARNABLE),
        )
        for name, options in INFO_NCE_CASES.items()
        for symmetric in [name in ("ids", "margin", "smoothing")]
    },
    "info_nce_all_tensors": (
        lambda q, k, negatives, hard, temperature: reference.info_nce(
            q,
            k,
            temperature=temperature,
            negatives=negatives,
            hard_negatives=hard,
            query_ids=IDS,
            normalize=True,
        ),
        (A, B, NEGATIVES, HARD, torch.tensor([0.5, 0.7, 1.0, 2.0], dtype=torch.float64)),
    ),
    "clip_loss": (lambda *t: reference.clip_loss(*t, image_ids=IDS), (A, B, scalar(2.0))),
    **{
        f"siglip_loss_{what}": (
            lambda *t, what=what: reference.siglip_loss(*t, **{f"image_{what}": IDS}),
            (A, B, scalar(2.0), scalar(-1.0)),
        )
        for what in ("labels", "ids")
    },
    **{name: (with_temperature(getattr(reference, name)), (A, B, LEARNABLE)) for name in TWO_VIEW_LOOPS},
    **{
        f"{name}_at_its_floor": (
            with_temperature(getattr(reference, name), tau_plus=0.9),
            (A, B, LEARNABLE),
        )
        for name in ("debiased_info_nce", "debiased_nt_xent")
    },
    "sup_con": (
        lambda x, temperature: reference.sup_con(x, IDS, temperature=temperature),
        (A, LEARNABLE),
    ),
    "sup_con_one_row": (lambda x: reference.sup_con(x, IDS[:1]), (A[:1],)),
    **{
        name: (lambda x, y, t, loss=PAIR_LOSSES[name]: loss(x, y, temperature=t), (A, B, LEARNABLE))
        for name in ("dhel", "mv_infonce", "mv_infonce_across", "mv_dhel", "pvc", "pvc_arithmetic")
    },
    "dcl_one_pair": (reference.dcl, (A[:1], B[:1])),
    "dclw_one_pair": (reference.dclw, (A[:1], B[:1])),
    "uniformity": (reference.uniformity, (A,)),
    "uniformity_two_sides": (reference.uniformity, (A, B)),
    "alignment": (reference.alignment, (A, B)),
    **{
        f"kcl_{name}": (
            lambda x, y, t, g, name=name: reference.kcl(x, y, kernel=name, t=t, gamma=g),
            (A, B, LEARNABLE, LEARNABLE),
        )
        for name in KERNELS
    },
    "cuaxu": (lambda x, y, t, w: reference.cuaxu(x, y, 2.0, t=t, uniformity_weight=w), (A, B, LEARNABLE, LEARNABLE)),
}


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_first_and_second_derivatives_are_right(name, check):
    function, tensors = GRADIENT_CASES[name]
    leaves = [t.clone().requires_grad_() for t in tensors]
    assert check(function, leaves)


# of views that are sums of others: norms do not carry over
SUMS = {"mv_infonce", "mv_dhel", "pvc", "pvc_arithmetic"}


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES.keys() - SUMS))
def test_normalize_divides_by_the_norm(name):
    loss = PAIR_LOSSES[name]
    unit = [x / x.square().sum(dim=1, keepdim=True).sqrt() for x in (A, B)]
    assert_equal(loss(A, B, normalize=True), loss(*unit))


def test_normalize_reaches_the_extra_negatives():
    def unit(x):
        return x / x.square().sum(dim=-1, keepdim=True).sqrt()

    loss = reference.info_nce(A, B, negatives=NEGATIVES, hard_negatives=HARD, normalize=True)
    expected = reference.info_nce(unit(A), unit(B), negatives=unit(NEGATIVES), hard_negatives=unit(HARD))
    assert_equal(loss, expected)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_unknown_reductions_are_refused(name):
    with pytest.raises(ValueError, match="reduction"):
        PAIR_LOSSES[name](A, B, reduction="average")


ALL_LOSSES = {
    **PAIR_LOSSES,
    **{f"kcl_{name}": partial(reference.kcl, kernel=name) for name in KERNELS},
    "cua": reference.cua,
    "cuaxu": reference.cuaxu,
    "alignment": reference.alignment,
    "uniformity": lambda x, y: reference.uniformity(x),
    "uniformity_two_sides": reference.uniformity,
}


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_an_empty_batch_is_zero_with_zero_gradients(name):
    x, y = (torch.zeros(0, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = ALL_LOSSES[name](x, y)
    assert loss.shape == () and loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.shape == (0, D)


@pytest.mark.parametrize("name", ["none", "negatives"])
def test_an_empty_batch_gives_its_scale_no_gradient(name):
    temperature = scalar(0.5).requires_grad_()
    negatives = NEGATIVES.clone().requires_grad_()
    options = {"negatives": negatives} if name == "negatives" else {}
    empty = torch.zeros(0, D, dtype=torch.float64)
    loss = reference.info_nce(empty, empty, temperature=temperature, **options)
    gradients = torch.autograd.grad(loss, [temperature, *options.values()])
    assert loss.item() == 0 and all((g == 0).all() for g in gradients)


WITH_ALIGNMENT = {"alignment", "cua", "cuaxu", *(f"kcl_{name}" for name in KERNELS)}


@pytest.mark.parametrize("name", sorted(set(ALL_LOSSES) - WITH_ALIGNMENT - {"siglip_loss"}))
def test_one_pair_has_nothing_to_contrast(name):
    """N = 1: no negative, no other instance, no pair. SupCon still has the other view only."""
    x, y = (t[:1].clone().requires_grad_() for t in (A, B))
    loss = ALL_LOSSES[name](x, y)
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, [x, y], allow_unused=True)
    assert all((g == 0).all() for g in gradients if g is not None)


def test_one_pair_of_siglip_is_one_logistic_loss():
    expected = math.log(1 + math.exp(-(2 * dot(A[0].tolist(), B[0].tolist()) - 1)))
    assert_equal(reference.siglip_loss(A[:1], B[:1], 2.0, -1.0), expected)


def test_sup_con_without_any_positive_is_zero_with_zero_gradients():
    x = A.clone().requires_grad_()
    loss = reference.sup_con(x, torch.arange(N))
    loss.backward()
    assert loss.item() == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_every_floating_dtype_works(name, dtype):
    x, y = (F.normalize(t, dim=1).to(dtype).requires_grad_() for t in (A, B))
    loss = ALL_LOSSES[name](x, y)
    loss.backward()
    assert loss.dtype == dtype and loss.isfinite() and x.grad.isfinite().all()


def test_all_names_are_exported():
    assert reference.__all__ == sorted(reference.__all__)
    variants = {"mv_infonce_across", "pvc_arithmetic", "uniformity_two_sides", *(f"kcl_{name}" for name in KERNELS)}
    elsewhere = {"area", "gram_loss", "gram_volume", "gram_volume_matrix", "triangle_loss"}  # tests/test_<name>.py
    elsewhere |= {"pmrl_loss", "singular_alignment", "symile_loss", "mip_similarity", "maxsim"}
    elsewhere |= {"maxsim_candidates", "modality_maxsim"}
    elsewhere |= {
        "clip_distill_loss",
        "cwcl_loss",
        "distill_info_nce",
        "hydra_loss",
        "multilabel_contrastive",
        "softclip_loss",
    }  # test_distill.py
    elsewhere |= {"mil_nce", "multi_positive", "fdt_features", "fdt_loss", "late_interaction_info_nce", "sparsemax"}
    elsewhere |= {"cross_attention_scores", "word_region_loss", "word_region_scores", "xtr_scores"}
    elsewhere |= {"m2_mix", "mixup_info_nce", "slerp"}  # test_mixup.py
    elsewhere |= {"block_info_nce", "cma_loss", "global_local_info_nce", "m3el_loss", "margin_info_nce"}
    elsewhere |= {"pearson_loss", "pro_loss", "rank_kl_loss"}  # test_listwise.py
    elsewhere |= {"dcd_loss", "js_divergence", "project_conflicting", "teacher_hard_negatives"}  # test_score_rows.py
    elsewhere |= {"prototype_loss"}  # test_structured.py
    elsewhere |= {"grouped_info_nce", "grouped_margin_loss"}  # test_grouped.py
    elsewhere |= {"barlow_twins_loss", "cross_correlation", "in_modal_consistency", "cross_modal_consistency"}
    elsewhere |= {"cosine_loss", "dino_loss", "joint_entropy", "linear_cross_entropy", "multiview_clip_loss"}
    assert set(ALL_LOSSES) - variants | {"kcl"} | elsewhere == set(reference.__all__)

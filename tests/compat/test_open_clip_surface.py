"""Signatures, refusals, copies of the open_clip drop-ins, and open_clip's own training loop with them."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile.compat import open_clip as ours
from support.open_clip_training import train, training_arguments
from support.standins import load
from support.views import two_views

pytestmark = pytest.mark.peers
CLASSES = ("ClipLoss", "SigLipLoss", "CoCaLoss", "DistillClipLoss")


def peer():
    return load("open_clip.loss", shells=("open_clip",))


def arguments(name):
    return (2.0, 1.0) if name == "CoCaLoss" else ()


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_begin_with_the_peers(name):
    methods = ("__init__", "forward", "get_logits", "get_ground_truth")
    for method in methods + (("dist_loss",) if name == "DistillClipLoss" else ()):
        true = inspect.signature(getattr(getattr(peer(), name), method)).parameters
        found = inspect.signature(getattr(getattr(ours, name), method)).parameters
        of_main = {"chunk_size"} - set(true)  # open_clip's main branch has it, after all others
        shared = [p for p in found.values() if p.kind is not p.KEYWORD_ONLY and p.name not in of_main]
        assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in true.values()]


@pytest.mark.parametrize("name", CLASSES)
def test_repr_and_state_are_the_peers(name):
    found, true = getattr(ours, name)(*arguments(name)), getattr(peer(), name)(*arguments(name))
    assert repr(found) == repr(true)
    assert found.state_dict() == true.state_dict() == {}
    assert [n for n, _ in found.named_modules()] == [n for n, _ in true.named_modules()]
    settings = {n: x for n, x in vars(true).items() if n[0] != "_" and n not in ("labels", "prev_num_logits")}
    assert settings.items() <= vars(found).items()


@pytest.mark.parametrize("name", CLASSES)
def test_copies_and_pickles_give_equal_losses(name):
    loss = getattr(ours, name)(*arguments(name), backend="torch")
    stream = io.BytesIO()
    torch.save(loss, stream)
    stream.seek(0)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), torch.load(stream, weights_only=False)):
        assert {n: x for n, x in vars(other).items() if n[0] != "_"} == {
            n: x for n, x in vars(loss).items() if n[0] != "_"
        }
    loss.half().to("cpu")


@pytest.mark.parametrize("name", CLASSES)
def test_dictionaries_have_the_peers_keys(name):
    image, text = (x.float() for x in two_views(5, 4))
    rest = {
        "SigLipLoss": {"logit_bias": 0.0}, "DistillClipLoss": {
            "dist_image_features": image, "dist_text_features": text, "dist_logit_scale": 3.0,
        },
        "CoCaLoss": {"logits": torch.zeros(5, 3, 7), "labels": torch.ones(5, 3, dtype=torch.long)},
    }.get(name, {})  # fmt: skip
    for module in (ours, peer()):
        loss = getattr(module, name)(*arguments(name))
        named = loss(image_features=image, text_features=text, logit_scale=2.0, output_dict=True, **rest)
        assert list(named) == {
            "CoCaLoss": ["contrastive_loss", "caption_loss"], "DistillClipLoss": ["contrastive_loss", "distill_loss"]
        }.get(name, ["contrastive_loss"])  # fmt: skip


@pytest.mark.parametrize("bias", [None, -2.0])
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_get_logits(name, bias):
    image, text = two_views(9, 5)
    found, true = (getattr(m, name)().get_logits(image, text, 3.0, bias) for m in (ours, peer()))
    for x, y in zip(found, true, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-14, atol=1e-14)


def test_get_ground_truth():
    assert torch.equal(ours.ClipLoss().get_ground_truth("cpu", 5), peer().ClipLoss().get_ground_truth("cpu", 5))
    for negative_only in (False, True):
        found, true = (
            m.SigLipLoss().get_ground_truth("cpu", torch.float64, 5, negative_only=negative_only)
            for m in (ours, peer())
        )
        assert torch.equal(found, true) and found.dtype == true.dtype


def test_dist_loss_of_given_logits():
    student, teacher = (3.0 * x for x in two_views(9, 5))
    for types in ((torch.float64, torch.float64), (torch.float32, torch.float64), (torch.bfloat16, torch.float32)):
        logits = [x.to(t) for x, t in zip((teacher, student), types, strict=True)]
        found, true = (m.DistillClipLoss().dist_loss(*logits) for m in (ours, peer()))
        assert found.dtype == true.dtype
        torch.testing.assert_close(found, true)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("name", CLASSES)
def test_scales_and_biases_of_one_element(name, shape):
    """Gradients in the shape that was given."""
    image, text = (x.float() for x in two_views(9, 5))
    results = []
    for module in (ours, peer()):
        scales = [torch.full(shape, x, requires_grad=True) for x in (7.0, -3.0 if name != "DistillClipLoss" else 4.0)]
        named = {
            "CoCaLoss": {"logits": torch.zeros(9, 3, 7), "labels": torch.ones(9, 3, dtype=torch.long)},
            "DistillClipLoss": {
                "dist_image_features": text, "dist_text_features": image, "dist_logit_scale": scales[1]
            },
        }.get(name, {"logit_bias": scales[1]})  # fmt: skip
        value = getattr(module, name)(*arguments(name))(image, text, logit_scale=scales[0], **named)
        value = sum(value) if isinstance(value, tuple) else value
        used = scales[:1] if name == "CoCaLoss" else scales
        results.append((value, *torch.autograd.grad(value, used)))
    for x, y in zip(*results, strict=True):
        assert x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


KINDS = {
    "ClipLoss": ([], {}), "SigLipLoss": (["--siglip", "--loss-dist-impl", "gather"], {}),
    "CoCaLoss": (["--model", "coca_ViT-B-32", "--coca-caption-loss-weight", "3"], {}),
    "DistillClipLoss": (["--local-loss", "--gather-with-grad", "--siglip"], {"distill": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_create_loss_makes_the_peers_choice(name):
    from support.open_clip_training import open_clip_modules

    flags, more = KINDS[name]
    args = training_arguments(*flags, **more)
    true = open_clip_modules().open_clip.create_loss(args)
    found = ours.create_loss(args, backend="torch")
    assert type(found).__name__ == type(true).__name__ == name
    settings = {n: x for n, x in vars(true).items() if n[0] != "_" and n not in ("labels", "prev_num_logits")}
    assert settings.items() <= vars(found).items() and found.backend == "torch"


# ---- several processes: test_ranks.py


@pytest.mark.parametrize("name", CLASSES)
def test_several_processes_need_a_process_group_when_called(name):
    loss = getattr(ours, name)(*arguments(name), world_size=4, rank=1)
    image, text = (x.float() for x in two_views(5, 4))
    rest = {
        "SigLipLoss": (1.0, 0.0), "DistillClipLoss": (1.0, image, text, 1.0),
        "CoCaLoss": (torch.zeros(5, 3, 7), torch.ones(5, 3, dtype=torch.long), 1.0),
    }.get(name, (1.0,))  # fmt: skip
    with pytest.raises(ValueError, match="init_process_group"):
        loss(image, text, *rest)
    if name != "SigLipLoss":
        horovod = getattr(ours, name)(*arguments(name), world_size=4, rank=1, use_horovod=True)
        with pytest.raises(NotImplementedError, match="use_horovod=True with several processes"):
            horovod(image, text, *rest)


def test_flags_for_several_processes_change_nothing_with_one():
    image, text = (x.float() for x in two_views(9, 5))
    flags = {"local_loss": True, "gather_with_grad": True, "cache_labels": True, "use_horovod": True}
    assert torch.equal(ours.ClipLoss(**flags)(image, text, 5.0), ours.ClipLoss()(image, text, 5.0))
    for impl in ("bidir", "shift", "reduce", "gather"):
        found = ours.SigLipLoss(dist_impl=impl)(image, text, 5.0, -5.0)
        assert torch.equal(found, ours.SigLipLoss()(image, text, 5.0, -5.0))
    assert ours.gather_features(image, text) == (image, text)
    with pytest.raises(NotImplementedError, match="use_horovod=True"):
        ours.gather_features(image, text, world_size=2, use_horovod=True)


# ---- refused and degenerate input


def test_bad_arguments_are_named():
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="dist_impl"):
        ours.SigLipLoss(dist_impl="ring")
    with pytest.raises(ValueError, match="backend"):
        ours.ClipLoss(backend="fast")(x, x, 1.0)
    with pytest.raises(ValueError, match="text_features"):
        ours.ClipLoss()(x, torch.zeros(5, 3), 1.0)
    with pytest.raises(TypeError, match="image_features"):
        ours.SigLipLoss()([1.0], x, 1.0, 0.0)
    with pytest.raises(ValueError, match="logit_bias"):
        ours.ClipLoss()(x, x, 1.0, torch.zeros(4))
    with pytest.raises(ValueError, match="dist_image_features"):
        ours.DistillClipLoss()(x, x, 1.0, torch.zeros(5, 3), torch.zeros(5, 3), 1.0)
    with pytest.raises(ValueError, match="dist_text_features"):
        ours.DistillClipLoss()(x, x, 1.0, torch.zeros(4, 7), x, 1.0)


def test_an_empty_batch_gives_zero_where_the_peer_gives_nan():
    x = torch.zeros(0, 3, requires_grad=True)
    values = [
        ours.ClipLoss()(x, x, 1.0),
        ours.SigLipLoss()(x, x, 1.0, 0.0),
        *ours.DistillClipLoss()(x, x, 1.0, x, x, 1.0),
    ]
    assert all(value == 0 and value.requires_grad for value in values)
    assert peer().ClipLoss()(x, x, 1.0).isnan()


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "DistillClipLoss"])
def test_odd_features(name):
    """Views, one-element scales, duplicated and zero rows, and NaN in, NaN out."""
    wide = torch.stack(two_views(14, 6)).float().transpose(1, 2).contiguous().transpose(1, 2)
    image, text = wide[0, ::2], wide[1, ::2].clone()
    text[3], text[4] = text[2], 0.0
    rest = {"SigLipLoss": (torch.tensor([9.0]), torch.tensor([-3.0]))}.get(name, (torch.tensor([9.0]),))
    rest += (image, text, 5.0) if name == "DistillClipLoss" else ()
    found, true = (getattr(m, name)()(image, text, *rest) for m in (ours, peer()))
    torch.testing.assert_close(found, true, rtol=2e-6, atol=2e-6)
    broken = image.clone()
    broken[1, 2] = torch.nan
    value = getattr(ours, name)()(broken, text, *rest)
    assert all(x.isnan() for x in (value if isinstance(value, tuple) else (value,)))


def test_gradients_may_be_differentiated():
    x = torch.randn(8, 4, dtype=torch.float64)
    found = []
    for loss in (ours.ClipLoss(), contrastile.reference.clip_loss):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(leaf, F.normalize(leaf, dim=1), 3.0), leaf, create_graph=True)
        found += torch.autograd.grad(grad.square().sum(), leaf)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "DistillClipLoss"])
def test_compiled_without_a_graph_break(name):
    image, text = (x.float().requires_grad_() for x in two_views(12, 6))
    scale = torch.tensor(9.0, requires_grad=True)
    rest = {"SigLipLoss": (torch.tensor(-3.0),), "DistillClipLoss": (image.detach(), text.detach(), 5.0)}.get(name, ())
    loss = getattr(ours, name)()
    total = lambda value: sum(value) if isinstance(value, tuple) else value  # noqa: E731
    results = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        value = total(function(image, text, scale, *rest))
        results.append((value, *torch.autograd.grad(value, (image, text, scale))))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y)


# ---- open_clip's training loop

RUNS = {
    "clip": ("clip", [], {}),
    "accumulation": ("clip", ["--accum-freq", "2"], {}),
    "siglip": ("siglip", ["--siglip"], {}),
    "coca": ("coca", ["--model", "coca_ViT-B-32"], {}), "distillation": ("clip", [], {"distill": True}),
}  # fmt: skip


def run(create_loss, name, *flags, dtype=torch.float32):
    kind, own, more = RUNS[name]
    args = training_arguments(*own, *flags, **more)
    log, parameters = train(kind, create_loss(args), args, dtype)
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in log.items()}, parameters


@pytest.mark.parametrize("name", RUNS)
def test_open_clips_training_goes_step_by_step_as_with_its_own_loss(name):
    """As close to open_clip in float64 as open_clip in float32 is, at every step; then in float64 itself."""
    from support.open_clip_training import open_clip_modules

    theirs = open_clip_modules().open_clip.create_loss
    truth, end = run(theirs, name, dtype=torch.float64)
    twin, _ = run(theirs, name)
    found, _ = run(ours.create_loss, name)
    assert found.keys() == truth.keys() and len(found["train/loss"]) == (3 if name == "accumulation" else 6)
    for key, true in truth.items():
        allowed = 4 * (twin[key] - true).abs().cummax(0).values + 16 * 2**-23 * true.abs()
        assert ((found[key] - true).abs() <= allowed).all(), key
    exact, other_end = run(ours.create_loss, name, dtype=torch.float64)
    for key, true in truth.items():
        torch.testing.assert_close(exact[key], true, rtol=1e-11, atol=1e-11)
    for key, parameter in end.items():
        torch.testing.assert_close(other_end[key], parameter, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("precision", ["amp_bfloat16", "amp"])
def test_open_clips_mixed_precision_training(precision):
    """As close to float32 training as open_clip's own mixed precision is, over all steps."""
    from support.open_clip_training import open_clip_modules

    theirs = open_clip_modules().open_clip.create_loss
    truth, _ = run(theirs, "clip")
    twin, _ = run(theirs, "clip", "--precision", precision)
    found, _ = run(ours.create_loss, "clip", "--precision", precision)
    worst = (twin["train/loss"] - truth["train/loss"]).abs().max()
    assert (found["train/loss"] - truth["train/loss"]).abs().max() <= 1.5 * worst

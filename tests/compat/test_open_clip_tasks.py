"""The drop-ins in open_clip's training tasks, which its main branch has in place of create_loss: their calls of a loss,
restated, with the losses of the release as the truth. `make compat-peers` runs main's own tests."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from contrastile.compat import open_clip as ours
from support.launch import gather_from
from support.standins import load
from support.views import two_views

pytestmark = pytest.mark.peers
FLAGS = {"local_loss": True, "gather_with_grad": True, "cache_labels": False, "rank": 1, "world_size": 2}
N, D, LENGTH, WORDS = 9, 5, 6, 7


def peer():
    return load("open_clip.loss", shells=("open_clip",))


class Model(nn.Module):
    """Features of unit length, and the numbers that open_clip's models put beside them."""

    def __init__(self, other="image", bias=False, captions=False, shape=()):
        super().__init__()
        torch.manual_seed(0)
        self.other, self.captions = other, captions
        self.towers = nn.ModuleList([nn.Linear(D, 4, dtype=torch.float64) for _ in range(2)])
        self.logit_scale = nn.Parameter(torch.full(shape, 2.0, dtype=torch.float64))
        self.logit_bias = nn.Parameter(torch.full(shape, -3.0, dtype=torch.float64)) if bias else None

    def forward(self, text, **batch):
        names = (f"{self.other}_features", "text_features")
        inputs = (batch[self.other], text.to(torch.float64))
        out = {n: nn.functional.normalize(f(x), dim=1) for n, f, x in zip(names, self.towers, inputs, strict=True)}
        out["logit_scale"] = self.logit_scale.exp()
        if self.logit_bias is not None:
            out["logit_bias"] = self.logit_bias
        if self.captions:
            out["logits"] = out["image_features"][:, :1, None] * torch.ones(len(text), LENGTH, WORDS).cumsum(2)
        return out


class Task(nn.Module):
    """CLIPTask and SigLIPTask: the model's dictionary is the loss's keywords, and all that ends in _loss is summed."""

    def __init__(self, model, loss):
        super().__init__()
        self.trainable_module, self.loss = model, loss

    def keywords(self, out, batch):
        return out

    def forward(self, batch):
        out = self.trainable_module(**batch)
        losses = self.loss(**self.keywords(out, batch), output_dict=True)
        losses["loss"] = sum(value for name, value in losses.items() if name.endswith("_loss"))
        return losses


class CLAPTask(Task):
    def keywords(self, out, batch):
        return {("image_features" if name == "audio_features" else name): x for name, x in out.items()}


class CoCaTask(Task):
    def keywords(self, out, batch):
        tokens = batch["text"].long() % WORDS
        tokens = torch.cat([tokens, tokens], 1)[:, :LENGTH]
        kept = {name: out[name] for name in ("image_features", "text_features", "logit_scale")}
        return kept | {"logits": out["logits"][:, :-1], "labels": tokens[:, 1:]}


class DistillCLIPTask(Task):
    def keywords(self, out, batch):
        return out | {f"dist_{name}": x.detach().roll(1, 0) if x.dim() else x.detach() for name, x in out.items()}


KINDS = {
    "CLIPTask": (Task, {}, "ClipLoss", ()),
    "CLIPTask, bias": (Task, {"bias": True}, "ClipLoss", ()),
    "CLIPTask, FSDP2's scale": (Task, {"shape": (1,)}, "ClipLoss", ()),
    "SigLIPTask": (Task, {"bias": True}, "SigLipLoss", ()),
    "SigLIPTask, FSDP2's scale": (Task, {"bias": True, "shape": (1,)}, "SigLipLoss", ()),
    "CLAPTask": (CLAPTask, {"other": "audio"}, "ClipLoss", ()),
    "CoCaTask": (CoCaTask, {"captions": True}, "CoCaLoss", (2.0, 0.5)),
    "DistillCLIPTask": (DistillCLIPTask, {}, "DistillClipLoss", ()),
}


def batch(other="image"):
    return {other: two_views(N, D)[0], "text": (10 * two_views(N, D)[1]).round()}


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_learn_as_with_open_clips_losses(kind):
    make, options, name, weights = KINDS[kind]
    results = []
    for module in (ours, peer()):
        model = Model(**options)
        losses = make(model, getattr(module, name)(*weights))(batch(model.other))
        results.append((losses, torch.autograd.grad(losses["loss"].sum(), list(model.parameters()))))
    (found, found_grads), (true, true_grads) = results
    assert list(found) == list(true)
    for x, y in zip((*found.values(), *found_grads), (*true.values(), *true_grads), strict=True):
        torch.testing.assert_close(x, y.reshape(x.shape), rtol=1e-11, atol=1e-12)


def test_the_loss_of_captions_is_torchs():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for ignored in (-100, 4):
        labels = torch.tensor([[1, ignored, 3], [0, 2, ignored]])
        true = nn.functional.cross_entropy(logits.view(6, 5), labels.view(6), ignore_index=ignored)
        found = ours.GenLipLoss(ignored)(logits, labels, output_dict=True)
        assert list(found) == ["caption_loss"] and torch.equal(found["caption_loss"], true)
    assert torch.equal(ours.GenLipLoss(4)(logits, labels), true)


# ---- fuse_task


@pytest.mark.parametrize("name", ["ClipLoss", "CoCaLoss", "DistillClipLoss"])
def test_a_tasks_loss_is_replaced_with_its_settings(name):
    weights = {"caption_loss_weight": 3.0, "clip_loss_weight": 0.5, "pad_id": 2} if name == "CoCaLoss" else {}
    theirs = getattr(peer(), name)(**weights, **FLAGS)
    task = Task(Model(), theirs)
    assert ours.fuse_task(task, backend="torch", memory_budget=1 << 20) is task
    assert type(task.loss) is getattr(ours, name) and task.loss.engine == {"backend": "torch", "memory_budget": 1 << 20}
    settings = {n: x for n, x in vars(theirs).items() if n[0] != "_" and n not in ("labels", "prev_num_logits")}
    assert settings.items() <= vars(task.loss).items()
    if weights:
        assert task.loss.caption_loss.ignore_index == 2
    assert ours.fuse_task(task).loss.backend == "torch"  # a drop-in stays


@pytest.mark.parametrize("chunk", [None, 128])
def test_a_siglip_tasks_loss_is_replaced_with_its_settings(chunk):
    theirs = peer().SigLipLoss(cache_labels=True, rank=1, world_size=2, dist_impl="gather")
    if chunk is not None:
        theirs.chunk_size = chunk
    found = ours.fuse_task(Task(Model(), theirs)).loss
    assert (found.rank, found.world_size, found.dist_impl, found.chunk_size) == (1, 2, "gather", chunk or 0)


def test_a_task_that_nothing_can_be_replaced_in_is_refused():
    with pytest.raises(ValueError, match="Task has no loss to replace"):
        ours.fuse_task(Task(Model(), None))

    class Mine(peer().ClipLoss):
        pass

    for loss in (nn.CrossEntropyLoss(), Mine()):
        with pytest.raises(ValueError, match=rf"must be one of open_clip's ClipLoss.*{type(loss).__name__}"):
            ours.fuse_task(Task(Model(), loss))


# ---- create_loss, create_task, use_in


def arguments(**more):
    given = {"model": "ViT-B-32", "distill": False, "siglip": False, "rank": 0, "world_size": 1}
    return SimpleNamespace(**given, local_loss=False, gather_with_grad=False, **more)


def test_create_loss_needs_no_argument_that_main_lacks():
    assert type(ours.create_loss(arguments())) is ours.ClipLoss
    assert not ours.create_loss(arguments()).use_horovod
    for model in ("genlip-base", "GenLAP"):
        found = ours.create_loss(SimpleNamespace(**vars(arguments()) | {"model": model}))
        assert type(found) is ours.GenLipLoss
    for strategy, cached in (("task", False), ("step", False), ("model", True)):
        assert ours.create_loss(arguments(torchcompile=True, torchcompile_strategy=strategy)).cache_labels is cached
    with pytest.raises(NotImplementedError, match="horovod"):
        ours.create_loss(SimpleNamespace(**vars(arguments(horovod=True, loss_dist_impl=None)) | {"siglip": True}))


@pytest.fixture
def package(monkeypatch):
    """Stands in for main: a create_task that makes a task with its own loss."""
    made = ModuleType("open_clip")
    made.create_task = lambda args, model, dist_model=None, config=None: Task(model, args.loss)
    monkeypatch.setitem(sys.modules, "open_clip", made)
    return made


def test_create_task_is_open_clips_with_the_loss_replaced(package):
    task = ours.create_task(arguments(loss=peer().ClipLoss(rank=1, world_size=2)), Model(), backend="torch")
    assert type(task) is Task and type(task.loss) is ours.ClipLoss
    assert (task.loss.rank, task.loss.world_size, task.loss.backend) == (1, 2, "torch")
    with pytest.raises(ValueError, match="has no loss to replace"):
        ours.create_task(arguments(loss=None), Model())


def test_create_task_of_a_release_without_tasks_says_so(package):
    del package.create_task
    package.__version__ = "3.3.0"
    with pytest.raises(RuntimeError, match=r"open_clip 3\.3\.0 has no training tasks: use create_loss"):
        ours.create_task(arguments(), Model())


def test_use_in_sets_what_the_program_calls(package):
    release, main, neither = (ModuleType(name) for name in ("release", "main", "neither"))
    release.create_loss = main.create_task = None
    assert ours.use_in(release, backend="torch") == ("create_loss",) and ours.use_in(main) == ("create_task",)
    assert release.create_loss(arguments()).backend == "torch"
    assert type(main.create_task(arguments(loss=peer().ClipLoss()), model=Model()).loss) is ours.ClipLoss
    with pytest.raises(ValueError, match="neither calls neither create_loss nor create_task"):
        ours.use_in(neither)


# ---- chunk_size, FSDP2


def test_chunk_size_changes_nothing():
    pair = two_views(N, D)
    assert torch.equal(ours.SigLipLoss(chunk_size=2)(*pair, 5.0, -5.0), ours.SigLipLoss()(*pair, 5.0, -5.0))
    for wrong in (None, 2.0, True):
        with pytest.raises(TypeError, match="chunk_size must be an int"):
            ours.SigLipLoss(chunk_size=wrong)


def sharded(rank, name):
    """Gradients of a model that FSDP2 shards, from this rank's half of the batch: its whole parameters by name."""
    from torch.distributed.fsdp import fully_shard

    flags = {"rank": rank, "world_size": 2}
    loss = ours.SigLipLoss(**flags) if name == "SigLipLoss" else ours.ClipLoss(True, True, False, **flags)
    model = Model(bias=name == "SigLipLoss", shape=(1,))  # the task gives them one dimension, to shard
    for tower in model.towers:
        fully_shard(tower)
    fully_shard(model)
    part = {key: x[:8].chunk(2)[rank] for key, x in batch().items()}
    Task(model, loss)(part)["loss"].sum().backward()
    return {key: p.grad.full_tensor() for key, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_two_ranks_with_fsdp2_have_the_gradients_of_one_process(name):
    model = Model(bias=name == "SigLipLoss", shape=(1,))
    Task(model, getattr(ours, name)())({key: x[:8] for key, x in batch().items()})["loss"].sum().backward()
    for found in gather_from(2, sharded, name):
        assert isinstance(found, dict), found
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-11, atol=1e-12)

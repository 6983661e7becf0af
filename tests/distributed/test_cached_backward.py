"""cached_backward in one process: what encoders may return and change, autocast, compiled encoders, refusals."""

import copy
import functools
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import contrastile
from contrastile.distributed import cached_backward

from .two_towers import DROPOUT, WIDTH, batches, clip, model


def test_cached_backward_is_backward_with_the_same_dropout():
    image, text = next(batches())
    whole, pieces = model(dropout=DROPOUT), model(dropout=DROPOUT)
    torch.manual_seed(7)
    features = [
        torch.cat([tower(x) for x in batch.split(4)]) for tower, batch in ((whole.image, image), (whole.text, text))
    ]
    value = clip(*features, whole.log_scale.exp())
    value.backward()
    torch.manual_seed(7)
    found = cached_backward(
        [pieces.image, pieces.text], [image.split(4), text.split(4)], lambda a, b: clip(a, b, pieces.log_scale.exp())
    )
    after = torch.rand(1)
    torch.testing.assert_close(found, value.detach())
    for x, y in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    assert not torch.equal(after, torch.rand(1))


def test_cached_backward_of_one_encoder_and_a_frozen_one():
    image, text = next(batches())
    shared, frozen = model().image, model().text.requires_grad_(False)
    cached_backward(shared, [image.split(3), text.split(3)], lambda a, b: clip(a, b, torch.tensor(5.0)))
    twin = model().image
    clip(twin(image), twin(text), torch.tensor(5.0)).backward()
    for x, y in zip(shared.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    cached_backward([shared, frozen], [image.split(3), text.split(3)], lambda a, b: clip(a, b, torch.tensor(5.0)))
    assert all(x.grad is None for x in frozen.parameters())


def test_cached_backward_refuses_what_does_not_match():
    net = model()
    with pytest.raises(ValueError, match="as many"):
        cached_backward([net.image], [[torch.ones(2, WIDTH)]] * 2, lambda a: a.sum())
    with pytest.raises(ValueError, match="at least one piece"):
        cached_backward(net.image, [[]], lambda a: a.sum())


# ---- buffers ----


def split_step(net, x):
    """The same step without cache: every piece encoded once, in order."""
    features = [torch.cat([net(part) for part in x.split(4)]) for _ in range(2)]
    clip(*features, torch.tensor(5.0)).backward()


def same_after_both(net, x):
    twin = copy.deepcopy(net)
    cached_backward(net, [x.split(4)] * 2, lambda a, b: clip(a, b, torch.tensor(5.0)))
    split_step(twin, x)
    for (name, found), right in zip(net.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, right, msg=name)
    for found, right in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found.grad, right.grad)


class Queue(nn.Module):
    """Adds what its queue holds, which it then replaces by another tensor; its counter grows in place, from the second
    piece on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.ones(WIDTH))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nothing", None)
        self.calls = 0

    def forward(self, x):
        y = x + self.queue + self.seen
        self.queue = 0.9 * self.queue + x.mean(0).detach()
        if self.calls:
            self.seen += 1
        self.calls += 1
        return y


@pytest.mark.parametrize("kind", ["batch norm", "spectral norm", "queue", "compiled batch norm"])
def test_buffers_move_once(kind):
    torch.manual_seed(0)
    layers = {
        "spectral norm": lambda: [spectral_norm(nn.Linear(WIDTH, 8))],
        "queue": lambda: [Queue(), nn.Linear(WIDTH, 8)],
    }.get(kind, lambda: [nn.Linear(WIDTH, 8), nn.BatchNorm1d(8)])()
    net = nn.Sequential(*layers).double()
    if kind.startswith("compiled"):
        net[1].compile(backend="eager")
    same_after_both(net, torch.randn(12, WIDTH, dtype=torch.float64))


def test_buffers_come_back_where_the_loss_fails():
    net = nn.BatchNorm1d(WIDTH)
    with pytest.raises(ZeroDivisionError):
        cached_backward(net, [torch.randn(8, WIDTH).split(4)], lambda a: 1 / 0)
    assert int(net.num_batches_tracked) == 2


# ---- what encoders return ----


class Encoded(NamedTuple):
    tokens: torch.Tensor
    mask: torch.Tensor
    name: str


FORMS = {
    "tuple": lambda tokens, mask: (tokens, mask),
    "dict": lambda tokens, mask: {"more": [tokens], "mask": mask, "none": None},
    "named tuple": lambda tokens, mask: Encoded(tokens, mask, "text"),
}
PARTS = {
    "tuple": lambda x: x,
    "dict": lambda x: (x["more"][0], x["mask"]),
    "named tuple": lambda x: (x.tokens, x.mask),
}


@pytest.mark.parametrize("form", FORMS)
def test_pieces_of_different_lengths_and_masks(form):
    torch.manual_seed(0)
    net = nn.Linear(WIDTH, 4).double()
    twin = copy.deepcopy(net)
    lengths = (3, 5, 2)
    pieces = [torch.randn(rows, n, WIDTH, dtype=torch.float64) for rows, n in zip((4, 0, 3), lengths, strict=True)]
    masks = [torch.rand(x.shape[:2]) < 0.7 for x in pieces]

    def pooled(encoded):
        tokens, mask = PARTS[form](encoded)
        return F.normalize((tokens * mask.unsqueeze(2)).sum(1), dim=1)

    def loss(a, b):
        tokens, mask = PARTS[form](a)
        assert tokens.shape == (7, 5, 4) and mask.dtype == torch.bool and not mask[:4, 3:].any()
        return clip(pooled(a), pooled(b), torch.tensor(3.0))

    batch = list(zip(pieces, masks, strict=True))
    cached_backward(lambda piece: FORMS[form](net(piece[0]), piece[1]), [batch, batch], loss)
    whole = [torch.cat([pooled(FORMS[form](twin(x) + shift, mask)) for x, mask in batch]) for shift in (0, 0)]
    clip(*whole, torch.tensor(3.0)).backward()
    torch.testing.assert_close(net.weight.grad, twin.weight.grad)
    torch.testing.assert_close(net.bias.grad, twin.bias.grad)


def test_a_column_that_the_loss_does_not_need_is_not_encoded_again():
    net, calls = model(), []
    image, text = next(batches())
    cached_backward(
        [net.image, lambda x: calls.append(1) or net.text(x)],
        [image.split(4), text.split(4)],
        lambda a, b: clip(a, b.detach(), torch.tensor(5.0)),
    )
    assert len(calls) == len(text.split(4))
    assert all(x.grad is None for x in net.text.parameters())
    assert all(x.grad is not None for x in net.image.parameters())


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_output_in_an_unknown_container_is_refused(pieces):
    """It would be passed on as it is, and no gradient would reach its encoder."""
    net = torch.nn.Linear(3, 2)
    with pytest.raises(TypeError, match="tuples, lists and dicts of tensors, got a SimpleNamespace"):
        cached_backward(
            lambda x: SimpleNamespace(x=net(x)), [torch.ones(2 * pieces, 3).split(2)], lambda a: a.x.square().sum()
        )


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([torch.ones(2, 3), (torch.ones(2, 3),)], "same structure"),
        ([(torch.ones(2, 3), torch.tensor(1.0))] * 2, "one row for each row"),
        ([torch.ones(2, 3), torch.ones(2, 3, 1)], "one row for each row"),
        ([(torch.ones(2, 3), "a"), (torch.ones(2, 3), "b")], "the same for every piece"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(outputs, message):
    given = iter(outputs)
    with pytest.raises(TypeError, match=message):
        cached_backward(lambda x: next(given), [[0, 1]], lambda a: a.sum())


def test_an_encoder_that_returns_other_shapes_the_second_time_is_refused():
    net, given = nn.Linear(3, 3), iter([2, 3, 2])
    with pytest.raises(RuntimeError, match="same shapes"):
        cached_backward(lambda x: net(x[: next(given)]), [[torch.ones(4, 3)]], lambda a: a.sum())


# ---- precision ----


def test_gradients_inside_autocast_are_those_of_float32():
    """The loss in bfloat16 features of float32 rows: its gradient is formed outside of autocast."""
    a, b = F.normalize(torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(3)), dim=2)
    grads = []
    for inside in (False, True):
        weight = torch.eye(8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            encode = Plain(weight)
            cached_backward(encode, [a.split(8), b.split(8)], squares)
        grads.append(weight.grad)
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-7)


class Plain(nn.Module):
    """x W, in float32 within autocast too."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return x @ self.weight


class Cube(torch.autograd.Function):
    """(a · b)³ summed; its backward pass has products that autocast would round."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return (a.double() @ b.double().T).pow(3).sum().float()

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        g = 3 * (a[:, None] * b).sum(2) ** 2 * grad
        return g @ b, g.T @ a


def squares(a, b):
    return Cube.apply(a, b)


def test_weights_learn_inside_autocast():
    net = nn.Linear(WIDTH, 8)
    x = torch.randn(8, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        cached_backward(net, [x.split(4)] * 2, lambda a, b: contrastile.clip_loss(a, b, 5.0, normalize=True))
    twin = copy.deepcopy(net)
    twin.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        a, b = twin(x), twin(x)
        value = contrastile.clip_loss(a, b, 5.0, normalize=True)
    value.backward()
    torch.testing.assert_close(net.weight.grad, twin.weight.grad, rtol=2e-2, atol=1e-3)


def test_the_scaler_multiplies_gradients():
    net, x = nn.Linear(WIDTH, 8).double(), torch.randn(8, WIDTH, dtype=torch.float64)
    twin = copy.deepcopy(net)
    loss = lambda a, b: clip(a, b, torch.tensor(5.0))  # noqa: E731
    plain = cached_backward(net, [x.split(4)] * 2, loss)
    scaled = cached_backward(twin, [x.split(4)] * 2, loss, scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    torch.testing.assert_close(plain, scaled)
    torch.testing.assert_close(8 * net.weight.grad, twin.weight.grad)


# ---- how modules are reached ----


class Engine(nn.Module):
    def no_sync(self):
        raise AssertionError("not called")

    def forward(self, x):
        return x


def reached(module):
    """Encoders that call a module."""
    return {
        "module": module,
        "function": lambda x: module(x),
        "partial": functools.partial(lambda net, x: net(x), module),
        "method": nn.Sequential(module).forward,
        "compiled": torch.compile(nn.Sequential(module), backend="eager"),
    }


@pytest.mark.parametrize("how", reached(nn.Identity()))
def test_modules_that_synchronise_otherwise_are_refused(how):
    with pytest.raises(TypeError, match="Engine"):
        cached_backward(reached(Engine())[how], [[torch.ones(2, 3)]], lambda a: a.sum())


@pytest.mark.parametrize("compile_of", ["wrapper", "in place"])
@pytest.mark.filterwarnings("error:Using .torch.compile")
def test_compiled_encoders(compile_of):
    net = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh()).double()
    twin, x = copy.deepcopy(net), torch.randn(8, WIDTH, dtype=torch.float64)
    if compile_of == "wrapper":
        encoder = torch.compile(net, backend="eager", fullgraph=True)
    else:
        net.compile(backend="eager")
        encoder = net
    cached_backward(encoder, [x.split(4)] * 2, lambda a, b: clip(a, b, torch.tensor(5.0)))
    clip(twin(x), twin(x), torch.tensor(5.0)).backward()
    torch.testing.assert_close(net[0].weight.grad, twin[0].weight.grad)
    assert not nn.modules.module._global_forward_pre_hooks

"""What happens when ranks do not do the same: an error on every rank that says which rank and why, and no waiting."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import contrastile
from contrastile.distributed import RankError, Ranks
from support.launch import gather_from

pytestmark = pytest.mark.dist
LIMIT = timedelta(seconds=5)
GRADIENTS = "arguments that require gradients"


def features(rank: int, d: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.nn.functional.normalize(torch.randn(2, 3 + rank, d, generator=torch.Generator().manual_seed(rank)), dim=2)
    return x[0].to(dtype).requires_grad_(), x[1].to(dtype).requires_grad_()


def good(rank: int) -> Tensor:
    return contrastile.clip_loss(*features(rank), 5.0, group=dist.group.WORLD)


def other_dtype(rank: int) -> Tensor:
    x = features(rank, dtype=torch.bfloat16 if rank == 1 else torch.float32)
    return contrastile.clip_loss(*x, 5.0, group=dist.group.WORLD)


def other_width(rank: int) -> Tensor:
    return contrastile.nt_xent(*features(rank, 6 + (rank == 2)), group=dist.group.WORLD)


def other_loss(rank: int) -> Tensor:
    loss = contrastile.dcl if rank == 0 else contrastile.nt_xent
    return loss(*features(rank), temperature=0.2, group=dist.group.WORLD)


def other_strategy(rank: int) -> Tensor:
    return contrastile.clip_loss(*features(rank), 5.0, group=Ranks(strategy="ring" if rank else "gather"))


def other_count(rank: int) -> Tensor:
    a, b = features(rank)
    hard = torch.randn(len(a), 1 + (rank == 1), a.shape[1]) if rank else None
    return contrastile.info_nce(a, b, hard_negatives=hard, group="world")


def other_reduction(rank: int) -> Tensor:
    return contrastile.clip_loss(*features(rank), 5.0, reduction="sum" if rank == 1 else "mean", group="world")


def other_reduction_of_labels(rank: int) -> Tensor:
    """Where one of the two needs a sum over ranks that the other does not."""
    a, _ = features(rank)
    labels = torch.arange(len(a)) // 2
    return contrastile.sup_con(a, labels, reduction="none" if rank == 1 else "mean", group="world").sum()


def other_terms(rank: int) -> Tensor:
    return contrastile.cua(*features(rank), 5.0, uniformity_weight=float(rank == 1), group="world")


def other_ids(rank: int) -> Tensor:
    a, b = features(rank)
    return contrastile.siglip_loss(a, b, 5.0, image_ids=torch.arange(len(a)) if rank == 1 else None, group="world")


def other_kernel(rank: int) -> Tensor:
    return contrastile.kcl(*features(rank), kernel="imq" if rank == 1 else "log", group="world")


def other_rule(rank: int) -> Tensor:
    """Of the engine itself, called by the user."""
    a, b = features(rank)
    return contrastile.pair_loss(a, b, keep="other_index" if rank == 1 else "all", group="world")


def one_frozen(rank: int) -> Tensor:
    a, b = features(rank)
    return contrastile.clip_loss(a.detach() if rank else a, b, 5.0, group=dist.group.WORLD)


def one_view_frozen(rank: int) -> Tensor:
    """Both views and the parameter reach the engine under other names."""
    module = contrastile.MVInfoNCE(learnable_temperature=True, group="world")
    module.requires_grad_(rank == 0)
    a, b = features(rank)
    return module([a, b.detach()])


def without_grad(rank: int) -> Tensor:
    with torch.set_grad_enabled(rank != 1):
        return contrastile.nt_xent(*features(rank), group="world")


def refused(rank: int) -> Tensor:
    temperature = -1.0 if rank == 1 else 0.1
    return contrastile.info_nce(*features(rank), temperature=temperature, group=dist.group.WORLD)


def refused_late(rank: int) -> Tensor:
    """By the engine, after the loss has met the other ranks once."""
    a, b = features(rank)
    weights = torch.ones(len(a) + (rank == 0))
    return contrastile.pair_loss(a, b, row_weight=weights, group=dist.group.WORLD)


def no_backend(rank: int) -> Tensor:
    return contrastile.clip_loss(*features(rank), 5.0, group=dist.group.WORLD, backend="cuda" if rank == 0 else "torch")


def outcome(rank: int, call: Callable[[int], Tensor]) -> tuple[str, str, bool]:
    """Type and text of the error, then whether the group still works."""
    try:
        call(rank)
        kind, text = "", ""
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    value = good(rank)
    value.backward()
    return kind, text, bool(value.isfinite())


CALLS = (
    other_dtype, other_width, other_loss, other_strategy, other_count, other_reduction,
    other_reduction_of_labels, other_terms, other_ids, other_kernel, other_rule, one_frozen, one_view_frozen,
    without_grad, refused, refused_late, no_backend,
)  # fmt: skip


def outcomes(rank: int) -> dict[str, tuple[str, str, bool]]:
    return {call.__name__: outcome(rank, call) for call in CALLS}


@pytest.fixture(scope="module")
def found():
    """What each of three ranks met, by call."""
    return gather_from(3, outcomes)


def each(*values: str) -> str:
    return ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values))


@pytest.mark.parametrize(
    "call, what, values",
    [
        (other_dtype, "feature dtype", ("torch.float32", "torch.bfloat16", "torch.float32")),
        (other_width, "number of features", ("6", "6", "7")),
        (other_strategy, "strategy", ("'gather'", "'ring'", "'ring'")),
        (other_count, "hard_negatives", ("not given", "2", "1")),
        (other_reduction, "reduction", ("'mean'", "'sum'", "'mean'")),
        (other_reduction_of_labels, "reduction", ("'mean'", "'none'", "'mean'")),
        (other_terms, "uniformity_weight (0 or not)", ("False", "True", "False")),
        (other_ids, "image_ids", ("not given", "given", "not given")),
        (other_kernel, "kernel", ("'log'", "'imq'", "'log'")),
        (other_rule, "keep", ("'all'", "'other_index'", "'all'")),
        (one_frozen, GRADIENTS, ("image_features and text_features", "text_features", "text_features")),
        (one_view_frozen, GRADIENTS, ("views[0] and temperature", "views[0]", "views[0]")),
        (without_grad, GRADIENTS, ("z1 and z2", "none", "z1 and z2")),
    ],
)
def test_what_must_be_equal_is_named_on_every_rank_in_the_users_words(found, call, what, values):
    for kind, text, usable in (result[call.__name__] for result in found):
        assert (kind, text, usable) == ("ValueError", f"all ranks must give the same {what}, got {each(*values)}", True)


def test_different_losses_are_named(found):
    for kind, text, usable in (result["other_loss"] for result in found):
        assert (kind, usable) == ("ValueError", True)
        assert text == f"all ranks must make the same call, got {each('dcl', 'nt_xent', 'nt_xent')}"


@pytest.mark.parametrize(
    "call, culprit, kind, said",
    [
        (refused, 1, "ValueError", "temperature must be finite and > 0, got -1.0"),
        (refused_late, 0, "ValueError", "row_weight must have shape"),
        (no_backend, 0, "BackendUnsupported", "cuda"),
    ],
)
def test_other_ranks_learn_why_one_refused(found, call, culprit, kind, said):
    for rank, (name, text, usable) in enumerate(result[call.__name__] for result in found):
        assert said in text and usable
        assert name == (kind if rank == culprit else "RankError")
        assert rank == culprit or f"rank {culprit} refused" in text


def until(rank: int, absent: Callable[[], None], strategy: str) -> tuple[str, str, float, bool]:
    """Rank 1 is absent after one good step; the others' error, how long it took, and that no gradient was touched."""
    good(rank)
    if rank == 1:
        absent()
    a, b = features(rank)
    begun = time.monotonic()
    try:
        contrastile.clip_loss(a, b, 5.0, group=Ranks(strategy=strategy)).backward()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - begun, a.grad is None and b.grad is None
    return "", "", 0.0, False


def killed() -> None:
    os.kill(os.getpid(), 9)


def late() -> None:
    time.sleep(2.5 * LIMIT.total_seconds())
    os._exit(0)


@pytest.mark.parametrize("strategy", ["gather", "ring"])
def test_a_killed_rank_is_an_error_that_names_it(strategy):
    found = gather_from(3, until, killed, strategy, timeout=LIMIT, new=True)
    assert found[1] is None
    for kind, text, seconds, untouched in (found[0], found[2]):
        assert kind == "RankError" and re.search(r"ranks \[(1|1, 2|0, 1)\] cannot be reached", text), text
        assert seconds < 2 * LIMIT.total_seconds() and untouched


def test_a_rank_that_does_not_come_is_an_error_within_the_timeout():
    found = gather_from(2, until, late, "gather", timeout=LIMIT, new=True)
    kind, _text, seconds, untouched = found[0]
    assert kind == "RankError" and seconds < 2 * LIMIT.total_seconds() and untouched


def refusals(rank: int) -> list[str]:
    a, b = features(rank)
    found = []
    for call in (
        lambda: contrastile.clip_loss(a, b, 5.0, group="all"),
        lambda: contrastile.clip_loss(a, b, 5.0, group=3),
        lambda: contrastile.pair_reduce(a, b, mask=torch.ones(len(a), len(b), dtype=bool), group=dist.group.WORLD),
        lambda: contrastile.pair_reduce(a, [b] * 8, group=dist.group.WORLD),
        lambda: contrastile.symile_loss(a, b, logit_scale=1.0, negatives="n_squared", group=dist.group.WORLD),
        lambda: contrastile.gram_loss(a, b[:1].expand(9, -1), key_offset=1, group=dist.group.WORLD),
    ):
        try:
            call()
            found.append("nothing")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_what_is_not_offered_is_refused():
    expected = [
        "ValueError: group must be",
        "TypeError: group must be",
        "ValueError: all ranks must give the same number of columns of mask",
    ]
    expected += [
        "ValueError: b must hold at most 7 column blocks",
        "NotImplementedError: negatives='n_squared'",
        "ValueError: others[0] must be this rank's own",
    ]
    for result in gather_from(2, refusals):
        assert all(text.startswith(start) for text, start in zip(result, expected, strict=True)), result


def test_a_group_needs_an_initialised_process_group():
    a, b = features(0)
    with pytest.raises(ValueError, match="init_process_group"):
        contrastile.clip_loss(a, b, 5.0, group=Ranks())
    with pytest.raises(ValueError, match="strategy must be one of"):
        Ranks(strategy="tree")
    assert issubclass(RankError, RuntimeError)

"""ms-swift's InfonceLoss against its formula, with the package's environment variables."""

import numpy as np
import pytest
import torch

from contrastile.compat import ms_swift
from support.pairing import assert_agreement

from .group_formulas import grouped_rows, infonce
from .group_models import case, swift

EQUAL = torch.tensor([1, 0, 0] * 5)
RAGGED = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1])
SWIFT = [
    {}, {"batch": False}, {"margin": 0.05}, {"qq": True}, {"dd": True}, {"qq": True, "dd": True, "margin": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("options", SWIFT, ids=str)
@pytest.mark.parametrize("labels", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_ms_swift(options, labels, monkeypatch):
    loss = swift(monkeypatch, **options)
    assert_agreement(
        lambda x: loss(x, labels), lambda x: infonce(x, labels, **options), case(grouped_rows(labels, noise=0.7))
    )


def test_hard_negatives_of_ms_swift_are_cut_and_drawn_again(monkeypatch):
    labels = torch.tensor([1, 0, 0, 0, 1, 0, 1, 0, 0])
    rows, loss = grouped_rows(labels), swift(monkeypatch, hard=2)
    np.random.seed(3)
    again = 5 + 2 + int(np.random.choice([0], size=1)[0])  # the row that the second group has twice
    picked = rows[[0, 1, 2, 3, 5, 6, 7, again, 8, 9, 10, 11]]
    np.random.seed(3)
    true = infonce(picked, torch.tensor([1, 0, 0] * 3))
    torch.testing.assert_close(loss(rows, labels), true)
    with pytest.raises(ValueError, match="every query must have a hard negative"):
        loss(rows[:2], torch.tensor([1]))


def test_ms_swift_refuses_what_would_have_no_effect(monkeypatch):
    rows = grouped_rows(EQUAL)
    with pytest.raises(ValueError, match="INFONCE_INCLUDE_QQ must not be set with INFONCE_USE_BATCH=False"):
        swift(monkeypatch, batch=False, qq=True)(rows, EQUAL)
    monkeypatch.setenv("INFONCE_USE_BATCH", "True")
    for labels in (EQUAL[:-1], torch.cat([EQUAL[1:], EQUAL[:1]])):
        with pytest.raises(ValueError, match="labels must be 1 and then 0"):
            swift(monkeypatch)(rows, labels)
    with pytest.raises(ValueError, match="INFONCE_FAKE_NEG_MARGIN must be >= 0"):
        swift(monkeypatch, margin=-0.1)(rows, EQUAL)
    for name, value in (("HARD_NEGATIVES", "-1"), ("HARD_NEGATIVES", "few"), ("TEMPERATURE", "warm")):
        with monkeypatch.context() as own, pytest.raises(ValueError, match=f"INFONCE_{name} must be .*{value}"):
            own.setenv(f"INFONCE_{name}", value)
            ms_swift.InfonceLoss()({"last_hidden_state": rows}, EQUAL)
    with pytest.raises(ValueError, match="INFONCE_USE_BATCH must be true or false"):
        swift(monkeypatch, batch="perhaps")(rows, EQUAL)
    trainer = type("Trainer", (type("BaseMegatronTrainer", (), {}),), {})()
    with pytest.raises(NotImplementedError, match="Megatron"):
        ms_swift.InfonceLoss(None, trainer)

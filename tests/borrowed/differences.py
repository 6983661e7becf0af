"""Tests that come out otherwise with the drop-ins, on purpose, and why. Keys: a test, or the beginning of its name."""

DIFFERENCES: dict[str, dict[str, str]] = {
    "lightly": {
        "tests/loss/test_ntx_ent_loss.py::TestNTXentLoss::test_forward_pass_neg_temp": (
            "a temperature below 0, whose loss is largest for equal views, is refused"
        ),
    },
    "open_clip": {
        "tests/test_siglip_chunked_loss.py": (
            "calls SigLipLoss._loss and _chunked_loss, which multiply logits out and are private"
        ),
    },
}

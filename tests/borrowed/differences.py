"""Tests that come out otherwise with the drop-ins, on purpose, and why. Keys: a test, or the beginning of its name."""

CAPTURED = "captures the matrix of scores on its way to torch's cross_entropy, and a drop-in has none"
GUIDED = (
    "test_positive_mask_protects_ce_target_column",
    "test_relative_margin_negative_positive_score_suppresses_closer_negative",
)

DIFFERENCES: dict[str, dict[str, str]] = {
    "pytorch-metric-learning": {
        f"tests/losses/test_ntxent_loss.py::TestNTXentLoss::{test}": "one of its losses has an LpDistance: refused"
        for test in ("test_backward", "test_ntxent_loss", "test_ntxent_loss_with_ref", "test_with_no_valid_pairs")
    },
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
    "sentence-transformers": {
        f"tests/sentence_transformer/losses/test_{kind}gist_embed.py::{test}": CAPTURED
        for kind in ("", "cached_")
        for test in GUIDED
    },
}

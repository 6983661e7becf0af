"""CLIP of several views against the official CL2LLoss, restated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile import clip_loss, multiview_clip_loss
from support.refusals import refuses

N, D = 7, 6
G = torch.Generator().manual_seed(3)
IMAGES, TEXTS = (torch.randn(3, N, D, generator=G, dtype=torch.float64).requires_grad_() for _ in range(2))
SCALE, LOCAL = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (14.3, 8.0))


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


def cl2l(images, texts, logit_scale, h_logit_scale, smoothing, kind="avg", gather=lambda x: x):
    """CL2LLoss.forward; gather: what all_gather_batch makes of candidates, on several processes without gradient."""
    labels = torch.arange(images.shape[1])
    z_image, *h_image = (F.normalize(x) for x in images)
    z_text, *h_text = (F.normalize(x) for x in texts)
    augs = len(h_image)
    image_global = F.cross_entropy(logit_scale * z_image @ gather(z_text).T, labels)
    text_global = F.cross_entropy(logit_scale * z_text @ gather(z_image).T, labels)
    image_logits, text_logits = [], []
    for i in range(augs):
        image_logits += [h_logit_scale * h @ gather(h_text[i]).T for h in h_image]
        text_logits += [h_logit_scale * h @ gather(h_image[i]).T for h in h_text]
    image_local, text_local = (
        sum(F.cross_entropy(x, labels, label_smoothing=smoothing) for x in logits) / len(logits)
        for logits in (image_logits, text_logits)
    )
    image = (image_global + image_local * augs) / (1 + augs)
    text = (text_global + text_local * augs) / (1 + augs)
    return (image + text) / 2 * (2 if kind == "sum" else 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind, direction", [("avg", "mean"), ("sum", "sum")])
def test_cl2l(smoothing, kind, direction):
    expected = cl2l(IMAGES, TEXTS, SCALE, LOCAL, smoothing, kind)
    options = {"local_logit_scale": LOCAL, "label_smoothing": smoothing, "direction": direction, "normalize": True}
    same(multiview_clip_loss(IMAGES, TEXTS, SCALE, **options), expected, IMAGES, TEXTS, SCALE, LOCAL)


def test_candidates_of_other_processes_have_no_gradient():
    expected = cl2l(IMAGES, TEXTS, SCALE, SCALE, 0.1, gather=torch.Tensor.detach)
    found = multiview_clip_loss(IMAGES, TEXTS, SCALE, label_smoothing=0.1, detach_keys=True, normalize=True)
    same(found, expected, IMAGES, TEXTS, SCALE)


def test_other_numbers_of_views():
    """k - 1 local images, l - 1 local texts: all pairs, weighted by the geometric mean of both numbers."""
    every, texts = torch.cat([IMAGES, IMAGES[1:] + 1.0]), TEXTS[:2]
    pairs = [clip_loss(x, texts[1], LOCAL, normalize=True) for x in every[1:]]
    expected = (clip_loss(every[0], texts[0], SCALE, normalize=True) + 2.0 * sum(pairs) / 4) / 3.0
    given = [every, list(texts)], {"local_logit_scale": LOCAL, "normalize": True}
    same(multiview_clip_loss(*given[0], SCALE, **given[1]), expected, IMAGES, TEXTS, SCALE, LOCAL)
    weighted = (clip_loss(every[0], texts[0], SCALE, normalize=True) + 0.5 * sum(pairs) / 4) / 1.5
    same(multiview_clip_loss(*given[0], SCALE, **given[1], local_weight=0.5), weighted, IMAGES, TEXTS, SCALE)


def test_without_local_views_it_is_clip():
    same(multiview_clip_loss(IMAGES[:1], TEXTS[:1], SCALE), clip_loss(IMAGES[0], TEXTS[0], SCALE), IMAGES, TEXTS, SCALE)
    for name, value in (("local_weight", 1.0), ("local_logit_scale", 5.0), ("label_smoothing", 0.1)):
        with refuses(ValueError, f"^{name} must not be given without local views"):
            multiview_clip_loss(IMAGES[:1], TEXTS[:1], SCALE, **{name: value})


def test_bad_views():
    for images, texts, message in (
        (IMAGES, TEXTS[:1], "^images and texts must both have local views, or neither, got 2 and 0"),
        (IMAGES[0], TEXTS, r"^images must have shape \(k, N, D\)"),
        (IMAGES, TEXTS[:, :3], r"^texts\[0\] must have the shape of images\[0\]"),
        (IMAGES[:0], TEXTS, "^images must be at least one"),
    ):
        with refuses(ValueError, message):
            multiview_clip_loss(images, texts, 10.0)
    with refuses(ValueError, "^local_weight must be a number >= 0, got -1"):
        multiview_clip_loss(IMAGES, TEXTS, 10.0, local_weight=-1)

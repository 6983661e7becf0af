"""Losses of items that are sets of tokens: late interaction, word-region attention, a codebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .card import Case, CaseMaker, LossCard
from .cases import scalar

TOKENS, LENGTH, OWN = 3, 4, 2  # of a query, of a document, documents of each query alone


def token_sets(n: int, count: int, d: int, g: Generator, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(n, count, d, generator=g), dim=-1).to(dtype)


def some_tokens(g: Generator, *shape: int) -> Tensor:
    """Some of the tokens, of most items but not of all."""
    return (torch.rand(*shape, generator=g) < 0.7) & (torch.rand(*shape[:-1], 1, generator=g) < 0.9)


def late(temperature: float, *more: str, **options: Any) -> CaseMaker:
    """Queries and documents of tokens. more: hard_negatives, hard_positives, own (documents of each query alone), ids,
    masks, further (documents), modalities, teacher_scores, sharpness."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        wide = dtype if dtype == torch.float64 else torch.float32
        queries = token_sets(n, TOKENS, d, g, dtype)
        shape = (n, OWN, LENGTH) if "own" in more else (n, LENGTH)
        noise = torch.randn(*shape, d, generator=g)
        near = queries.float().mean(1).view(n, *[1] * (len(shape) - 1), d)
        documents = F.normalize(near + 0.3 * noise, dim=-1).to(dtype)
        kwargs: dict[str, Any] = {"temperature": scalar(temperature), **options}
        made: dict[str, Callable[[], Any]] = {
            "hard_negatives": lambda: token_sets(n * OWN, LENGTH, d, g, dtype).view(n, OWN, LENGTH, d),
            "hard_positives": lambda: token_sets(n * OWN, LENGTH, d, g, dtype).view(n, OWN, LENGTH, d),
            "query_ids": lambda: torch.randint(0, n // 2 + 1, (n,), generator=g),
            "modalities": lambda: torch.randint(-1, 2, shape, generator=g),
            "teacher_scores": lambda: torch.randn(n, OWN if "own" in more else n, generator=g).to(wide),
            "sharpness": lambda: scalar(4.0),
            "query_mask": lambda: some_tokens(g, n, TOKENS),
            "document_mask": lambda: some_tokens(g, *shape),
        }
        kwargs |= {name: value() for name, value in made.items() if name in more}
        magnitude = (1.0 if options.get("reduce") == "mean" else TOKENS) / temperature
        return Case((queries, documents), kwargs, magnitude, derived=True, frozen=("teacher_scores",))

    return make


def words(*masks: str, classes: bool = False, **options: Any) -> CaseMaker:
    """Images of regions and texts of words; the gammas take gradients."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        regions, texts = (2.0 * token_sets(n, count, d, g, dtype) for count in (LENGTH, TOKENS))
        kwargs: dict[str, Any] = {"gamma1": scalar(4.0), "gamma2": scalar(5.0), "gamma3": scalar(3.0), **options}
        if classes:
            kwargs["class_ids"] = torch.randint(0, n // 2 + 1, (n,), generator=g)
        for name, count in (("region_mask", LENGTH), ("word_mask", TOKENS)):
            if name in masks:
                kwargs[name] = some_tokens(g, n, count)
        return Case((regions, texts), kwargs, 30.0, derived=True)

    return make


def mixtures(*masks: str, **options: Any) -> CaseMaker:
    """Patches, words and a codebook; the temperature is such that a few vectors have a share."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        image, text = (token_sets(n, count, d, g, dtype) for count in (LENGTH, TOKENS))
        codebook = torch.randn(11, d, generator=g).to(dtype)
        kwargs: dict[str, Any] = {"temperature": scalar(0.5), **options}
        for name, count in (("image_mask", LENGTH), ("text_mask", TOKENS)):
            if name in masks:
                kwargs[name] = some_tokens(g, n, count)
        return Case((image, text, codebook, scalar(5.0)), kwargs, 20.0, derived=True, shared=(2,))

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "late_interaction_info_nce", "sets of token embeddings: retrieval, patches and words", "arXiv 2004.12832",
        "section 3.3", 0,
        {
            "default": late(1.0),
            "both": late(0.1, "query_ids", "query_mask", "document_mask", reduce="mean", direction="mean"),
            "soft": late(0.5, "sharpness", "hard_negatives", document_reduce="softmax_mean", label_smoothing=0.1),
            "modalities": late(0.5, "modalities", "hard_positives", num_modalities=2),
            "retrieved": late(0.2, top_k=4, direction="sum"),
            "teacher": late(0.5, "own", "document_mask", "teacher_scores", teacher_weight=0.5, normalize=True),
        },
        words="6 T U N²D", copies=4.0,
    ),
    LossCard(
        "word_region_loss", "images of regions and texts of words", "arXiv 1711.10485", "eq. 13", 0,
        {
            "default": words(),
            "classes": words("region_mask", "word_mask", classes=True, direction="mean"),
            "without words": words("word_mask", over_words=False, reduce="mean", direction="cols"),
        },
        words="12 R T N²D", copies=4.0,
    ),
    LossCard(
        "fdt_loss", "image-text over a shared codebook", "arXiv 2303.14865", "eq. 5", 0,
        {
            "default": mixtures(),
            "masks": mixtures("image_mask", "text_mask", direction="sum"),
            "zeros": mixtures("text_mask", padding="zero", pool="mean"),
        },
        words="6 (R + T) NKD", copies=4.0,
    ),
)  # fmt: skip

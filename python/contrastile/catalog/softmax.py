"""Softmax losses of matched pairs and of labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from .card import Case, CaseMaker, LossCard
from .cases import each, one_each, over_prefixes, pair, scalar, scaled, unit_rows, with_extras


def gathered(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs whose keys are among others, with ids and the log-probabilities that are named."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        extras = [name for name in names if name == "ids"]
        case = with_extras(temperature, "negatives", *extras, **options)(n, d, g, dtype)
        query, key = case.args
        key = torch.cat([unit_rows(2, d, g, dtype), key, unit_rows(3, d, g, dtype)])
        kwargs = {**case.kwargs, "key_offset": 2}
        if extras:
            kwargs["key_ids"] = torch.randint(0, n // 2 + 1, (len(key),), generator=g)
        return log_probabilities(Case((query, key), kwargs, case.magnitude), g, names)

    return make


def sampled(temperature: float, *names: str, **options: Any) -> CaseMaker:
    """Pairs whose candidates were sampled with the probabilities that are named."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = with_extras(temperature, "negatives", **options)(n, d, g, dtype)
        return log_probabilities(case, g, names)

    return make


def log_probabilities(case: Case, g: Generator, names: tuple[str, ...]) -> Case:
    found = {}
    for name in [name for name in names if name.endswith("log_prob")]:
        columns = case.args[1] if name == "key_log_prob" else case.kwargs["negatives"]
        wide = columns.dtype if columns.dtype == torch.float64 else torch.float32
        found[name] = one_each(len(columns), g, -6.0, -1.0).to(wide)
    return replace(case, kwargs={**case.kwargs, **found}, magnitude=case.magnitude + 6.0)


def labelled(temperature: float, classes: float, views: int = 0, **options: Any) -> CaseMaker:
    """Features of any number of views with labels; classes is relative to n."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        x = unit_rows(n * max(views, 1), d, g, dtype)
        x = x.view(views, n, d) if views else x
        labels = torch.randint(0, int(n * classes) + 1, (n,), generator=g)
        return Case((x, labels), {"temperature": scalar(temperature), **options}, 1.0 / temperature, views=views > 0)

    return make


def with_keys(temperature: float, classes: float, **options: Any) -> CaseMaker:
    """`labelled`, with further rows that are no anchors, nor are all samples."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        case = labelled(temperature, classes, **options)(n, d, g, dtype)
        m = n // 2 + 5
        more = {
            "keys": unit_rows(m, d, g, dtype), "key_labels": torch.randint(0, int(n * classes) + 1, (m,), generator=g),
            "anchor_mask": torch.rand(n, generator=g) < 0.7,
        }  # fmt: skip
        return replace(case, kwargs={**case.kwargs, **more})

    return make


def label_sets(temperature: float, **options: Any) -> CaseMaker:
    """Features with any number of labels each."""

    def make(n: int, d: int, g: Generator, dtype: torch.dtype) -> Case:
        sets = torch.rand(n, 9, generator=g) < 0.15
        return Case((unit_rows(n, d, g, dtype), sets), {"temperature": scalar(temperature), **options}, 1 / temperature)

    return make


CARDS: tuple[LossCard, ...] = (
    LossCard(
        "info_nce", "pairs, retrieval embeddings, hard negatives, queues", "arXiv 1807.03748", "eq. 4", 6,
        {
            "default": pair(0.07),
            "low temperature": pair(0.005),
            "symmetric": pair(0.07, symmetric=True),
            "negatives": with_extras(0.07, "negatives"),
            "hard negatives": with_extras(0.07, "negatives", "hard_negatives"),
            "ids": with_extras(0.07, "ids", "key_ids"),
            "symmetric ids": with_extras(0.05, "ids", symmetric=True),
            "groups": with_extras(0.07, "negatives", "groups", "ids", symmetric=True),
            "margin": with_extras(0.07, "negatives", false_negative_margin=0.05, symmetric=True),
            "relative margin": with_extras(0.07, "negatives", relative_margin=0.3, symmetric=True),
            "not in batch": with_extras(0.07, "negatives", "hard_negatives", in_batch=False),
            "sides": with_extras(0.07, "negatives", "hard_negatives", query_query=True, key_key=True, key_query=True),
            "symmetric sides": each(
                with_extras(0.07, "negatives", "ids", "groups", symmetric=True, query_query=True, key_key=True),
                "weights", "present",
            ),
            "smoothing": with_extras(0.07, "negatives", "hard_negatives", label_smoothing=0.1),
            "symmetric smoothing": with_extras(0.07, "negatives", label_smoothing=0.1, symmetric=True),
            "hardest": pair(0.3, num_hard=3),
            "hardest of all": with_extras(0.3, "negatives", "ids", num_hard=4, symmetric=True),
            "row temperature": with_extras(0.07, "row_temperature", "negatives"),
            "normalize": pair(0.07, normalize=True),
            "weights": each(pair(0.07), "weights", "present"),
            "some hard negatives": each(with_extras(0.07, "negatives", "hard_negatives"), "weights", "present"),
            "symmetric weights": each(with_extras(0.07, "negatives", symmetric=True), "weights", "present"),
            "smoothing of some": each(pair(0.07, symmetric=True, label_smoothing=0.1), "weights", "present"),
            "both row temperatures": each(pair(0.07, symmetric=True), "temperature", "key_temperature"),
            "pair temperatures": each(with_extras(0.07, "negatives", "ids", symmetric=True), "temperature", "weights"),
            "rows": pair(0.07, symmetric=True, direction="rows"),
            "columns": pair(0.07, symmetric=True, direction="cols", false_negative_margin=0.05),
            "sum": pair(0.07, symmetric=True, direction="sum"),
            "detached": with_extras(0.07, "negatives", symmetric=True, detach_keys=True),
            "detached smoothing": with_extras(
                0.07, "negatives", symmetric=True, detach_keys=True, label_smoothing=0.1
            ),
            "detached rows": with_extras(0.07, "negatives", "hard_negatives", detach_keys=True),
            "sampled": sampled(0.07, "key_log_prob", "negative_log_prob", symmetric=True),
            "sampled positive": sampled(0.07, "key_log_prob", symmetric=True, positive_log_prob=False),
            "gathered": gathered(0.07, "ids", "key_log_prob", symmetric=True),
            "gathered smoothing": gathered(0.07, symmetric=True, label_smoothing=0.1),
            "matryoshka": over_prefixes(with_extras(0.07, "negatives", "ids", symmetric=True, normalize=True)),
        },
    ),
    LossCard(
        "clip_loss", "image-text and any two modalities", "arXiv 2103.00020", "figure 3", 8,
        {
            "default": scaled(14.3),
            "scale 100": scaled(100.0),
            "scale 1000": scaled(1000.0),
            "smoothing": scaled(14.3, label_smoothing=0.1),
            "ids": scaled(20.0, equal="ids"),
            "weights": each(scaled(14.3, equal="ids"), "weights", "present"),
            "smoothing of some": each(scaled(14.3, label_smoothing=0.1), "present"),
            "row scales": each(scaled(14.3), "logit_scale", "text_logit_scale"),
            "text to image": scaled(14.3, direction="cols"),
            "detached": scaled(14.3, detach_keys=True),
            "groups": each(scaled(14.3, equal="groups"), "present"),
            "matryoshka": over_prefixes(each(scaled(14.3), "weights", "present")),
        },
    ),
    LossCard(
        "nt_xent", "self-supervised, two views (SimCLR)", "arXiv 2002.05709", "eq. 1", 4,
        {
            "default": pair(0.5),
            "low temperature": pair(0.005),
            "normalize": pair(0.1, normalize=True),
            "weights": each(pair(0.1), "weights", "present"),
            "rows": each(pair(0.1, direction="rows"), "weights", "present"),
            "columns": pair(0.1, direction="cols"),
            "sum": each(pair(0.1, direction="sum"), "weights"),
            "detached": each(pair(0.5, detach_keys=True), "present"),
            "detached columns": pair(0.1, direction="cols", detach_keys=True),
            "matryoshka": over_prefixes(pair(0.1)),
        },
        stacked=True,
    ),
    LossCard(
        "debiased_info_nce", "pairs, negatives that may share a class", "arXiv 2007.00224", "eq. 8", 8,
        {
            "default": pair(0.5),
            "sharp": pair(0.07),
            "prior": pair(0.2, tau_plus=0.02),
            "hard": each(pair(0.5, hardness=1.0), "present"),
            "weights": each(pair(0.2), "weights", "present"),
        },
    ),
    LossCard(
        "debiased_nt_xent", "two views, negatives that may share a class", "arXiv 2007.00224", "official code", 4,
        {
            "default": pair(0.5),
            "sharp": pair(0.1, tau_plus=0.01),
            "hard": pair(0.5, tau_plus=0.05, hardness=0.5),
            "weights": each(pair(0.2), "weights", "present"),
        },
        stacked=True,
    ),
    LossCard(
        "sup_con", "labels: several positives per row", "arXiv 2004.11362", "eq. 2", 4,
        {"default": labelled(0.1, 0.25), "views": labelled(0.07, 0.5, views=2), "rare": labelled(0.1, 3.0),
            "weights": each(labelled(0.1, 0.5), "weights", "present"),
            "some views": each(labelled(0.1, 0.5, views=2), "weights", "present"),
            "detached": labelled(0.1, 0.5, detach_keys=True),
            "keys": with_keys(0.1, 0.5, form="in"),
            "keys as positives": each(with_keys(0.1, 0.5, keys_as="positives"), "weights", "present"),
            "label sets": label_sets(0.1, form="each", per_pair=True),
        },
        stacked=True,
    ),
    LossCard(
        "dcl", "two views, small batches", "arXiv 2110.06848", "L_DC", 4,
        {
            "default": pair(0.1),
            "low temperature": pair(0.005),
            "weights": each(pair(0.1), "weights", "present"),
            "rows": each(pair(0.1, direction="rows"), "weights"),
        },
        stacked=True,
    ),
    LossCard(
        "dclw", "two views, hard positives weighted", "arXiv 2110.06848", "L_DCW", 4,
        {
            "default": pair(0.1),
            "sigma": pair(0.1, sigma=1.0),
            "weights": each(pair(0.1), "weights", "present"),
            "columns": each(pair(0.1, direction="cols"), "present"),
        },
        stacked=True,
    ),
    LossCard(
        "dhel", "two views, repulsion within each view only", "arXiv 2405.18045", "DHEL", 8,
        {
            "default": pair(0.3),
            "low temperature": pair(0.005),
            "anchors only": pair(0.1, include_augs=False),
            "normalize": pair(0.2, normalize=True),
            "weights": each(pair(0.3), "weights", "present"),
        },
    ),
)  # fmt: skip

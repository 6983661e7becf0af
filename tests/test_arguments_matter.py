"""Every argument of every public function and module does something: with another value the result changes, or the call
is refused. An argument that this file does not know fails it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contrastile
from contrastile import BackendUnsupported, driver, losses, metrics
from contrastile.catalog import CATALOG
from contrastile.distributed import Ranks
from contrastile.losses import cross_attention, token_documents, word_region
from contrastile.ops import multilinear, segment_operators
from support.loss_cases import default

N, D = 12, 8
REFUSALS = (ValueError, BackendUnsupported)


def rows(seed, *shape):
    return F.normalize(torch.randn(*(shape or (N, D)), generator=torch.Generator().manual_seed(seed)), dim=-1)


X, Y, Z = rows(1), rows(2), rows(3)
IDS, OTHER_IDS = torch.arange(N) // 2, torch.arange(N) // 3
FLAGS = torch.rand(N, 5, generator=torch.Generator().manual_seed(9)) < 0.4
POSITIVE = torch.linspace(0.5, 1.5, N)
NORMS = {"row_bias": X.square().sum(1), "col_bias": Y.square().sum(1), "score": "distance"}


@dataclass
class Matter:
    """Where an argument must matter (other arguments; None: left out), and the two values it has there."""

    first: Any
    second: Any
    where: dict[str, Any] = field(default_factory=dict)


def seeded(seed):
    return lambda: torch.Generator().manual_seed(seed)


EVERYWHERE = {
    "temperature": Matter(0.3, 0.5), "t": Matter(1.0, 2.0), "sigma": Matter(0.5, 0.8), "alpha": Matter(2.0, 3.0),
    "tau_plus": Matter(0.1, 0.01), "logit_scale": Matter(5.0, 7.0), "logit_bias": Matter(-5.0, -3.0),
    "label_smoothing": Matter(0.0, 0.3), "false_negative_margin": Matter(None, -0.2), "gamma": Matter(16.0, 4.0),
    "singular_temperature": Matter(0.3, 0.5), "instance_temperature": Matter(0.3, 0.5),
    "clip_weight": Matter(1.0, 0.5), "uniformity_weight": Matter(1.0, 0.5), "alignment_weight": Matter(1.0, 0.5),
    "cross_uniformity_weight": Matter(1.0, 0.5), "s": Matter(2.0, 1.0, {"kernel": "riesz"}),
    "kernel": Matter("gaussian", "imq"), "aggregation": Matter("geometric", "arithmetic"),
    "mode": Matter("pairwise", "average"), "reduction": Matter("mean", "sum"), "symmetric": Matter(True, False),
    "squared": Matter(True, False), "detach_keys": Matter(True, False), "include_augs": Matter(True, False),
    "normalize": Matter(False, True, {"radius": 1.7}), "learnable_temperature": Matter(False, True),
    "learnable_scale": Matter(False, True, {"logit_scale": 5.0}),
    "learnable": Matter(False, True, {"logit_scale": 5.0, "logit_bias": -5.0}),
    "negatives": Matter(None, Z), "hard_negatives": Matter(None, rows(4, N, 3, D)),
    "query_ids": Matter(None, IDS), "key_ids": Matter(None, OTHER_IDS, {"query_ids": IDS}),
    "negative_ids": Matter(None, OTHER_IDS, {"query_ids": IDS, "negatives": Z}),
    "image_ids": Matter(None, IDS), "text_ids": Matter(None, OTHER_IDS, {"image_ids": IDS}),
    "image_labels": Matter(None, IDS), "text_labels": Matter(None, OTHER_IDS, {"image_labels": IDS}),
    "labels": Matter(IDS, OTHER_IDS), "present": Matter(None, torch.arange(N) > 2), "weights": Matter(None, POSITIVE),
    "direction": Matter("mean", "rows", {"symmetric": True}),
    "key_temperature": Matter(None, 0.5, {"symmetric": True}), "text_logit_scale": Matter(None, 3.0),
    **{name: Matter(False, True) for name in ("query_query", "key_key", "key_query")},
    "key_log_prob": Matter(None, -POSITIVE), "negative_log_prob": Matter(None, -POSITIVE, {"negatives": Z}),
    "positive_log_prob": Matter(True, False, {"key_log_prob": -POSITIVE}),
    "key_offset": Matter(0, 1, {"others": (rows(5, N + 2, D), rows(6, N + 2, D))}),
    "matryoshka": Matter(None, (3, D)), "matryoshka_weights": Matter(None, (0.5, 1.0), {"matryoshka": (3, D)}),
    "generator": Matter(seeded(1), seeded(2), {"permutations": None}),
    "permutations": Matter(*(torch.stack([torch.randperm(N, generator=seeded(s)()) for _ in range(6)]).view(3, 2, N)
                             for s in (1, 2))),
    "backend": Matter("torch", "triton"), "group": Matter(None, "world"),
    "memory_budget": Matter(0, 1 << 20, {"reduction": "none"}),
    # features
    **{name: Matter(X, Z) for name in ("query", "key", "z1", "z2", "image_features", "text_features", "anchor", "x")},
    "y": Matter(Y, Z), "a": Matter(X, Z), "b": Matter(Y, Z), "rows": Matter(X, Z),
    "language": Matter(X, Z), "features": Matter(X, torch.stack([X, Z])), "views": Matter([X, Y, Z], [X, Y]),
    "others": Matter((Y, Z), (Y,)), "modalities": Matter((X, Y, Z), (X, Z, Z)), "inputs": Matter((Y,), (Z,)),
    "queries": Matter([X, Y], [X, Z]), "candidates": Matter(X, Z), "audio": Matter(X, Z), "video": Matter(Y, X),
    "subtitles": Matter(X, rows(10)), "depth": Matter(X, rows(10)),
    # the engine
    "scale": Matter(1.0, 2.0), "col_scale": Matter(None, POSITIVE), "row_bias": Matter(None, POSITIVE),
    "own_scales": Matter(False, True, {"cols": True, "col_scale": POSITIVE}),
    "col_bias": Matter(None, POSITIVE), "reduce": Matter("lse", "softplus"), "keep": Matter("all", "other_index"),
    "row_ids": Matter(IDS, OTHER_IDS, {"keep": "other_id", "col_ids": IDS}),
    "col_ids": Matter(IDS, OTHER_IDS, {"keep": "other_id", "row_ids": IDS}),
    "row_high": Matter(None, torch.zeros(N)), "col_high": Matter(None, torch.zeros(N), {"cols": True}),
    **{name: Matter(IDS, OTHER_IDS, {"keep": "other_group", "row_groups": IDS, "col_groups": IDS})
       for name in ("row_groups", "col_groups")},
    **{name: Matter(FLAGS, ~FLAGS, {"keep": "shared_label", "row_labels": FLAGS, "col_labels": FLAGS})
       for name in ("row_labels", "col_labels")},
    **{name: Matter(IDS, OTHER_IDS, {"keep": "lower_order", "row_order": IDS, "col_order": IDS})
       for name in ("row_order", "col_order")},
    "row_low": Matter(None, torch.zeros(N)), "col_low": Matter(None, torch.zeros(N), {"cols": True}),
    "cross_entropy": Matter(False, True, {"keep": "other_index", "positives": "same_index"}),
    "positives": Matter(None, "same_index"),
    "split": Matter(False, True, {"positives": "same_index"}), "counts": Matter(False, True),
    "partner": Matter(torch.arange(N).roll(1), torch.arange(N), {"keep": "no_partner"}),
    "share": Matter(POSITIVE, 2 * POSITIVE, {"positives": "partner", "partner": torch.arange(N)}),
    "stat_dtype": Matter(None, torch.float64),
    "keep_positives": Matter(False, True, {"keep": "other_index", "positives": "same_index"}),
    "cols": Matter(False, True), "score": Matter("dot", "distance", {**NORMS, "score": None}),
    "offset": Matter(True, False, NORMS), "compute_dtype": Matter(None, torch.bfloat16),
    "row_weight": Matter(1.0, 0.5), "row_positive_weight": Matter(0.0, 0.5, {"positives": "same_index"}),
    "col_weight": Matter(0.0, 0.5, {"cols": True}),
    "col_positive_weight": Matter(0.0, 0.5, {"cols": True, "positives": "same_index"}),
    "segments": Matter(4, 3),
    # second operands
    "targets": Matter(contrastile.Targets(X, Z), contrastile.Targets(Z, Y)),
    "gate": Matter((X.square(), Y.square()), (Z.square(), Y.square()), {"score": "gated"}),
    "row_target_weight": Matter(0.0, -0.5, {"targets": contrastile.Targets(Z, X)}),
    "col_target_weight": Matter(0.0, -0.5, {"targets": contrastile.Targets(Z, X), "cols": True}),
    **{name: Matter(X, Z) for name in ("teacher_query", "teacher_image_features", "teacher_text_features", "other")},
    "teacher_key": Matter(None, rows(9), {"negatives": None}),
    "teacher_negatives": Matter(X, Z, {"negatives": Z, "teacher_key": rows(9)}),
    "teacher_temperature": Matter(0.3, 0.5), "teacher_logit_scale": Matter(5.0, 7.0),
    "teacher_loss": Matter("ce", "kl"), "filter_wrong": Matter(False, True), "detach_targets": Matter(True, False),
    # mixtures, prototypes, parts, blocks, groups
    **{name: Matter(X, Z) for name in ("mixed", "clean", "global_features", "prototypes")},
    "local_features": Matter(rows(14, N, 3, D), rows(15, N, 3, D)), "mask": Matter(None, rows(16, N, 3) > 0),
    "unmixed": Matter(None, Z), "unmixed_clean": Matter(None, X, {"unmixed": Z}),
    "fixed_points": Matter("add", "overwrite", {"partner": IDS}),
    **{name: Matter(None, IDS) for name in ("query_groups", "image_groups")},
    "key_groups": Matter(None, OTHER_IDS, {"query_groups": IDS}),
    "text_groups": Matter(None, OTHER_IDS, {"image_groups": IDS}),
    "negative_groups": Matter(IDS, OTHER_IDS, {"query_groups": IDS, "negatives": Z}),
    "margin": Matter(0.1, 0.2), "kind": Matter("cos", "arc"), "in_batch": Matter(True, False, {"negatives": Z}),
    "blocks": Matter(2, 3), "same_pair_weight": Matter(1.0, 2.0), "other_block_weight": Matter(1.0, 2.0),
    "intra_scale": Matter(0.8, 0.5), "inter_scale": Matter(1.0, 0.5), "lam": Matter(0.1, 0.2),
    "weight_features": Matter(X, Z), "partner_labels": Matter(IDS, OTHER_IDS),
    "keys": Matter(X, Z, {"key_labels": IDS}), "key_labels": Matter(IDS, OTHER_IDS, {"keys": Z}),
    # several positives
    "keys_as": Matter("candidates", "positives", {"keys": Z, "key_labels": IDS}),
    "anchor_mask": Matter(None, torch.arange(N) > 2), "form": Matter("out", "in"), "per_pair": Matter(False, True),
    "key_weights": Matter(None, POSITIVE), "joint": Matter(True, False),
    # hard negatives, correlations, matched rows, vocabularies
    "relative_margin": Matter(None, 0.5),
    "num_hard": Matter(None, 3), "hardness": Matter(0.0, 1.0), "off_diagonal_weight": Matter(0.005, 0.5),
    "standardize": Matter(True, False),
    "detach_target": Matter(False, True), "images": Matter([X, Y, Z], [X, Z, Y]), "texts": Matter([Y, X, Z], [Y, Z, Z]),
    "local_logit_scale": Matter(None, 3.0), "local_weight": Matter(None, 0.5), "hidden": Matter(X, Z),
    "weight": Matter(rows(13, 9, D), rows(14, 9, D), {"labels": IDS}),
    "bias": Matter(None, POSITIVE), "ignore_index": Matter(-100, 2, {"labels": IDS}),
    "student": Matter(X, Z), "teacher": Matter(rows(15, N, D + 3), rows(16, N, D + 3)),
    "positive": Matter(X, Z),
    "prototypes": Matter(X, Z), "teacher_prototypes": Matter(rows(15, N, D + 3), rows(16, N, D + 3)),
    "center": Matter(None, POSITIVE), "student_temperature": Matter(0.1, 0.2),
    # metrics
    "negative_features": Matter(Z, Y), "conditional": Matter(False, True),
    "scores": Matter(POSITIVE, -POSITIVE), "grades": Matter(IDS, -IDS),
    "logits": Matter(X, Z), "other_logits": Matter(Y, Z), "teacher_scores": Matter(Y, Z),
    "unbiased": Matter(True, False), "eps": Matter(0.0, 0.1),
    "report": Matter(None, metrics.InBatch()), "train_fraction": Matter(0.2, 0.8), "penalty": Matter(1.0, 1000.0),
}  # fmt: skip
HALF_MASK = torch.arange(5).expand(N, 5) < 3
LATE = ("maxsim", "modality_maxsim", "maxsim_candidates")
HERE = {
    ("symile_loss", "negatives"): Matter("n", "n_squared", {"permutations": None}),
    ("Symile", "negatives"): Matter("n", "n_squared", {"permutations": None}),
    ("triangle_loss", "key_offset"): Matter(0, 1, {"x": rows(5, N + 2, D), "y": rows(6, N + 2, D)}),
    ("TriangleLoss", "key_offset"): Matter(0, 1, {"x": rows(5, N + 2, D), "y": rows(6, N + 2, D)}),
    ("mip_similarity", "logit_scale"): Matter(1.0, 2.0),
    **{(name, "queries"): Matter(rows(1, N, 5, D), rows(2, N, 5, D)) for name in LATE},
    **{(name, "query_mask"): Matter(None, HALF_MASK) for name in LATE},
    **{(name, "reduce"): Matter("sum", "mean") for name in LATE},
    **{(name, "document_reduce"): Matter("max", "lse") for name in LATE},
    **{(name, "sharpness"): Matter(1.0, 5.0, {"document_reduce": "lse"}) for name in LATE},
    **{(name, "keep_argmax"): Matter(True, False) for name in (*LATE, "segment_reduce")},
    **{(name, "documents"): Matter(rows(1, N, 5, D), rows(2, N, 5, D)) for name in ("maxsim", "modality_maxsim")},
    ("maxsim", "document_mask"): Matter(None, HALF_MASK),
    ("maxsim", "query_offsets"): Matter(torch.tensor([0, 5, 9]), torch.tensor([0, 4, 9]), {"queries": rows(1, 9, D)}),
    ("maxsim", "document_offsets"): Matter(
        torch.tensor([0, 5, 9]), torch.tensor([0, 4, 9]), {"documents": rows(1, 9, D)}),
    ("modality_maxsim", "modalities"): Matter(HALF_MASK.long(), 1 - HALF_MASK.long()),
    ("modality_maxsim", "num_modalities"): Matter(2, 3),
    ("maxsim_candidates", "documents"): Matter(rows(1, N, 2, 5, D), rows(2, N, 2, 5, D)),
    ("maxsim_candidates", "document_mask"): Matter(None, HALF_MASK[:, None].expand(N, 2, 5)),
    ("maxsim_candidates", "document_offsets"): Matter(
        torch.arange(N + 1), torch.arange(N + 1).clamp_max(N - 1), {"documents": rows(1, N, D)}),
    ("segment_reduce", "reduce"): Matter("max", "lse"),
    ("segment_reduce", "sharpness"): Matter(1.0, 5.0, {"reduce": "softmax_mean"}),
    ("segment_reduce", "segments"): Matter(1, 2),
    ("segment_reduce", "mask"): Matter(None, torch.arange(N) % 2 == 0),
    ("pairwise_aggregate", "loss"): Matter(contrastile.nt_xent, contrastile.dhel),
    ("pairwise_aggregate", "options"): Matter({"temperature": 0.5}, {"temperature": 0.2}),
    ("row_lse", "options"): Matter({"keep": "all"}, {"keep": "other_index"}),
    **{(name, "mask"): Matter(None, rows(7, N, N) > 0) for name in ("pair_reduce", "pair_loss", "row_lse")},
    **{("block_info_nce", name): Matter(rows(17, 2 * N, D), rows(18, 2 * N, D)) for name in "xy"},
    **{(name, "share"): Matter(0.3, 0.6) for name in ("m2_mix", "mixup_info_nce", "slerp")},
    **{(name, "memory_budget"): Matter(0, 1 << 20) for name in (
        "pair_reduce", "uniformity", "Uniformity", "cua", "CUA", "cuaxu", "CUAXU")},
    ("kcl", "memory_budget"): Matter(0, 1 << 20, {"kernel": "imq"}),
    ("KCL", "memory_budget"): Matter(0, 1 << 20, {"kernel": "imq"}),
    ("area", "x"): Matter(Y, rows(10)),
    ("segment_reduce", "cols"): Matter(Y, Z),
    ("pair_loss", "positives"): Matter("kept", "same_index", {"row_positive_weight": 0.5}),
    ("pair_loss", "share"): Matter(POSITIVE, 2 * POSITIVE, {
        "positives": "partner", "partner": torch.arange(N), "row_positive_weight": 0.5}),
    ("pair_loss", "cols"): Matter(True, False, {"col_weight": 0.5}),
    ("pair_loss", "col_high"): Matter(None, torch.zeros(N), {"cols": True, "col_weight": 1.0}),
    ("pair_loss", "col_low"): Matter(None, torch.zeros(N), {"cols": True, "col_weight": 1.0}),
    ("pair_loss", "memory_budget"): Matter(
        0, 1 << 20, {"a": rows(1, 3000, D), "cols": True, "col_weight": 1.0}),
    ("linear_separability", "x"): Matter(rows(1, 60, D), rows(5, 60, D)),
    ("linear_separability", "y"): Matter(rows(2, 60, D), rows(5, 60, D)),
    ("linear_separability", "generator"): Matter(None, seeded(3)),
}  # fmt: skip
HERE |= {
    ("multi_positive", "query_ids"): Matter(IDS, OTHER_IDS),
    ("multi_positive", "query_labels"): Matter(FLAGS, ~FLAGS, {"key_labels": FLAGS}),
    ("multi_positive", "key_labels"): Matter(FLAGS, ~FLAGS, {"query_labels": FLAGS}),
    ("multi_positive", "negative_labels"): Matter(FLAGS, ~FLAGS, {"query_labels": FLAGS, "negatives": Z}),
    ("multi_positive", "query_groups"): Matter(None, IDS),
    ("multi_positive", "key_groups"): Matter(IDS, OTHER_IDS, {"query_groups": IDS}),
    ("multi_positive", "negative_groups"): Matter(IDS, OTHER_IDS, {"query_groups": IDS, "negatives": Z}),
    ("mil_nce", "text"): Matter(rows(1, N, 3, D), rows(2, N, 3, D)),
    ("mil_nce", "mask"): Matter(None, torch.arange(3).expand(N, 3) < 2),
    **{(name, "direction"): Matter("mean", "rows", {"joint": False}) for name in ("mil_nce", "MILNCE")},
}
TOKENS, OTHER_TOKENS = rows(20, N, 5, D), rows(21, N, 5, D)
OWN, OTHER_OWN = rows(22, N, 2, 5, D), rows(23, N, 2, 5, D)
TOKEN_MASK = torch.arange(5).expand(N, 5) < 3
KINDS, OTHER_KINDS = torch.arange(5).expand(N, 5) % 2, torch.arange(5).expand(N, 5) // 3
FOR_TEACHER = {"teacher_scores": X @ Y.T}
LATE = {
    **dict.fromkeys(
        ("queries", "documents", "regions", "words", "image_tokens", "text_tokens", "tokens"),
        Matter(TOKENS, OTHER_TOKENS),
    ),
    **dict.fromkeys(
        ("query_mask", "document_mask", "region_mask", "word_mask", "image_mask", "text_mask", "mask"),
        Matter(None, TOKEN_MASK),
    ),
    "document_offsets": Matter(torch.arange(N + 1) * 2, torch.arange(N + 1), {"documents": rows(24, 2 * N, D)}),
    "modalities": Matter(KINDS, OTHER_KINDS, {"documents": TOKENS, "num_modalities": 2}),
    "num_modalities": Matter(1, 2, {"documents": TOKENS, "modalities": KINDS}),
    **dict.fromkeys(("hard_negatives", "hard_positives"), Matter(OWN, OTHER_OWN)),
    "hard_negative_mask": Matter(None, TOKEN_MASK[:, None].expand(-1, 2, -1), {"hard_negatives": OWN}),
    "hard_positive_mask": Matter(None, TOKEN_MASK[:, None].expand(-1, 2, -1), {"hard_positives": OWN}),
    "query_ids": Matter(IDS, OTHER_IDS),
    "document_ids": Matter(IDS, OTHER_IDS, {"query_ids": IDS}),
    "class_ids": Matter(None, IDS),
    "teacher_scores": Matter(X @ Y.T, X @ Z.T),
    "teacher_loss": Matter("kl", "mse", FOR_TEACHER),
    "teacher_temperature": Matter(1.0, 2.0, FOR_TEACHER),
    "teacher_weight": Matter(1.0, 0.5, FOR_TEACHER),
    "reduce": Matter("sum", "mean"),
    "document_reduce": Matter("max", "lse"),
    "direction": Matter("rows", "mean"),
    "sharpness": Matter(1.0, 2.0, {"document_reduce": "softmax_mean"}),
    "top_k": Matter(2, 5),
    "gamma1": Matter(4.0, 2.0),
    "gamma2": Matter(5.0, 2.0),
    "gamma3": Matter(10.0, 5.0),
    "over_words": Matter(True, False),
    "codebook": Matter(rows(25, 9, D), rows(26, 9, D)),
    "pool": Matter("max", "mean"),
    "padding": Matter(
        "drop", "zero", {"mask": TOKEN_MASK, "image_tokens": TOKENS, "image_mask": TOKEN_MASK, "pool": "mean"}
    ),
}
for name in ("late_interaction_info_nce", "LateInteractionInfoNCE", "word_region_loss", "WordRegionLoss", "fdt_loss",
             "FDTLoss", "fdt_features", "word_region_scores", "xtr_scores"):  # fmt: skip
    HERE |= {(name, argument): matter for argument, matter in LATE.items()}
NORM = {"gain": (rows(27, D), rows(28, D)), "shift": (None, rows(29, D))}
HERE |= {
    **{("cross_attention_scores", name): Matter(*pair) for name, pair in NORM.items()},
    ("cross_attention_scores", "items"): Matter(X, Z),
    **{("cross_attention_scores", name): Matter(TOKENS, OTHER_TOKENS) for name in ("queries", "keys", "values")},
    **{("cross_attention_scores", name): Matter(None, TOKEN_MASK) for name in ("query_mask", "key_mask")},
    ("cross_attention_scores", "eps"): Matter(1e-5, 1.0),
    ("cross_attention_scores", "memory_budget"): Matter(0, 1 << 20),
}
HERE["sparsemax", "mask"] = Matter(None, X > 0)
HERE |= {
    ("retrieval_ranks", "gallery"): Matter(Y, Z),
    ("mean_rank_variance", "ranks"): Matter(1 + IDS[:, None], torch.eye(3).long() + 1),
    ("retrieval_ranks", "positives"): Matter("same_id", "other_id", {"row_ids": IDS, "col_ids": IDS}),
    ("retrieval_ranks", "empty_target_action"): Matter(
        "skip", "neg", {"keep": "other_id", "row_ids": IDS, "col_ids": OTHER_IDS}
    ),
    ("retrieval_ranks", "keep"): Matter("all", "other_index", {"positives": "same_id", "row_ids": IDS, "col_ids": IDS}),
    ("retrieval_ranks", "score"): Matter("volume", "squared_area", {"gallery": (Y, Z)}),
    ("cka", "kernel"): Matter("linear", "rbf"),
    ("cka", "rbf_sigma"): Matter(1.0, 2.0, {"kernel": "rbf"}),
    **{(name, "k"): Matter(3, 4) for name in ("cknna", "mutual_knn", "cycle_knn")},
    **{
        (name, "normalize"): Matter(False, True, {"x": POSITIVE[:, None] ** 3 * X, "y": X, "k": 3})
        for name in ("mutual_knn", "cycle_knn")
    },
    **{(name, z): Matter(X, Z, {"x": X, "y": X, "k": 3}) for name in ("mutual_knn", "cycle_knn") for z in "xy"},
    **{("modality_integration_rate", name): Matter([X, Y], [X, Z]) for name in ("vision", "text")},
    ("modality_integration_rate", "mode"): Matter("exact", "fast"),
    ("set_similarity", "reduce"): Matter("max_mean", "mean"),
    **{(name, "temperature"): Matter(0.3, 0.5) for name in ("mcm_score", "neg_label_score")},
    ("dcd_loss", "scores"): Matter(X, Z),
    ("dcd_loss", "alpha"): Matter(0.2, 0.6),
    ("dcd_loss", "per_sample"): Matter(False, True),
    ("teacher_hard_negatives", "teacher_scores"): Matter(X, Z),
    ("teacher_hard_negatives", "k"): Matter(3, 4),
    ("project_conflicting", "gradients"): Matter([X, Y], [X, Z]),
    ("project_conflicting", "per_row"): Matter(False, True),
    ("retrieval_ranks", "mask"): Matter(None, rows(7, N, N) > 0),
}
MISSING = torch.rand(N, 3, generator=seeded(0)()) > 0.3
for name in ("gram_loss", "GramLoss"):
    HERE[name, "present"] = Matter(None, MISSING)
for name in ("mv_infonce", "mv_dhel", "pvc", "MVInfoNCE", "MVDHEL", "PVC"):
    HERE[name, "present"] = Matter(None, MISSING.T)
for name in ("info_nce", "InfoNCE"):
    HERE[name, "key_offset"] = Matter(0, 1, {"key": rows(5, N + 2, D)})
for name in ("distill_info_nce", "DistillInfoNCE", "clip_distill_loss", "ClipDistillLoss"):
    HERE[name, "alpha"] = Matter(0.3, 0.6)
for name in ("pair_loss", "row_lse"):
    HERE[name, "gate"] = Matter((X.square(), Y.square()), (Z.square(), Y.square()), {"score": "gated"})
HERE["pair_loss", "targets"] = Matter(contrastile.Targets(X, Z), contrastile.Targets(Z, Y), {"row_target_weight": -1.0})
for side in ("image", "text"):
    wide = [rows(seed, N, D + 3) for seed in (11, 12)]
    HERE["clip_distill_loss", f"teacher_{side}_features"] = Matter(*wide)
for name in ("cosine_loss", "CosineLoss"):
    HERE[name, "mask"] = Matter(None, torch.arange(N) > 2)
    HERE[name, "form"] = Matter("distance", "squared")
HERE["multilabel_contrastive", "labels"] = Matter(FLAGS.float() @ FLAGS.T.float(), X @ Y.T)
HERE["multilabel_contrastive", "form"] = Matter("wbce", "mse")
for name in ("grouped_info_nce", "GroupedInfoNCE"):
    HERE[name, "hard_negatives"] = Matter(rows(4, N, 3, D), rows(5, N, 3, D))
for name in ("grouped_margin_loss", "GroupedMarginLoss"):
    HERE[name, "hard_negatives"] = Matter(rows(4, N, 3, D), rows(5, N, 3, D), {"margin": 25.0})
for name in ("hydra_loss", "HydraLoss"):
    HERE[name, "gate"] = Matter(X.abs(), Z.abs())
for name in ("mv_infonce", "MVInfoNCE"):
    HERE[name, "negatives"] = Matter("all", "cross_view")
for name in ("volume_computation3", "volume_computation4", "volume_computation5"):
    HERE[name, "language"] = Matter(X, Z)

for module in {card.module for card in CATALOG}:
    options = inspect.signature(module).parameters
    if "max_scale" in options:
        learns = {name: True for name in ("learnable_temperature", "learnable_scale", "learnable") if name in options}
        start = (
            {"temperature": 0.1} if "learnable_temperature" in options else {"logit_scale": 10.0, "logit_bias": None}
        )
        start = {name: x for name, x in start.items() if name in options}
        HERE[module.__name__, "max_scale"] = Matter(None, 5.0, learns | start)

BASE: dict[str, dict[str, Any]] = {
    "area": {"anchor": X, "x": Y, "y": Z}, "gram_volume": {"modalities": (X, Y, Z)},
    "gram_volume_matrix": {"anchor": X, "others": (Y, Z)}, "singular_alignment": {"modalities": (X, Y, Z)},
    "maxsim": {"queries": rows(1, N, 5, D), "documents": rows(3, N, 5, D)},
    "modality_maxsim": {
        "queries": rows(1, N, 5, D), "documents": rows(3, N, 5, D), "modalities": HALF_MASK.long(),
        "num_modalities": 2},
    "maxsim_candidates": {"queries": rows(1, N, 5, D), "documents": rows(3, N, 2, 5, D)},
    "mip_similarity": {"candidates": X, "queries": [Y, Z]},
    "pairwise_aggregate": {"views": [X, Y, Z], "loss": contrastile.nt_xent},
    "volume_computation": {"language": X, "inputs": (Y,)},
    "slerp": {"x": X, "y": Y, "share": 0.3},
    "multilabel_contrastive": {"x": X, "y": Y, "labels": torch.eye(N)},
    "pair_reduce": {"a": X, "b": Y}, "pair_loss": {"a": X, "b": Y}, "row_lse": {"a": X, "b": Y},
    "segment_reduce": {"rows": X, "cols": Y, "segments": 4},
    "xtr_scores": {"queries": TOKENS, "documents": OTHER_TOKENS, "top_k": 3},
    "fdt_features": {"tokens": TOKENS, "codebook": rows(25, 9, D)},
    "word_region_scores": {"regions": TOKENS, "words": OTHER_TOKENS},
    "cross_attention_scores": {"items": X, "queries": TOKENS, "keys": OTHER_TOKENS, "values": TOKENS},
    "retrieval_ranks": {"query": X, "gallery": Y}, "mean_rank_variance": {},
    "modality_integration_rate": {"vision": [X, Y], "text": [Y, Z]},
    **{name: {"scores": POSITIVE, "grades": IDS} for name in ("pro_loss", "pearson_loss", "rank_kl_loss")},
    "dcd_loss": {"scores": X, "teacher_scores": Y}, "project_conflicting": {"gradients": [X, Y]},
    "tolerance": {"x": X, "labels": IDS}, "effective_rank": {"x": X},
    "linear_separability": {"x": rows(1, 60, D), "y": rows(2, 60, D)},
}  # fmt: skip


def functions() -> dict[str, Callable[..., Any]]:
    every = {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    every |= {name: getattr(contrastile, name) for name in ("pair_reduce", "pair_loss", "row_lse", "segment_reduce")}
    figures = {name: getattr(metrics, name) for name in metrics.__all__}
    return every | {name: figure for name, figure in figures.items() if inspect.isfunction(figure)}


FUNCTIONS = functions()
MODULES = {card.module.__name__: card.module for card in CATALOG}
CARDS = {card.name: card for card in CATALOG}


def base(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a good call, by name."""
    if name in BASE:
        return dict(BASE[name])
    if name in CARDS:
        case = default(CARDS[name], N, D)
        return dict(inspect.signature(function).bind(*case.args, **case.kwargs).arguments)
    names = inspect.signature(function).parameters
    return {key: value for key, value in zip(names, (X, Y, Z, rows(8), rows(9)), strict=False)
            if names[key].default is inspect.Parameter.empty}  # fmt: skip


def made(value: Any, radius: float) -> Any:
    """A fresh copy of an argument: tensors of features take a gradient."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return (value * radius if value.dim() > 1 else value.clone()).detach().requires_grad_(value.dim() > 1)
    if isinstance(value, (tuple, list)):
        return type(value)(made(x, radius) for x in value)
    return value() if inspect.isfunction(value) and value.__name__ == "<lambda>" else value


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [x for part in value for x in leaves(part)]
    return [value] if isinstance(value, Tensor) and value.requires_grad else []


def called(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """With arguments by name, those of *args and **kwargs too; what is left belongs to the call itself."""
    args, kwargs = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += given[name]
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs |= given[name]
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not kwargs:
            args.append(given[name])
        else:
            kwargs[name] = given[name]
    return function(*args, **kwargs)


def outcome(name: str, call: Callable[[dict[str, Any]], Any], given: dict[str, Any], spy: list[int]) -> Any:
    """What a call gives: values, gradients, scores saved; or that it is refused."""
    radius = given.pop("radius", 1.0)
    given = {key: made(value, radius) for key, value in given.items()}
    given = {key: value for key, value in given.items() if value is not None or key not in ("score", "permutations")}
    spy.clear()
    report = given.get("report")
    try:
        result = call(given)
    except REFUSALS as error:
        return [str(error)]
    module = given.get("module")
    if isinstance(result, metrics.RetrievalRanks):
        result = result.ranks, result.reciprocal_rank()
    parts = [x for x in (result if isinstance(result, tuple) else (result,)) if x is not None]
    inputs = leaves(list(given.values()))
    differentiable = [x for x in parts if isinstance(x, Tensor) and x.requires_grad]
    grads = (
        torch.autograd.grad(sum(x.sum() for x in differentiable), inputs, allow_unused=True) if differentiable else ()
    )
    learned = [key for key, _ in module.named_parameters()] if isinstance(module, nn.Module) else []
    told = [] if report is None else list(vars(report).values())
    return [len(parts), *parts, *(None if g is None else g for g in grads), list(spy), learned, *told]


def differs(first: list[Any], second: list[Any]) -> bool:
    if len(first) != len(second):
        return True
    return any(
        not torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is not b and not (a == b)
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture
def spy(monkeypatch):
    """Sizes of the buffers of scores that are kept, and of the columns of maxima."""
    sizes: list[int] = []
    for place, name in ((driver.Plan, "scores_within"), (multilinear, "new_buffer"), (segment_operators, "saved")):
        original = getattr(place, name)

        def watched(*args, original=original, **kwargs):
            found = original(*args, **kwargs)
            sizes.append(0 if found is None else found.numel())
            return found

        monkeypatch.setattr(place, name, watched)
    for module in (cross_attention, word_region, token_documents):
        found = module.columns_at_a_time
        monkeypatch.setattr(module, "columns_at_a_time", lambda *args, found=found: told(sizes, found(*args)))
    return sizes


def told(sizes, columns):
    """Columns at a time; 0: all, which are kept."""
    sizes.append(columns or 0)
    return columns


def rule(name: str, argument: str) -> Matter:
    found = HERE.get((name, argument)) or EVERYWHERE.get(argument)
    assert found is not None, f"{name}({argument}=) is not known here: say where it must matter"
    return found


@pytest.mark.parametrize(
    "name, argument",
    [(name, p) for name, function in FUNCTIONS.items() for p in inspect.signature(function).parameters],
)
def test_every_argument_of_a_function_matters(name, argument, spy):
    function, matter = FUNCTIONS[name], rule(name, argument)
    own = inspect.signature(function).parameters
    where = {key: value for key, value in matter.where.items() if key in own or key == "radius"}
    common = base(name, function) | ({"backend": "torch"} if "backend" in own else {}) | where
    found = [
        outcome(name, lambda given: called(function, given), common | {argument: value}, spy)
        for value in (matter.first, matter.second)
    ]
    assert not isinstance(found[0][0], str), found[0]
    assert differs(*found)


@pytest.mark.parametrize(
    "name, argument", [(name, p) for name, module in MODULES.items() for p in inspect.signature(module).parameters]
)
def test_every_argument_of_a_module_matters(name, argument, spy):
    """Given to the constructor; what forward needs beside comes from the function's case."""
    cls, matter = MODULES[name], rule(name, argument)
    own, taken = inspect.signature(cls).parameters, inspect.signature(cls.function).parameters
    where = {key: value for key, value in matter.where.items() if key in own or key in taken or key == "radius"}
    common = base(cls.function.__name__, cls.function) | {"backend": "torch"} | where
    common = {key: value for key, value in common.items() if key in own or key in taken or key == "radius"}
    if argument.startswith("learnable"):  # forward is not to be given what the module learns
        common = {key: x for key, x in common.items() if not (key in own and isinstance(x, Tensor) and x.dim() == 0)}

    def call(given: dict[str, Any]) -> Any:
        options = {key: given.pop(key) for key in list(given) if key in own and not isinstance(given[key], Tensor)}
        given["module"] = module = cls(**options)
        args, kwargs = [], {}
        for key, parameter in taken.items():
            if key in given and parameter.kind is parameter.VAR_POSITIONAL:
                args += given[key]
            elif key in given and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and key not in own:
                args.append(given[key])
            elif key in given:
                kwargs[key] = given[key]
        return module(*args, **kwargs)

    found = [outcome(name, call, common | {argument: value}, spy) for value in (matter.first, matter.second)]
    assert not isinstance(found[0][0], str), found[0]
    assert differs(*found)


def test_every_field_of_ranks_is_shown():
    """What they do is tested across ranks."""
    given = {"group": "world", "strategy": "ring", "replicated_negatives": True, "sizes": (2, 3)}
    assert set(inspect.signature(Ranks).parameters) == set(given)
    assert repr(Ranks(**given)) == "Ranks(group='world', strategy='ring', replicated_negatives=True, sizes=(2, 3))"

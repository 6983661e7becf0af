"""Dense definitions of every loss: the papers' formulas in ordinary, differentiable PyTorch.

They hold whole matrices of similarities and favour clarity over speed. They are the specification
that the streamed losses are tested against: same names and arguments, less `memory_budget` and
`backend`. Any floating dtype; nothing is upcast beyond what PyTorch promotes, so feed them float64
for an oracle. An empty batch gives 0 with zero gradients.
"""

from .contrastive import clip_loss, info_nce, nt_xent
from .cosine import cosine_loss
from .cross_attention import cross_attention_scores
from .debiased import debiased_info_nce, debiased_nt_xent
from .decorrelation import barlow_twins_loss, cross_correlation, cross_modal_consistency, in_modal_consistency
from .decoupled import dcl, dclw, dhel
from .distill import clip_distill_loss, cwcl_loss, distill_info_nce, hydra_loss, softclip_loss
from .fdt import fdt_features, fdt_loss, sparsemax
from .gap import cua, cuaxu
from .grouped import grouped_info_nce, grouped_margin_loss
from .kernel import kcl
from .late import maxsim, maxsim_candidates, modality_maxsim
from .late_info_nce import late_interaction_info_nce, xtr_scores
from .listwise import pearson_loss, pro_loss, rank_kl_loss
from .margin import cma_loss, margin_info_nce
from .mixup import m2_mix, mixup_info_nce, slerp
from .multi_positive import mil_nce, multi_positive
from .multilabel import multilabel_contrastive
from .multiview import mv_dhel, mv_infonce, pairwise_aggregate, pvc
from .multiview_clip import multiview_clip_loss
from .pmrl import pmrl_loss, singular_alignment
from .prototypes import prototype_loss
from .score_rows import dcd_loss, js_divergence, project_conflicting, teacher_hard_negatives
from .sigmoid import siglip_loss
from .structured import block_info_nce, global_local_info_nce, m3el_loss
from .supervised import sup_con
from .symile import mip_similarity, symile_loss
from .uniform import alignment, joint_entropy, uniformity
from .vocabulary import dino_loss, linear_cross_entropy
from .volume import area, gram_loss, gram_volume, gram_volume_matrix, triangle_loss
from .word_region import word_region_loss, word_region_scores

__all__ = [
    "alignment",
    "area",
    "barlow_twins_loss",
    "block_info_nce",
    "clip_distill_loss",
    "clip_loss",
    "cma_loss",
    "cosine_loss",
    "cross_attention_scores",
    "cross_correlation",
    "cross_modal_consistency",
    "cua",
    "cuaxu",
    "cwcl_loss",
    "dcd_loss",
    "dcl",
    "dclw",
    "debiased_info_nce",
    "debiased_nt_xent",
    "dhel",
    "dino_loss",
    "distill_info_nce",
    "fdt_features",
    "fdt_loss",
    "global_local_info_nce",
    "gram_loss",
    "gram_volume",
    "gram_volume_matrix",
    "grouped_info_nce",
    "grouped_margin_loss",
    "hydra_loss",
    "in_modal_consistency",
    "info_nce",
    "joint_entropy",
    "js_divergence",
    "kcl",
    "late_interaction_info_nce",
    "linear_cross_entropy",
    "m2_mix",
    "m3el_loss",
    "margin_info_nce",
    "maxsim",
    "maxsim_candidates",
    "mil_nce",
    "mip_similarity",
    "mixup_info_nce",
    "modality_maxsim",
    "multi_positive",
    "multilabel_contrastive",
    "multiview_clip_loss",
    "mv_dhel",
    "mv_infonce",
    "nt_xent",
    "pairwise_aggregate",
    "pearson_loss",
    "pmrl_loss",
    "pro_loss",
    "project_conflicting",
    "prototype_loss",
    "pvc",
    "rank_kl_loss",
    "siglip_loss",
    "singular_alignment",
    "slerp",
    "softclip_loss",
    "sparsemax",
    "sup_con",
    "symile_loss",
    "teacher_hard_negatives",
    "triangle_loss",
    "uniformity",
    "word_region_loss",
    "word_region_scores",
    "xtr_scores",
]

"""Losses, one file per family, and their nn.Module twins."""

from .arcs import slerp
from .clip import clip_loss
from .contrastive import info_nce
from .cosine import cosine_loss
from .cross_attention import cross_attention_scores
from .debiased import debiased_info_nce, debiased_nt_xent
from .decorrelation import barlow_twins_loss, cross_correlation, cross_modal_consistency, in_modal_consistency
from .decoupled import dcl, dclw, dhel
from .dino import dino_loss
from .distill import clip_distill_loss, distill_info_nce
from .fdt import fdt_features, fdt_loss
from .feature_queue import FeatureQueue
from .gap import cua, cuaxu
from .gated import hydra_loss
from .grouped import grouped_info_nce, grouped_margin_loss
from .kernel import kcl
from .late import maxsim, maxsim_candidates, modality_maxsim
from .late_info_nce import late_interaction_info_nce
from .listwise import pearson_loss, pro_loss, rank_kl_loss
from .margin import cma_loss, margin_info_nce
from .mil_nce import mil_nce
from .mixup import m2_mix, mixup_info_nce
from .modules import (
    CUA,
    CUAXU,
    CWCL,
    DCL,
    DCLW,
    DHEL,
    KCL,
    MILNCE,
    MVDHEL,
    PMRL,
    PVC,
    Alignment,
    BarlowTwinsLoss,
    BlockInfoNCE,
    ClipDistillLoss,
    ClipLoss,
    CMALoss,
    CosineLoss,
    CrossModalConsistency,
    DebiasedInfoNCE,
    DebiasedNTXent,
    DinoLoss,
    DistillInfoNCE,
    FDTLoss,
    GlobalLocalInfoNCE,
    GramLoss,
    GroupedInfoNCE,
    GroupedMarginLoss,
    HydraLoss,
    InfoNCE,
    InModalConsistency,
    JointEntropy,
    LateInteractionInfoNCE,
    LinearCrossEntropy,
    M2Mix,
    M3ELLoss,
    MarginInfoNCE,
    MixupInfoNCE,
    MultiPositive,
    MultiviewClipLoss,
    MVInfoNCE,
    NTXent,
    PrototypeLoss,
    SigLipLoss,
    SoftClipLoss,
    SupCon,
    Symile,
    TriangleLoss,
    Uniformity,
    WordRegionLoss,
)
from .multi_positive import multi_positive
from .multilabel import LowRank, multilabel_contrastive
from .multiview import mv_dhel, mv_infonce, pairwise_aggregate, pvc
from .multiview_clip import multiview_clip_loss
from .pmrl import pmrl_loss, singular_alignment
from .private import Candidates
from .prototypes import prototype_loss
from .score_rows import dcd_loss, js_divergence, project_conflicting, teacher_hard_negatives
from .sigmoid import siglip_loss
from .similarity import cwcl_loss, softclip_loss
from .sparsemax import sparsemax
from .stateful import RGCL, FastCLIP, ISogCLR, SogCLR
from .structured import block_info_nce, global_local_info_nce, m3el_loss
from .supervised import sup_con
from .symile import mip_similarity, symile_loss
from .triangle import area, triangle_loss
from .two_views import nt_xent
from .uniform import alignment, joint_entropy, uniformity
from .vocabulary import linear_cross_entropy
from .volume import gram_loss, gram_volume, gram_volume_matrix
from .volume_computation import volume_computation, volume_computation3, volume_computation4, volume_computation5
from .word_region import word_region_loss, word_region_scores
from .xtr import xtr_scores

__all__ = [
    "CUA",
    "CUAXU",
    "CWCL",
    "DCL",
    "DCLW",
    "DHEL",
    "KCL",
    "MILNCE",
    "MVDHEL",
    "PMRL",
    "PVC",
    "RGCL",
    "Alignment",
    "BarlowTwinsLoss",
    "BlockInfoNCE",
    "CMALoss",
    "Candidates",
    "ClipDistillLoss",
    "ClipLoss",
    "CosineLoss",
    "CrossModalConsistency",
    "DebiasedInfoNCE",
    "DebiasedNTXent",
    "DinoLoss",
    "DistillInfoNCE",
    "FDTLoss",
    "FastCLIP",
    "FeatureQueue",
    "GlobalLocalInfoNCE",
    "GramLoss",
    "GroupedInfoNCE",
    "GroupedMarginLoss",
    "HydraLoss",
    "ISogCLR",
    "InModalConsistency",
    "InfoNCE",
    "JointEntropy",
    "LateInteractionInfoNCE",
    "LinearCrossEntropy",
    "LowRank",
    "M2Mix",
    "M3ELLoss",
    "MVInfoNCE",
    "MarginInfoNCE",
    "MixupInfoNCE",
    "MultiPositive",
    "MultiviewClipLoss",
    "NTXent",
    "PrototypeLoss",
    "SigLipLoss",
    "SoftClipLoss",
    "SogCLR",
    "SupCon",
    "Symile",
    "TriangleLoss",
    "Uniformity",
    "WordRegionLoss",
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
    "volume_computation",
    "volume_computation3",
    "volume_computation4",
    "volume_computation5",
    "word_region_loss",
    "word_region_scores",
    "xtr_scores",
]

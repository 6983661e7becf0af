"""Losses, one file per family, and their nn.Module twins."""

from .contrastive import clip_loss, info_nce, nt_xent
from .debiased import debiased_info_nce, debiased_nt_xent
from .decoupled import dcl, dclw, dhel
from .distill import clip_distill_loss, distill_info_nce
from .feature_queue import FeatureQueue
from .gap import cua, cuaxu
from .gated import hydra_loss
from .kernel import kcl
from .late import maxsim
from .modules import (
    CUA,
    CUAXU,
    CWCL,
    DCL,
    DCLW,
    DHEL,
    KCL,
    MVDHEL,
    PMRL,
    PVC,
    Alignment,
    ClipDistillLoss,
    ClipLoss,
    DebiasedInfoNCE,
    DebiasedNTXent,
    DistillInfoNCE,
    GramLoss,
    HydraLoss,
    InfoNCE,
    MVInfoNCE,
    NTXent,
    SigLipLoss,
    SoftClipLoss,
    SupCon,
    Symile,
    TriangleLoss,
    Uniformity,
)
from .multilabel import LowRank, multilabel_contrastive
from .multiview import mv_dhel, mv_infonce, pairwise_aggregate, pvc
from .pmrl import pmrl_loss, singular_alignment
from .sigmoid import siglip_loss
from .similarity import cwcl_loss, softclip_loss
from .stateful import FastCLIP, ISogCLR, SogCLR
from .supervised import sup_con
from .symile import mip_similarity, symile_loss
from .triangle import area, triangle_loss
from .uniform import alignment, uniformity
from .volume import gram_loss, gram_volume, gram_volume_matrix
from .volume_computation import volume_computation, volume_computation3, volume_computation4, volume_computation5

__all__ = [
    "CUA",
    "CUAXU",
    "CWCL",
    "DCL",
    "DCLW",
    "DHEL",
    "KCL",
    "MVDHEL",
    "PMRL",
    "PVC",
    "Alignment",
    "ClipDistillLoss",
    "ClipLoss",
    "DebiasedInfoNCE",
    "DebiasedNTXent",
    "DistillInfoNCE",
    "FastCLIP",
    "FeatureQueue",
    "GramLoss",
    "HydraLoss",
    "ISogCLR",
    "InfoNCE",
    "LowRank",
    "MVInfoNCE",
    "NTXent",
    "SigLipLoss",
    "SoftClipLoss",
    "SogCLR",
    "SupCon",
    "Symile",
    "TriangleLoss",
    "Uniformity",
    "alignment",
    "area",
    "clip_distill_loss",
    "clip_loss",
    "cua",
    "cuaxu",
    "cwcl_loss",
    "dcl",
    "dclw",
    "debiased_info_nce",
    "debiased_nt_xent",
    "dhel",
    "distill_info_nce",
    "gram_loss",
    "gram_volume",
    "gram_volume_matrix",
    "hydra_loss",
    "info_nce",
    "kcl",
    "maxsim",
    "mip_similarity",
    "multilabel_contrastive",
    "mv_dhel",
    "mv_infonce",
    "nt_xent",
    "pairwise_aggregate",
    "pmrl_loss",
    "pvc",
    "siglip_loss",
    "singular_alignment",
    "softclip_loss",
    "sup_con",
    "symile_loss",
    "triangle_loss",
    "uniformity",
    "volume_computation",
    "volume_computation3",
    "volume_computation4",
    "volume_computation5",
]

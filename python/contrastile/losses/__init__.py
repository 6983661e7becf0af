"""Losses and their nn.Module twins, one file per family."""

from .contrastive import ClipLoss, InfoNCE, NTXent, clip_loss, info_nce, nt_xent
from .debiased import DebiasedInfoNCE, DebiasedNTXent, debiased_info_nce, debiased_nt_xent
from .decoupled import DCL, DCLW, DHEL, dcl, dclw, dhel
from .gap import CUA, CUAXU, cua, cuaxu
from .kernel import KCL, kcl
from .late import maxsim
from .multiview import MVDHEL, PVC, MVInfoNCE, mv_dhel, mv_infonce, pairwise_aggregate, pvc
from .pmrl import PMRL, pmrl_loss, singular_alignment
from .sigmoid import SigLipLoss, siglip_loss
from .supervised import SupCon, sup_con
from .symile import Symile, mip_similarity, symile_loss
from .triangle import TriangleLoss, area, triangle_loss
from .uniform import Alignment, Uniformity, alignment, uniformity
from .volume import GramLoss, gram_loss, gram_volume, gram_volume_matrix
from .volume_computation import volume_computation, volume_computation3, volume_computation4, volume_computation5

__all__ = [
    "CUA",
    "CUAXU",
    "DCL",
    "DCLW",
    "DHEL",
    "KCL",
    "MVDHEL",
    "PMRL",
    "PVC",
    "Alignment",
    "ClipLoss",
    "DebiasedInfoNCE",
    "DebiasedNTXent",
    "GramLoss",
    "InfoNCE",
    "MVInfoNCE",
    "NTXent",
    "SigLipLoss",
    "SupCon",
    "Symile",
    "TriangleLoss",
    "Uniformity",
    "alignment",
    "area",
    "clip_loss",
    "cua",
    "cuaxu",
    "dcl",
    "dclw",
    "debiased_info_nce",
    "debiased_nt_xent",
    "dhel",
    "gram_loss",
    "gram_volume",
    "gram_volume_matrix",
    "info_nce",
    "kcl",
    "maxsim",
    "mip_similarity",
    "mv_dhel",
    "mv_infonce",
    "nt_xent",
    "pairwise_aggregate",
    "pmrl_loss",
    "pvc",
    "siglip_loss",
    "singular_alignment",
    "sup_con",
    "symile_loss",
    "triangle_loss",
    "uniformity",
    "volume_computation",
    "volume_computation3",
    "volume_computation4",
    "volume_computation5",
]

"""Losses and their nn.Module twins, one file per family."""

from .contrastive import ClipLoss, InfoNCE, NTXent, clip_loss, info_nce, nt_xent
from .debiased import DebiasedInfoNCE, DebiasedNTXent, debiased_info_nce, debiased_nt_xent
from .decoupled import DCL, DCLW, dcl, dclw
from .sigmoid import SigLipLoss, siglip_loss
from .supervised import SupCon, sup_con
from .uniform import Alignment, Uniformity, alignment, uniformity

__all__ = [
    "DCL",
    "DCLW",
    "Alignment",
    "ClipLoss",
    "DebiasedInfoNCE",
    "DebiasedNTXent",
    "InfoNCE",
    "NTXent",
    "SigLipLoss",
    "SupCon",
    "Uniformity",
    "alignment",
    "clip_loss",
    "dcl",
    "dclw",
    "debiased_info_nce",
    "debiased_nt_xent",
    "info_nce",
    "nt_xent",
    "siglip_loss",
    "sup_con",
    "uniformity",
]

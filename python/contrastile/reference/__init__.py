"""Dense definitions of every loss: the papers' formulas in ordinary, differentiable PyTorch.

They hold whole matrices of similarities and favour clarity over speed. They are the specification
that the streamed losses are tested against: same names and arguments, less `memory_budget` and
`backend`. Any floating dtype; nothing is upcast beyond what PyTorch promotes, so feed them float64
for an oracle. An empty batch gives 0 with zero gradients.
"""

from .contrastive import clip_loss, info_nce, nt_xent
from .debiased import debiased_info_nce, debiased_nt_xent
from .decoupled import dcl, dclw
from .sigmoid import siglip_loss
from .supervised import sup_con
from .uniform import alignment, uniformity

__all__ = [
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

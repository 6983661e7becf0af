"""open_clip's losses, of release 3.3.0 and of its main branch with training tasks. open_clip need not be installed.

Same arguments, values and gradients without the N x N logits; docs/dropins/open_clip.md has what differs. losses.py and
siglip.py have the classes, training.py what puts them into open_clip's training.
"""

from .gathering import gather_features
from .losses import ClipLoss, CoCaLoss, DistillClipLoss, GenLipLoss
from .siglip import SigLipLoss
from .training import create_loss, create_task, fuse_task, use_in

__all__ = [
    "ClipLoss",
    "CoCaLoss",
    "DistillClipLoss",
    "GenLipLoss",
    "SigLipLoss",
    "create_loss",
    "create_task",
    "fuse_task",
    "gather_features",
    "use_in",
]

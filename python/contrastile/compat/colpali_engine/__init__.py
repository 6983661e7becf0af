"""colpali-engine's losses and MaxSim scores (`colpali-engine` 0.3.18). The package itself is not imported.

late.py has losses of token embeddings, single.py those of one embedding each, scores.py what
colpali_engine.utils.maxsim switches between.
"""

from .late import (
    ColbertLoss,
    ColbertModule,
    ColbertNegativeCELoss,
    ColbertPairwiseCELoss,
    ColbertPairwiseNegativeCELoss,
    ColbertSigmoidLoss,
)
from .scores import maxsim_inbatch, maxsim_kd, patch
from .single import (
    BiEncoderLoss,
    BiEncoderModule,
    BiNegativeCELoss,
    BiPairedEncoderLoss,
    BiPairwiseCELoss,
    BiPairwiseNegativeCELoss,
    BiSigmoidLoss,
)

__all__ = [
    "BiEncoderLoss",
    "BiEncoderModule",
    "BiNegativeCELoss",
    "BiPairedEncoderLoss",
    "BiPairwiseCELoss",
    "BiPairwiseNegativeCELoss",
    "BiSigmoidLoss",
    "ColbertLoss",
    "ColbertModule",
    "ColbertNegativeCELoss",
    "ColbertPairwiseCELoss",
    "ColbertPairwiseNegativeCELoss",
    "ColbertSigmoidLoss",
    "maxsim_inbatch",
    "maxsim_kd",
    "patch",
]

"""memeff's losses on any device (`memeff` 0.3.1): CLIP, LiT and the Qwen3-Embedding objective, plain and Matryoshka.

terms.py has the formulas, losses.py the classes, matryoshka.py those over prefixes of the features, ranks.py the
Distributed classes, which take all processes of a group together.
"""

from .losses import (
    MemoryEfficientCLIPLoss,
    MemoryEfficientLiTLoss,
    MemoryEfficientLiTQwen3Loss,
    MemoryEfficientQwen3Loss,
    StableMemoryEfficientCLIPLoss,
    StableMemoryEfficientLiTLoss,
)
from .matryoshka import (
    MatryoshkaLoss,
    MemoryEfficientMatryoshkaCLIPLoss,
    MemoryEfficientMatryoshkaLiTLoss,
    MemoryEfficientMatryoshkaLiTQwen3Loss,
    MemoryEfficientMatryoshkaQwen3Loss,
)
from .ranks import (
    DistributedMemoryEfficientCLIPLoss,
    DistributedMemoryEfficientLiTLoss,
    DistributedMemoryEfficientLiTQwen3Loss,
    DistributedMemoryEfficientMatryoshkaCLIPLoss,
    DistributedMemoryEfficientMatryoshkaLiTLoss,
    DistributedMemoryEfficientMatryoshkaLiTQwen3Loss,
    DistributedMemoryEfficientMatryoshkaQwen3Loss,
    DistributedMemoryEfficientQwen3Loss,
)

__all__ = [
    "DistributedMemoryEfficientCLIPLoss",
    "DistributedMemoryEfficientLiTLoss",
    "DistributedMemoryEfficientLiTQwen3Loss",
    "DistributedMemoryEfficientMatryoshkaCLIPLoss",
    "DistributedMemoryEfficientMatryoshkaLiTLoss",
    "DistributedMemoryEfficientMatryoshkaLiTQwen3Loss",
    "DistributedMemoryEfficientMatryoshkaQwen3Loss",
    "DistributedMemoryEfficientQwen3Loss",
    "MatryoshkaLoss",
    "MemoryEfficientCLIPLoss",
    "MemoryEfficientLiTLoss",
    "MemoryEfficientLiTQwen3Loss",
    "MemoryEfficientMatryoshkaCLIPLoss",
    "MemoryEfficientMatryoshkaLiTLoss",
    "MemoryEfficientMatryoshkaLiTQwen3Loss",
    "MemoryEfficientMatryoshkaQwen3Loss",
    "MemoryEfficientQwen3Loss",
    "StableMemoryEfficientCLIPLoss",
    "StableMemoryEfficientLiTLoss",
]

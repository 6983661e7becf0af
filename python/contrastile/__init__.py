"""Losses for multimodal and multi-view contrastive learning that never hold the matrix of similarities."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from . import distributed, losses, metrics, reference, retrieval
from .backends import BackendUnsupported, available_backends
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .ops import PairStats, Targets, pair_loss, pair_reduce, row_lse, segment_reduce

__version__ = "0.1.0"
__all__ = ["BackendUnsupported", "PairStats", "Targets", "available_backends", "pair_loss", "pair_reduce", "row_lse"]
__all__ += ["distributed", "losses", "metrics", "reference", "retrieval", "segment_reduce"]
__all__ += _losses
_LATER = ("catalog", "compat", "testing")  # imported when they are asked for

if TYPE_CHECKING:
    from . import catalog as catalog
    from . import compat as compat
    from . import testing as testing
else:

    def __getattr__(name):
        if name in _LATER:
            return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users call, without the modules that it is made of."""
    return sorted({*__all__, *_LATER, *(name for name in globals() if name.startswith("__"))})

"""One row per loss: where it comes from, its dense reference, and inputs to try it on. Tests, selftest and docs
read it."""

from . import linear, modalities, sigmoid, softmax, spread, teacher, views
from .card import CONSTANTS, Case, CaseMaker, LossCard

# in the order in which pages list them
CATALOG: tuple[LossCard, ...] = (
    *softmax.CARDS, *teacher.CARDS, *sigmoid.CARDS, *views.CARDS, *spread.CARDS, *modalities.CARDS,
    *linear.CARDS,
)  # fmt: skip

__all__ = ["CATALOG", "CONSTANTS", "Case", "CaseMaker", "LossCard"]

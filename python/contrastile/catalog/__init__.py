"""One row per loss: where it comes from, its dense reference, and inputs to try it on. Tests, selftest and docs
read it."""

from . import late, linear, modalities, multi_positive, sigmoid, softmax, spread, structured, teacher, views
from .card import CONSTANTS, Case, CaseMaker, LossCard

# in the order in which pages list them
CATALOG: tuple[LossCard, ...] = (
    *softmax.CARDS, *multi_positive.CARDS, *structured.CARDS, *late.CARDS, *teacher.CARDS, *sigmoid.CARDS, *views.CARDS,
    *spread.CARDS, *modalities.CARDS, *linear.CARDS,
)  # fmt: skip

__all__ = ["CATALOG", "CONSTANTS", "Case", "CaseMaker", "LossCard"]

"""One row per loss: where it comes from, its dense reference, and inputs to try it on. Tests, selftest and docs
read it."""

from . import modalities, sigmoid, softmax, spread, structured, teacher, views
from .card import CONSTANTS, Case, CaseMaker, LossCard

# in the order in which pages list them
CATALOG: tuple[LossCard, ...] = (
    *softmax.CARDS, *structured.CARDS, *teacher.CARDS, *sigmoid.CARDS, *views.CARDS, *spread.CARDS, *modalities.CARDS,
)  # fmt: skip

__all__ = ["CATALOG", "CONSTANTS", "Case", "CaseMaker", "LossCard"]

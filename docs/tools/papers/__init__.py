"""The papers: one table that docs/papers.md is written from and that tests/papers run."""

from . import extras, papers_01_25, papers_26_49, papers_50_73
from .row import Offer, Paper

GROUPS: dict[str, tuple[Paper, ...]] = {
    "Papers 1 to 25": papers_01_25.PAPERS,
    "Papers 26 to 49": papers_26_49.PAPERS,
    "Papers 50 to 73": papers_50_73.PAPERS,
    "Works they build on": extras.PAPERS,
}
PAPERS: tuple[Paper, ...] = tuple(paper for group in GROUPS.values() for paper in group)
OFFERS: dict[str, Offer] = {offer.key: offer for paper in PAPERS for offer in paper.offers if offer.call}

__all__ = ["GROUPS", "OFFERS", "PAPERS", "Offer", "Paper"]

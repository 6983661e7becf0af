"""The engine across the ranks of a process group: who is there, what travels, how partial results meet."""

from .agreement import agree, announced, under_way
from .batch import Batch
from .group import Group, Ranks, resolve
from .wire import RankError

__all__ = ["Batch", "Group", "RankError", "Ranks", "agree", "announced", "resolve", "under_way"]

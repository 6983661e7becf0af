"""The engine across the ranks of a process group: who is there, what travels, how partial results meet."""

from .agreement import agree, announced, under_way
from .batch import Batch
from .facts import given, one_of, size_of, some_of
from .group import Group, Ranks, Strategy, group_text, resolve
from .wire import RankError

__all__ = ["Batch", "Group", "RankError", "Ranks", "Strategy", "agree", "announced", "given", "group_text", "one_of"]
__all__ += ["resolve", "size_of", "some_of", "under_way"]

"""The engine across the ranks of a process group: who is there, what travels, how partial results meet."""

from .agreement import agree, collective, under_way
from .communication import RankError
from .facts import given, one_of, size_of, some_of
from .global_batch import GlobalBatch
from .group import Group, Ranks, Strategy, group_text, resolve

__all__ = [
    "GlobalBatch",
    "Group",
    "RankError",
    "Ranks",
    "Strategy",
    "agree",
    "collective",
    "given",
    "group_text",
    "one_of",
]
__all__ += ["resolve", "size_of", "some_of", "under_way"]

"""The words that arguments of several functions take. What is allowed at run time is read from these types."""

from __future__ import annotations

from typing import Literal, TypeAlias

Reduction: TypeAlias = Literal["mean", "sum", "none"]
BackendName: TypeAlias = Literal["auto", "cpu", "torch", "triton", "cuda"]  # "auto" and the names of backends.BACKENDS

# rules of the engine: spec has a number for each, of the same name
ReduceName: TypeAlias = Literal["lse", "softplus", "relu", "max"]
KeepName: TypeAlias = Literal["all", "not_same_index", "not_same_id", "same_id", "not_same_index_or_id"]
PositivesName: TypeAlias = Literal["same_index", "same_id", "kept"]
ScoreName: TypeAlias = Literal["dot", "squared_distance", "distance", "log_distance"]

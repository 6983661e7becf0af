"""The words that arguments of several functions take. What is allowed at run time is read from these types."""

from __future__ import annotations

from typing import Literal, TypeAlias

Reduction: TypeAlias = Literal["mean", "sum", "none"]
Direction: TypeAlias = Literal["mean", "sum", "rows", "cols"]  # of a loss with two: losses.weights has their weights
FixedPoints: TypeAlias = Literal["add", "overwrite"]  # of mixtures with themselves
TeacherLoss: TypeAlias = Literal["ce", "kl"]
PositiveForm: TypeAlias = Literal["out", "in", "each"]  # where the sum over several positives is taken
KeysAs: TypeAlias = Literal["candidates", "positives"]
MarginKind: TypeAlias = Literal["cos", "arc"]
MultilabelForm: TypeAlias = Literal["wbce", "bce", "mse", "nce", "cwcl", "kl"]
BackendName: TypeAlias = Literal["auto", "cpu", "torch", "triton", "cuda"]  # "auto" and the names of backends.BACKENDS

# rules of the engine: spec has a number for each, of the same name
ReduceName: TypeAlias = Literal["lse", "softplus", "relu", "max"]
TestName: TypeAlias = Literal[
    "same_index", "other_index", "same_id", "other_id", "same_group", "other_group", "shared_label", "no_shared_label",
    "lower_order", "partner", "no_partner",
]  # fmt: skip
Keep: TypeAlias = Literal["all"] | TestName | tuple[TestName, ...]
Positives: TypeAlias = Literal["kept"] | TestName | tuple[TestName, ...]
SegmentReduceName: TypeAlias = Literal["max", "lse", "softmax_mean"]
ScoreName: TypeAlias = Literal["dot", "squared_distance", "distance", "log_distance", "gated"]
TargetMap: TypeAlias = Literal["softmax", "affine"]

"""The GPU backends on torch's meta device, which stands for any GPU: their Python runs, their kernels do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from contrastile import backends
from contrastile.backends import cuda as cuda_module
from contrastile.backends import triton as triton_module
from contrastile.backends import triton_kept, triton_kernel, triton_launch, triton_merge

if TYPE_CHECKING:
    from .cuda_host import HostBackend


def leave_out_kernels(host: HostBackend | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """host: whose module stands for the compiled one of cuda."""
    if host is not None:
        built = host.module
        for name in ("segment_maxima", "segment_softmax", "segment_score_grad"):
            monkeypatch.setattr(built, name, lambda x: None)
        for backend in backends.BACKENDS:
            if isinstance(backend, cuda_module.CudaBackend):
                monkeypatch.setattr(backend, "module", built)
    for cls in (triton_module.TritonBackend, cuda_module.CudaBackend):
        monkeypatch.setattr(cls, "unavailable", lambda self: None)
        monkeypatch.setattr(cls, "why_not", lambda self, device, dtype: "float64" if dtype == torch.float64 else None)
    monkeypatch.setattr(triton_launch.Launch, "run", lambda self, kernel, more: None)
    monkeypatch.setattr(triton_merge.PartialStats, "launch", lambda self, out: None)
    monkeypatch.setattr(triton_kernel.Kernel, "__call__", lambda self, given: None)
    monkeypatch.setattr(triton_launch, "tile_for", sm_90)
    monkeypatch.setattr(triton_kept, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(triton_kept, "run", lambda launch, kernel, more: None)
    monkeypatch.setattr(triton_launch, "processors", lambda device: 132)
    monkeypatch.setattr(triton_launch, "copies_tensors", lambda device, kind: True)
    for name in ("launch", "launch_packed"):
        monkeypatch.setattr(cuda_module.CudaBackend, name, lambda self, *args: None)
    monkeypatch.setattr(backends, "select_bases", lambda vectors: None)


def sm_90(device: torch.device, kind: str, weight: int) -> Any:
    from contrastile.triton_kernels import config

    return config.tile("sm_90", kind, weight)

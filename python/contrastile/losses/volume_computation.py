"""Dense volumes under the names of GRAM's official code, for code that is being ported."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check, matmul, no_autocast


def volume_computation(language: Tensor, *inputs: Tensor) -> Tensor:
    """Volume of every language row with every sample's other modalities, as the official GRAM code computes it.

        V_ij = sqrt( |det G_ij| ),   G_ij = Gram matrix of (language_i, inputs_0j, inputs_1j, ...)

    Dot products are in the features' type, determinant and root in float32. Near V = 0 the result is rounding noise of
    about 1e-4 instead of 0, and its gradient is NaN or infinite where the determinant is exactly 0. gram_volume,
    gram_volume_matrix, and gram_loss have neither defect.

    Memory: N M k^2 floats for the Gram matrices of k modalities, about twice that with the gradient. Use it for small
    inputs and for comparisons; train with gram_loss, which holds none of it.

    Args:
        language: (N, D).
        inputs: One or more tensors (M, D), of one dtype and device.

    Returns: (N, M) float32.

    Example:
        >>> language, video = torch.randn(4, 16), torch.randn(9, 16)
        >>> volume_computation(language, video).shape
        torch.Size([4, 9])

    Source: Cicchetti et al. 2025, https://arxiv.org/abs/2412.11959; the official code's utils/volume.py.
    """
    check.features("language", language)
    if not inputs:
        raise ValueError("inputs must be at least one tensor, got none")
    for index, x in enumerate(inputs):
        name = f"inputs[{index}]"
        check.same_shape(name, check.features(name, x), "inputs[0]", check.features("inputs[0]", inputs[0]))
        check.same_width(name, x, "language", language)
        check.same_device(name, x, language.device)
        if x.dtype != language.dtype:
            raise TypeError(f"{name} must have the dtype of language, {language.dtype}, got {x.dtype}")
    with no_autocast(language):  # in a float16 region, torch.stack and torch.cat refuse bfloat16
        return volumes(language, torch.stack(inputs, 1))


def volumes(language: Tensor, others: Tensor) -> Tensor:
    """(N, M) of rows (N, D) with tuples (M, k-1, D)."""
    shape = (language.shape[0], others.shape[0])
    dots = matmul(language, others.flatten(0, 1).T).view(*shape, -1)
    square = matmul(language[:, None], language[:, :, None]).expand(*shape, 1)
    rest = matmul(others, others.mT).expand(*shape, -1, -1)
    first = torch.cat([square, dots], -1)[:, :, None]
    gram = torch.cat([first, torch.cat([dots[..., None], rest], -1)], 2)
    return torch.det(gram.float()).abs().sqrt()


def volume_computation3(language: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """volume_computation of three modalities.

    Args:
        language: (N, D).
        video, audio: (M, D).

    Returns: (N, M) float32.

    Example:
        >>> language, video, audio = torch.randn(3, 4, 16)
        >>> volume_computation3(language, video, audio).shape
        torch.Size([4, 4])

    Source: https://arxiv.org/abs/2412.11959, official code.
    """
    return volume_computation(language, video, audio)


def volume_computation4(language: Tensor, video: Tensor, audio: Tensor, subtitles: Tensor) -> Tensor:
    """volume_computation of four modalities.

    Args:
        language: (N, D).
        video, audio, subtitles: (M, D).

    Returns: (N, M) float32.

    Example:
        >>> language, video, audio, subtitles = torch.randn(4, 4, 16)
        >>> volume_computation4(language, video, audio, subtitles).shape
        torch.Size([4, 4])

    Source: https://arxiv.org/abs/2412.11959, official code.
    """
    return volume_computation(language, video, audio, subtitles)


def volume_computation5(language: Tensor, video: Tensor, audio: Tensor, subtitles: Tensor, depth: Tensor) -> Tensor:
    """volume_computation of five modalities.

    Args:
        language: (N, D).
        video, audio, subtitles, depth: (M, D).

    Returns: (N, M) float32.

    Example:
        >>> language, video, audio, subtitles, depth = torch.randn(5, 4, 16)
        >>> volume_computation5(language, video, audio, subtitles, depth).shape
        torch.Size([4, 4])

    Source: https://arxiv.org/abs/2412.11959, official code.
    """
    return volume_computation(language, video, audio, subtitles, depth)

"""Reduces over segments in plain torch: the scores of some rows with all columns at a time.

Scores are (columns, rows), so that what is reduced lies apart and rows side by side.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from .products import float_product
from .segments import SegmentCall, SegmentReduces, SoftmaxUpstream, row_part


class TorchSegments(SegmentReduces):
    matrices = 8  # z, t, p, z - mean, the gradient, and three numbers of segments spread over columns

    def maxima(self, call: SegmentCall, values: Tensor, args: Tensor) -> None:
        for part in self.chunks(call):
            scores = kept(raw_scores(row_part(call, part)), call.mask)
            best, at = maxima(scores, call.offsets, call.length)
            values[part] = best.T
            args[part] = torch.where(best == -torch.inf, -1, at).T

    def softmax(self, call: SegmentCall, sharpness: Tensor, stat: Tensor, mean: Tensor) -> None:
        for part in self.chunks(call, self.matrices):
            z = raw_scores(row_part(call, part))
            t = kept(z * sharpness, call.mask)
            stat[part], mean[part] = (x.T for x in softmax(z, t, call.offsets, call.length))

    def score_grad(self, call: SegmentCall, up: SoftmaxUpstream) -> Tensor:
        z = raw_scores(call)
        each = partial(spread, columns=len(z), offsets=call.offsets, length=call.length)
        stat, mean, constant = each(up.stat.T), each(up.mean.T), each(up.constant.T)
        t = kept(z * up.sharpness, call.mask)
        none = t == -torch.inf
        if not call.length:
            column = torch.arange(len(z), device=z.device)
            none |= ((column < call.offsets[0]) | (column >= call.offsets[-1]))[:, None]
        p, apart = torch.exp(t - stat), z - mean
        if up.variance is not None:
            squares = (p * apart.square()).masked_fill_(none, 0.0)
            up.variance.copy_(summed(squares, call.offsets, call.length).T)
        grad = p * (constant if up.slope is None else each(up.slope.T) * apart + constant)
        return grad.masked_fill_(none, 0.0).to(call.rows.dtype).T


def raw_scores(call: SegmentCall) -> Tensor:
    """(columns, rows)"""
    return float_product(call.cols, call.rows.T)


def kept(scores: Tensor, mask: Tensor | None) -> Tensor:
    """-inf where the mask drops, in place."""
    return scores if mask is None else scores.masked_fill_(~mask[:, None], -torch.inf)


def softmax(z: Tensor, t: Tensor, offsets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(S, rows) each, of z under softmax(t); t is written over. A peak that is no number to subtract, -inf or inf, is
    the last finite number: then the sum is 0 or inf by itself."""
    largest = torch.finfo(t.dtype).max
    peak = maxima(t, offsets, length)[0].clamp(-largest, largest)
    p = torch.exp_(t.sub_(spread(peak, len(z), offsets, length)))
    total = summed(p, offsets, length)
    mean = summed(p.mul_(z.masked_fill(p == 0, 0.0)), offsets, length) / total
    return peak + total.log(), mean.masked_fill_(total == 0, -torch.inf)


def maxima(scores: Tensor, offsets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(S, rows) values and the rows of `scores` they are in, which mean nothing where the value is -inf."""
    if length:
        best, at = scores.view(-1, length, scores.shape[1]).max(1)
        return best, at + offsets[:-1, None]
    return slice_by_slice(scores, offsets) if scores.device.type == "cpu" else all_at_once(scores, offsets)


def slice_by_slice(scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Where offsets can be read and calls are cheap."""
    bounds = offsets.tolist()
    best = scores.new_full((len(bounds) - 1, scores.shape[1]), -torch.inf)
    at = torch.zeros(best.shape, dtype=torch.int64, device=scores.device)
    for s, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            torch.max(scores[start:stop], 0, out=(best[s], at[s]))
            at[s] += start
    return best, at


def all_at_once(scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Without reading offsets, in several passes: segment_reduce does not say where its maximum is, so a second one
    finds the first place."""
    column = torch.arange(len(scores), device=scores.device)
    best = reduced(scores, "max", offsets)
    hit = (scores == spread(best, len(scores), offsets, 0)) | scores.isnan()
    # float32 counts to 2^24
    place = column.to(torch.float64 if len(column) > 2**24 else scores.dtype)
    return best, reduced(torch.where(hit, place[:, None], torch.inf), "min", offsets)


def spread(x: Tensor, columns: int, offsets: Tensor, length: int) -> Tensor:
    """(S, rows) to (columns, rows), what a segment has to each of its columns; to those outside segments, anything."""
    if length:
        return x.unsqueeze(1).expand(-1, length, -1).reshape(columns, x.shape[1])
    column = torch.arange(columns, device=x.device)
    return x[torch.searchsorted(offsets[1:], column, right=True).clamp_max(len(offsets) - 2)]


def summed(x: Tensor, offsets: Tensor, length: int) -> Tensor:
    return x.view(-1, length, x.shape[1]).sum(1) if length else reduced(x, "sum", offsets)


def reduced(x: Tensor, how: str, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(x, how, offsets=offsets, axis=0, unsafe=True)

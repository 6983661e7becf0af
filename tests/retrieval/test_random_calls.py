"""Random galleries of few different scores: topk and ranks agree with a stable sort, however the tiles fall."""

from __future__ import annotations

from unittest.mock import patch

import pytest

pytest.importorskip("hypothesis")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastile.ops import stream
from contrastile.retrieval import largest, placing, ranks, topk


@settings(deadline=None, derandomize=True, max_examples=80)
@given(data=st.data())
def test_any_gallery_is_ordered_as_by_a_stable_sort(data):
    n, m, d, k = (data.draw(st.integers(0, most)) for most in (12, 400, 3, 6))
    columns, copies = data.draw(st.integers(1, 200)), 1 << data.draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    query, gallery = (torch.randint(-1, 2, (size, d), generator=generator).float() for size in (n, m))
    ids = [torch.randint(0, 3, (size,), generator=generator) for size in (n, m)]
    options = {"row_ids": ids[0], "col_ids": ids[1]}
    nan = torch.rand(m, generator=generator) < data.draw(st.sampled_from([0.0, 0.1]))
    gallery[nan & (d > 0)] = torch.nan
    scores = (query @ gallery.T).masked_fill(ids[0][:, None] == ids[1], -torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True)
    with (
        patch.object(largest, "COLUMNS", columns), patch.object(placing, "COLUMNS", columns),
        patch.object(stream, "COPIES", copies),
    ):  # fmt: skip
        found = topk(query, gallery, k + 1, keep="other_id", **options)
        place = ranks(query, gallery, positives=("same_index", "other_id"), keep="other_id", **options)
    count = min(k + 1, m)
    expected = order.indices[:, :count].masked_fill(order.values[:, :count] == -torch.inf, -1)
    assert torch.equal(found.indices[:, :count], expected) and (found.indices[:, count:] == -1).all()
    torch.testing.assert_close(found.values[:, :count], order.values[:, :count], equal_nan=True)
    for i in range(min(n, m)):
        own, candidates = scores[i, i], int((scores[i] != -torch.inf).sum())
        last = 0 if own == -torch.inf else candidates if own.isnan() else int((order.indices[i] == i).nonzero()) + 1
        assert place[i] == last
    assert not place[m:].any()

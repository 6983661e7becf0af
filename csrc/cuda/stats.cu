// stats: every side's numbers (monoid.py) from scores that are already in memory. No atomics: equal bits every run.
#include <math.h>
#include "cuda/launch.h"
#include "cuda/maximum.h"

namespace {
#include "cuda/pair.h"

#include "cuda/partial_stats.h"

// visit(c, pair) for each of these pairs, `count` of them from column j on. COLS: as columns see them.
template <class Stats, bool DOT, bool COLS, class Visit> CT_HD void visit_quad(const Pairs& x, const Item& row, const Item* cols,
                                                                               int64_t i, int64_t j, int count, bool vector,
                                                                               const Visit& visit) {
  constexpr bool TARGET = Stats::extra == Extra::kTarget;
  const Scores score = scores<DOT>(x, row, cols, i, j, count, vector);
  Quad t = {};
  if constexpr (TARGET) {
    const Logits logits = logits_of(x, i);
    t = dots(x, x.directions, i, j, count, vector);
    for (int c = 0; c < QUAD; ++c) t.v[c] = logits(t.v[c]);
  }
  const bool plain = untouched(x, i, 1, j, QUAD);
  const Marks marks = plain ? Marks() : marks_of(x, i, j, count);
  for (int c = 0; c < QUAD; ++c) {
    if (c >= count) continue;
    const float s = score.s.v[c], z = COLS ? col_z(x, row, cols[c], s) : row_z(x, row, cols[c], s);
    visit(c, Pair{z, t.v[c], marks[c], marks[c].positive ? share_of(x, i, j + c) : 0.f, plain});
  }
}

// One block per row; its threads take every THREADS-th quad of columns.
template <class Stats, bool DOT> struct StatsRows {
  static constexpr const char* name = "stats_rows";
  static constexpr int threads = 256, phases = 3, HEADS = 16;
  struct Shared {
    Stats part[threads];
  };
  Pairs x;
  Output out;
  bool vector;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) s.part[at.thread] = walk(at.x, at.thread);
    if constexpr (P == 1) join(s, at.thread, HEADS, threads);
    if constexpr (P == 2) join(s, at.thread, 1, HEADS);
    if (P == 2 && at.thread == 0) out.store(0, at.x, s.part[0]);
  }

  static CT_HD void join(Shared& s, int thread, int heads, int count) {  // `count` partials become `heads`
    for (int k = thread + heads; thread < heads && k < count; k += heads) s.part[thread].merge(s.part[k]);
  }

  CT_HD Stats walk(int64_t i, int thread) const {
    const Item row = row_item(x, i);
    Stats p;
    p.clear();
    for (int64_t j = (int64_t)thread * QUAD; j < x.m; j += threads * QUAD) {
      const int count = count_at(j, x.m);
      Item cols[QUAD];
      for (int c = 0; c < QUAD; ++c) cols[c] = col_item(x, c < count ? j + c : j);
      visit_quad<Stats, DOT, false>(x, row, cols, i, j, count, vector,
                                    [&](int c, const Pair& pair) { p.add(x, pair, x.row, i, x.col_origin + j + c); });
    }
    return p;
  }
};

// One block per TILE_ROWS x TILE_COLS pairs; a thread takes four columns and every ROW_LANES-th row.
template <class Stats, bool DOT> struct StatsCols {
  static constexpr const char* name = "stats_cols";
  static constexpr int threads = LANES * ROW_LANES, phases = 2;
  struct Shared {
    Stats part[ROW_LANES][TILE_COLS];
  };
  Pairs x;
  Output out;
  bool vector;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) walk(at, s.part[at.thread / LANES] + at.thread % LANES * QUAD);
    if constexpr (P == 1) join(at, s);
  }

  CT_HD void join(const Place& at, Shared& s) const {
    const int64_t j = at.x * TILE_COLS + at.thread;
    if (at.thread >= TILE_COLS || j >= x.m) return;
    for (int k = 1; k < ROW_LANES; ++k) s.part[0][at.thread].merge(s.part[k][at.thread]);
    out.store(at.y, j, s.part[0][at.thread]);
  }

  CT_HD void walk(const Place& at, Stats* to) const {
    const int64_t j = at.x * TILE_COLS + at.thread % LANES * QUAD, first = at.y * TILE_ROWS;
    const int64_t last = x.n - first < TILE_ROWS ? x.n : first + TILE_ROWS;
    const int count = count_at(j, x.m);
    Item cols[QUAD];
    Stats p[QUAD];
    for (int c = 0; c < QUAD; ++c) {
      cols[c] = col_item(x, c < count ? j + c : 0);
      p[c].clear();
    }
    for (int64_t i = first + at.thread / LANES; count && i < last; i += ROW_LANES) {
      const Item row = row_item(x, i);
      visit_quad<Stats, DOT, true>(x, row, cols, i, j, count, vector,
                                   [&](int c, const Pair& pair) { p[c].add(x, pair, x.col, j + c, x.row_origin + i); });
    }
    for (int c = 0; c < QUAD; ++c) to[c] = p[c];
  }
};

// Joins the strips of each column in their order.
template <class Stats> struct MergeStats {
  static constexpr const char* name = "merge_stats";
  static constexpr int threads = 128, phases = 1;
  struct Shared {};
  Output from, out;
  int64_t count;

  template <int P> CT_HD void phase(const Place& at, Shared&) const {
    const int64_t j = at.x * threads + at.thread;
    if (j >= out.width) return;
    Stats p = from.load<Stats>(0, j);
    for (int64_t k = 1; k < count; ++k) p.merge(from.load<Stats>(k, j));
    out.store(0, j, p);
  }
};

template <class Stats, bool DOT> Status run(const DeviceBlock& x) {
  const bool vector = vector_loads(x);
  if (x.row.on) {
    const Status status = launch(StatsRows<Stats, DOT>{x, output(x.row, x.n), vector}, x.n, 1, x.stream);
    if (status.error) return status;
  }
  if (!x.col.on || x.m == 0) return {};
  const int64_t count = strips(x.n, TILE_ROWS);
  const Output out = output(x.col, x.m), parts = count == 1 ? out : partials(out, x.workspace, count);
  const Status status = launch(StatsCols<Stats, DOT>{x, parts, vector}, strips(x.m, TILE_COLS), count, x.stream);
  if (status.error || count == 1) return status;
  return launch(MergeStats<Stats>{parts, out, count}, strips(x.m, MergeStats<Stats>::threads), 1, x.stream);
}

Extra extra_of(const Pairs& x) {
  if (x.target != Target::kNone) return Extra::kTarget;
  return x.split || x.row.kept || x.col.kept ? Extra::kApart : Extra::kNone;
}
}  // namespace

int64_t stats_workspace(const DeviceBlock& x) {
  const int64_t count = strips(x.n, TILE_ROWS), apart = extra_of(x) == Extra::kApart, target = extra_of(x) == Extra::kTarget;
  const int64_t floats = 3 + 2 * apart + 4 * target, integers = 1 + 3 * apart + 2 * target;
  return x.col.on && count > 1 ? count * x.m * (floats * (int64_t)sizeof(float) + integers * (int64_t)sizeof(int64_t)) : 0;
}

Status stats(const DeviceBlock& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {"stats", guard.error};
  const Extra extra = extra_of(x);
  return for_reduce(x.reduce, [&](auto tag) {
    constexpr Reduce R = decltype(tag)::value;
    if constexpr (logarithm<Functor<R>>)
      if (extra == Extra::kTarget) return run<PartialStats<R, Extra::kTarget>, true>(x);
    const bool dot = x.score == Score::kDot;
    if (extra == Extra::kApart) {
      using Stats = PartialStats<R, Extra::kApart>;
      return dot ? run<Stats, true>(x) : run<Stats, false>(x);
    }
    using Stats = PartialStats<R, Extra::kNone>;
    return dot ? run<Stats, true>(x) : run<Stats, false>(x);
  });
}

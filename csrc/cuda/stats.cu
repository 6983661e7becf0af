// stats: every side's (peak, total, positive, arg) from scores that are already in memory. No atomics: equal bits every run.
#include <math.h>
#include "cuda/launch.h"
#include "cuda/maximum.h"

namespace {
#include "cuda/pair.h"

// A partial statistic: a monoid, see merge in monoid.py.
template <Reduce R> struct PartialStats {
  using F = Functor<R>;
  float peak, total, positive;
  int64_t arg;

  CT_HD void clear() {
    peak = -INFINITY;
    total = positive = 0.f;
    arg = -1;
  }
  CT_HD void add(float z, int64_t index) {  // index grows from call to call: the first maximum stays
    if constexpr (F::arg) {
      if (above(z, peak)) {
        peak = z;
        arg = index;
      }
    } else if constexpr (F::peak) {
      if (z > peak) {  // NaN is above nothing: it reaches the total, not the peak
        total *= vexp(peak - z);
        peak = z;
      }
      total += vexp(z - finite_part(peak));
    } else {
      total += F::term(z);
    }
  }
  CT_HD void merge(const PartialStats& y) {
    positive += y.positive;
    if constexpr (F::arg) {
      if (above(y.peak, peak) || (!above(peak, y.peak) && y.arg < arg)) {
        peak = y.peak;
        arg = y.arg;
      }
    } else if constexpr (F::peak) {
      const float top = vmax(y.peak, peak), base = finite_part(top);
      total = total * vexp(peak - base) + y.total * vexp(y.peak - base);
      peak = top;
    } else {
      total += y.total;
    }
  }
  CT_HD void add_positive(float z) { positive += F::positive_term(z); }
};

// Where partials of one side go, `width` numbers per strip; null = not wanted.
template <Reduce R> struct Target {
  float *peak, *total, *positive;
  int64_t *arg, width;

  CT_HD void store(int64_t strip, int64_t k, const PartialStats<R>& p) const {
    const int64_t at = strip * width + k;
    if (peak) peak[at] = p.peak;
    if (total) total[at] = p.total;
    if (positive) positive[at] = p.positive;
    if (arg) arg[at] = p.arg;
  }
  CT_HD PartialStats<R> load(int64_t strip, int64_t k) const {
    const int64_t at = strip * width + k;
    PartialStats<R> p;
    p.clear();
    if (peak) p.peak = peak[at];
    if (total) p.total = total[at];
    if (positive) p.positive = positive[at];
    if (arg) p.arg = arg[at];
    return p;
  }
};
template <Reduce R> Target<R> target(const Side& side, int64_t width) {
  return {side.peak, side.total, side.positive, side.arg, width};
}
// The same fields as in `like`, `count` strips long, in the workspace.
template <Reduce R> Target<R> partials(const Target<R>& like, void* workspace, int64_t count) {
  int64_t* arg = (int64_t*)workspace;
  float *at = (float*)(like.arg ? arg + count * like.width : arg), *peak = at;
  if (like.peak) at += count * like.width;
  float* total = at;
  if (like.total) at += count * like.width;
  return {like.peak ? peak : nullptr, like.total ? total : nullptr, like.positive ? at : nullptr, like.arg ? arg : nullptr,
          like.width};
}

// One block per row; its threads take every THREADS-th quad of columns.
template <Reduce R, bool DOT> struct StatsRows {
  static constexpr const char* name = "stats_rows";
  static constexpr int threads = 256, phases = 3, HEADS = 16;
  struct Shared {
    PartialStats<R> part[threads];
  };
  Pairs x;
  Target<R> out;
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

  CT_HD PartialStats<R> walk(int64_t i, int thread) const {
    const Item row = row_item(x, i);
    PartialStats<R> p;
    p.clear();
    for (int64_t j = (int64_t)thread * QUAD; j < x.m; j += threads * QUAD) {
      const int count = count_at(j, x.m);
      Item cols[QUAD];
      for (int c = 0; c < QUAD; ++c) cols[c] = col_item(x, c < count ? j + c : j);
      const Scores score = scores<DOT>(x, row, cols, i, j, count, vector);
      const bool plain = untouched(x, i, 1, j, QUAD);
      const Marks marks = plain ? Marks() : marks_of(x, i, j, count);
      for (int c = 0; c < QUAD; ++c) {
        if (c >= count) continue;
        const float z = affine(row, cols[c], score.s.v[c]);
        const Rules<bool> rule = marks[c];
        p.add(plain ? z : side_z(x, z, rule, x.row, i), x.col_origin + j + c);
        if (rule.positive) p.add_positive(z);
      }
    }
    return p;
  }
};

// One block per TILE_ROWS x TILE_COLS pairs; a thread takes four columns and every ROW_LANES-th row.
template <Reduce R, bool DOT> struct StatsCols {
  static constexpr const char* name = "stats_cols";
  static constexpr int threads = LANES * ROW_LANES, phases = 2;
  struct Shared {
    PartialStats<R> part[ROW_LANES][TILE_COLS];
  };
  Pairs x;
  Target<R> out;
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

  CT_HD void walk(const Place& at, PartialStats<R>* to) const {
    const int64_t j = at.x * TILE_COLS + at.thread % LANES * QUAD, first = at.y * TILE_ROWS;
    const int64_t last = x.n - first < TILE_ROWS ? x.n : first + TILE_ROWS;
    const int count = count_at(j, x.m);
    Item cols[QUAD];
    PartialStats<R> p[QUAD];
    for (int c = 0; c < QUAD; ++c) {
      cols[c] = col_item(x, c < count ? j + c : 0);
      p[c].clear();
    }
    for (int64_t i = first + at.thread / LANES; count && i < last; i += ROW_LANES) {
      const Item row = row_item(x, i);
      const Scores score = scores<DOT>(x, row, cols, i, j, count, vector);
      const bool plain = untouched(x, i, 1, j, QUAD);
      const Marks marks = plain ? Marks() : marks_of(x, i, j, count);
      for (int c = 0; c < QUAD; ++c) {
        if (c >= count) continue;
        const float z = affine(row, cols[c], score.s.v[c]);
        const Rules<bool> rule = marks[c];
        p[c].add(plain ? z : side_z(x, z, rule, x.col, j + c), x.row_origin + i);
        if (rule.positive) p[c].add_positive(z);
      }
    }
    for (int c = 0; c < QUAD; ++c) to[c] = p[c];
  }
};

// Joins the strips of each column in their order.
template <Reduce R> struct MergeStats {
  static constexpr const char* name = "merge_stats";
  static constexpr int threads = 128, phases = 1;
  struct Shared {};
  Target<R> from, out;
  int64_t count;

  template <int P> CT_HD void phase(const Place& at, Shared&) const {
    const int64_t j = at.x * threads + at.thread;
    if (j >= out.width) return;
    PartialStats<R> p = from.load(0, j);
    for (int64_t k = 1; k < count; ++k) p.merge(from.load(k, j));
    out.store(0, j, p);
  }
};

template <Reduce R, bool DOT> Status run(const DeviceBlock& x) {
  const bool vector = vector_loads(x);
  if (x.row.on) {
    const Status status = launch(StatsRows<R, DOT>{x, target<R>(x.row, x.n), vector}, x.n, 1, x.stream);
    if (status.error) return status;
  }
  if (!x.col.on || x.m == 0) return {};
  const int64_t count = strips(x.n, TILE_ROWS);
  const Target<R> out = target<R>(x.col, x.m), parts = count == 1 ? out : partials(out, x.workspace, count);
  const Status status = launch(StatsCols<R, DOT>{x, parts, vector}, strips(x.m, TILE_COLS), count, x.stream);
  if (status.error || count == 1) return status;
  return launch(MergeStats<R>{parts, out, count}, strips(x.m, MergeStats<R>::threads), 1, x.stream);
}
}  // namespace

int64_t stats_workspace(const DeviceBlock& x) {
  const int64_t count = strips(x.n, TILE_ROWS);
  return x.col.on && count > 1 ? count * x.m * (3 * (int64_t)sizeof(float) + (int64_t)sizeof(int64_t)) : 0;
}

Status stats(const DeviceBlock& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {"stats", guard.error};
  return for_reduce(x.reduce, [&](auto tag) {
    constexpr Reduce R = decltype(tag)::value;
    return x.score == Score::kDot ? run<R, true>(x) : run<R, false>(x);
  });
}

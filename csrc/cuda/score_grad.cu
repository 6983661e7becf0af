// score_grad: dL/d<a, b> of every pair from its score and the finished statistics; sums of it by row and by column.
#include <math.h>
#include "cuda/element.h"
#include "cuda/launch.h"

namespace {
#include "cuda/pair.h"

template <Reduce R> CT_HD float slope(float z, const Item& side) { return slope_of<Functor<R>>(z, side.peak, side.log_total); }

// The same times its upstream gradient, of a kept positive in the statistic that these have of their own. What only they need is
// read here, not kept with the item: its registers would spill.
template <Reduce R> CT_HD float positive_stat_grad(const Pairs& x, const Side& side, float z, Mark mark, int64_t k) {
  if (!side.positive_stat_weight || !kept_positive(x, z, mark, side, k)) return 0.f;
  const float peak = finite_part(side.positive_stat[2 * k]), log_total = finite_part(side.positive_stat[2 * k + 1]);
  return side.positive_stat_weight[k] * slope_of<Functor<R>>(z, peak, log_total);
}

// dL/dz of one pair
template <Reduce R>
CT_HD float pair_grad(const Pairs& x, const Item& row, const Item& col, float z, int64_t i, int64_t j, bool plain, Mark mark) {
  float g = 0.f;
  if (x.row.on) g = row.weight * slope<R>(plain ? z : side_z(x, z, mark, x.row, i), row);
  if (x.col.on) g += col.weight * slope<R>(plain ? z : side_z(x, z, mark, x.col, j), col);
  if (mark.positive) {
    g += (row.positive_weight + col.positive_weight) * share_of(x, i, j) * Functor<R>::positive_slope(z);
    if constexpr (logarithm<Functor<R>>)
      g += positive_stat_grad<R>(x, x.row, z, mark, i) + positive_stat_grad<R>(x, x.col, z, mark, j);
  }
  return g;
}

// Sums over one side: of dL/dz (kDot) or dL/dq, and of dL/dz * score * (scale of the other side). Null = not wanted.
struct Sums {
  float *grad, *score;
  int64_t width;
};

// One block per TILE_ROWS x TILE_COLS pairs; a thread takes four columns and every ROW_LANES-th row.
template <Reduce R, bool DOT> struct ScoreGrad {
  static constexpr const char* name = "score_grad";
  static constexpr int threads = LANES * ROW_LANES, phases = 2;
  struct Shared {
    float row_grad[TILE_ROWS][LANES + 1], row_score[TILE_ROWS][LANES + 1];  // + 1: lanes of a column meet different banks
    float col_grad[ROW_LANES][TILE_COLS], col_score[ROW_LANES][TILE_COLS];
  };
  Pairs x;
  Sums row, col;
  bool vector, vector_out;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) walk(at, s);
    if constexpr (P == 1) add_up(at, s);
  }

  CT_HD void walk(const Place& at, Shared& s) const {
    const int lane = at.thread % LANES, y = at.thread / LANES;
    const int64_t j = at.x * TILE_COLS + lane * QUAD, first = at.y * TILE_ROWS;
    const int count = count_at(j, x.m);
    Item cols[QUAD];
    for (int c = 0; c < QUAD; ++c) cols[c] = col_item(x, c < count ? j + c : 0);
    Quad grad_sum = {}, score_sum = {};
    for (int r = y; r < TILE_ROWS && first + r < x.n; r += ROW_LANES) {
      float by_row = 0.f, score_by_row = 0.f;
      if (count) one_row(first + r, j, count, cols, grad_sum, score_sum, by_row, score_by_row);
      if (row.grad) s.row_grad[r][lane] = by_row;
      if (row.score) s.row_score[r][lane] = score_by_row;
    }
    for (int c = 0; c < QUAD; ++c) {
      if (col.grad) s.col_grad[y][lane * QUAD + c] = grad_sum.v[c];
      if (col.score) s.col_score[y][lane * QUAD + c] = score_sum.v[c];
    }
  }

  CT_HD void one_row(int64_t i, int64_t j, int count, const Item* cols, Quad& grad_sum, Quad& score_sum, float& by_row,
                     float& score_by_row) const {
    const Item it = row_item(x, i);
    const Scores score = scores<DOT>(x, it, cols, i, j, count, vector);
    const bool plain = untouched(x, i, 1, j, QUAD);
    const Marks marks = plain ? Marks() : marks_of(x, i, j, count);
    Quad out;
    for (int c = 0; c < QUAD; ++c) {
      const float s = score.s.v[c], z = affine(it, cols[c], s);
      const float g = pair_grad<R>(x, it, cols[c], z, i, j + c, plain || c >= count, marks[c]);
      const bool nothing = c >= count || (!plain && g == 0.f);  // a dropped pair adds 0, whatever its score is
      const float gs = nothing ? 0.f : g * s;
      score_by_row += gs * cols[c].scale;
      score_sum.v[c] += gs * it.scale;
      const float ds = g * it.scale * cols[c].scale;
      out.v[c] = DOT || ds == 0.f ? ds : ds * score.slope.v[c];
      const float bias = c >= count ? 0.f : DOT ? g : out.v[c];
      by_row += bias;
      grad_sum.v[c] += bias;
    }
    if constexpr (DOT) write(0, i, j, count, out);
    else write_tiles(i, j, count, out);
  }

  // From dL/dq to dL/d<a, b_t> of every tile; grad may be scores, so each pair is read before it is written.
  CT_HD void write_tiles(int64_t i, int64_t j, int count, const Quad& dq) const {
    for (int64_t t = 0; t < x.directions; ++t) {
      const Quad d = dots(x, t, i, j, count, vector);
      Quad to;
      for (int c = 0; c < QUAD; ++c) to.v[c] = x.offset && t == 0 ? -2.f * dq.v[c] : -2.f * dq.v[c] * d.v[c];
      write(t, i, j, count, to);
    }
  }

  CT_HD void write(int64_t tile, int64_t i, int64_t j, int count, const Quad& g) const {
    const int64_t at = tile * x.grad_direction + i * x.grad_stride + j;
    if (x.grad_type == GradType::kFloat) return put((float*)x.grad + at, count, g);
    HalfQuad h;
    if (x.grad_type == GradType::kBfloat16) {
      for (int c = 0; c < QUAD; ++c) h.v[c] = to_bf16(g.v[c]);
    } else {
      for (int c = 0; c < QUAD; ++c) h.v[c] = to_half(g.v[c] * *x.factor);
    }
    put((uint16_t*)x.grad + at, count, h);
  }
  template <class T, class Four> CT_HD void put(T* to, int count, const Four& four) const {
    if (vector_out && count == QUAD) return store_quad(to, four);
    for (int c = 0; c < QUAD; ++c)
      if (c < count) to[c] = four.v[c];
  }

  // The first half of the threads sum a column each, those after them a row each.
  CT_HD void add_up(const Place& at, Shared& s) const {
    const int r = at.thread - TILE_COLS;
    const int64_t j = at.x * TILE_COLS + at.thread, i = at.y * TILE_ROWS + r;
    if (r < 0 && j < x.m) {
      if (col.grad) col.grad[at.y * col.width + j] = sum(&s.col_grad[0][at.thread], ROW_LANES, TILE_COLS);
      if (col.score) col.score[at.y * col.width + j] = sum(&s.col_score[0][at.thread], ROW_LANES, TILE_COLS);
    }
    if (r >= 0 && r < TILE_ROWS && i < x.n) {
      if (row.grad) row.grad[at.x * row.width + i] = sum(s.row_grad[r], LANES, 1);
      if (row.score) row.score[at.x * row.width + i] = sum(s.row_score[r], LANES, 1);
    }
  }
  static CT_HD float sum(const float* p, int count, int stride) {
    float total = 0.f;
    for (int k = 0; k < count; ++k) total += p[k * stride];
    return total;
  }
};

struct MergeSums {
  static constexpr const char* name = "merge_sums";
  static constexpr int threads = 128, phases = 1;
  struct Shared {};
  const float* from;
  float* out;
  int64_t width, count;

  template <int P> CT_HD void phase(const Place& at, Shared&) const {
    const int64_t k = at.x * threads + at.thread;
    if (k >= width) return;
    float total = 0.f;
    for (int64_t strip = 0; strip < count; ++strip) total += from[strip * width + k];
    out[k] = total;
  }
};

// Where the kernel writes one side's sums: the result itself where there is one strip, else the workspace from `at` on.
Sums partial_sums(const Side& side, int64_t width, int64_t count, float*& at) {
  if (count == 1) return {side.grad_sum, side.grad_score_sum, width};
  Sums s = {side.grad_sum ? at : nullptr, nullptr, width};
  if (side.grad_sum) at += count * width;
  s.score = side.grad_score_sum ? at : nullptr;
  if (side.grad_score_sum) at += count * width;
  return s;
}
Status merge_sums(const float* from, float* out, int64_t width, int64_t count, void* stream) {
  if (from == out) return {};  // one strip, or not wanted
  return launch(MergeSums{from, out, width, count}, strips(width, MergeSums::threads), 1, stream);
}
Status merge_side(const Side& side, const Sums& parts, int64_t count, void* stream) {
  const Status status = merge_sums(parts.grad, side.grad_sum, parts.width, count, stream);
  return status.error ? status : merge_sums(parts.score, side.grad_score_sum, parts.width, count, stream);
}

bool vector_stores(const Pairs& x) {
  return (uintptr_t)x.grad % (x.grad_type == GradType::kFloat ? 16 : 8) == 0 && x.grad_stride % QUAD == 0 &&
         x.grad_direction % QUAD == 0;
}

template <Reduce R, bool DOT> Status run(const DeviceBlock& x) {
  const int64_t row_strips = strips(x.n, TILE_ROWS), col_strips = strips(x.m, TILE_COLS);
  float* at = (float*)x.workspace;
  const Sums row = partial_sums(x.row, x.n, col_strips, at), col = partial_sums(x.col, x.m, row_strips, at);
  Status status = launch(ScoreGrad<R, DOT>{x, row, col, vector_loads(x), vector_stores(x)}, col_strips, row_strips, x.stream);
  if (!status.error) status = merge_side(x.row, row, col_strips, x.stream);
  return status.error ? status : merge_side(x.col, col, row_strips, x.stream);
}
}  // namespace

int64_t score_grad_workspace(const DeviceBlock& x) {
  const int64_t row = (x.row.grad_sum != nullptr) + (x.row.grad_score_sum != nullptr);
  const int64_t col = (x.col.grad_sum != nullptr) + (x.col.grad_score_sum != nullptr);
  return (int64_t)sizeof(float) * (row * x.n * strips(x.m, TILE_COLS) + col * x.m * strips(x.n, TILE_ROWS));
}

Status score_grad(const DeviceBlock& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {"score_grad", guard.error};
  return for_reduce(x.reduce, [&](auto tag) -> Status {
    constexpr Reduce R = decltype(tag)::value;
    if constexpr (Functor<R>::arg) return {};  // differentiated as a gather of the saved argmax, never by tiles
    else return x.score == Score::kDot ? run<R, true>(x) : run<R, false>(x);
  });
}

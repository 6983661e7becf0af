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

struct Pair {
  float z, t;  // t: with a target
  Mark mark;
  bool plain;  // it is known to be kept and not positive
};

// What a pair needs of one side's target; the rest, for dL/dt, is read where it is asked for.
struct TargetItem {
  float peak, log_total, mean_weight;
};
CT_HD TargetItem target_item(const Side& side, int64_t k) {
  if (!side.mean_weight) return {};
  const bool softmax = side.target_stat;
  return {softmax ? finite_part(side.target_stat[2 * k]) : 0.f, softmax ? finite_part(side.target_stat[2 * k + 1]) : 0.f,
          side.mean_weight[k]};
}

// dL/dz of a pair that a side keeps, from its softmax p and its target; adds what these give to dL/dt, where that is wanted. Equal
// p and q cancel before anything else is added.
template <Target T> CT_HD float target_grad(const Pairs& x, const Side& side, const Item& it, const TargetItem& target, float p,
                                            const Pair& pair, int64_t k, float& of_t) {
  using Weight = PairWeight<T>;
  const float mean = target.mean_weight, q = Weight::weight(pair.t, target.peak, target.log_total);
  if (x.grad_second) {
    const float logit = side.logit_weight ? side.logit_weight[k] : 0.f;
    of_t += Weight::slope(q, pair.z - it.peak, pair.t - target.peak, mean, logit, side.mean_offset[k]);
  }
  if constexpr (T == Target::kSoftmax) return it.weight * (p - q) + (it.weight + mean) * q;
  return it.weight * p + mean * q;
}

// What one side gives to dL/dz, and adds to dL/dt.
template <Reduce R, bool TARGET> CT_HD float side_grad(const Pairs& x, const Side& side, const Item& it, const TargetItem& target,
                                                       const Pair& pair, int64_t k, float& of_t) {
  const bool kept = pair.plain || in_statistic(x, pair.z, pair.mark, side, k);
  const float p = slope<R>(kept ? pair.z : -INFINITY, it);
  if constexpr (TARGET)
    if (kept && side.mean_weight)
      return x.target == Target::kAffine ? target_grad<Target::kAffine>(x, side, it, target, p, pair, k, of_t)
                                         : target_grad<Target::kSoftmax>(x, side, it, target, p, pair, k, of_t);
  return it.weight * p;
}

// What the positive gives to dL/dz of one side.
template <Reduce R>
CT_HD float positive_grad(const Pairs& x, const Side& side, const Item& it, float z, Mark mark, float share, int64_t k) {
  const float g = it.positive_weight * share * Functor<R>::positive_slope(z);
  if constexpr (logarithm<Functor<R>>) return g + positive_stat_grad<R>(x, side, z, mark, k);
  return g;
}

// dL/dz by the statistics of rows and by those of columns.
struct BySide {
  float row = 0.f, col = 0.f;
};
// The same of both sides and of positives; of_col: z as columns see it.
template <Reduce R, bool TARGET> CT_HD BySide pair_grad(const Pairs& x, const Item& row, const Item& col,
                                                        const TargetItem& row_target, const TargetItem& col_target, Pair pair,
                                                        float of_col, int64_t i, int64_t j, float& of_t) {
  BySide g;
  const float of_row = pair.z;
  if (x.row.on) g.row = side_grad<R, TARGET>(x, x.row, row, row_target, pair, i, of_t);
  pair.z = of_col;
  if (x.col.on) g.col = side_grad<R, TARGET>(x, x.col, col, col_target, pair, j, of_t);
  if (pair.mark.positive) {
    const float share = share_of(x, i, j);
    g.row += positive_grad<R>(x, x.row, row, of_row, pair.mark, share, i);
    g.col += positive_grad<R>(x, x.col, col, of_col, pair.mark, share, j);
  }
  return g;
}

// Sums over one side, null = not wanted: of dL/dz (of distances dL/dq), of dL/dz * score * (scale of the other side) and, of rows
// with a target, of dL/dt * product.
enum { OF_GRAD, OF_SCORE, OF_SECOND, SUMS };
struct Sums {
  float* to[SUMS];
  int64_t width;
};

// One block per TILE_ROWS x TILE_COLS pairs; a thread takes four columns and every ROW_LANES-th row.
template <Reduce R, bool DOT, bool TARGET> struct ScoreGrad {
  static constexpr const char* name = "score_grad";
  static constexpr int threads = LANES * ROW_LANES, phases = 2, ROW_SUMS = TARGET ? OF_SECOND + 1 : OF_SECOND, COL_SUMS = OF_SECOND;
  struct Shared {
    float row[ROW_SUMS][TILE_ROWS][LANES + 1];  // + 1: lanes of a column meet different banks
    float col[COL_SUMS][ROW_LANES][TILE_COLS];
  };
  Pairs x;
  Sums row, col;
  bool vector, vector_out;

  struct Columns {
    Item item[QUAD];
    TargetItem target[TARGET ? QUAD : 1];
  };
  struct Totals {
    Quad col[COL_SUMS] = {};
    float row[ROW_SUMS];
  };

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) walk(at, s);
    if constexpr (P == 1) add_up(at, s);
  }

  CT_HD void walk(const Place& at, Shared& s) const {
    const int lane = at.thread % LANES, y = at.thread / LANES;
    const int64_t j = at.x * TILE_COLS + lane * QUAD, first = at.y * TILE_ROWS;
    const int count = count_at(j, x.m);
    Columns cols;
    for (int c = 0; c < QUAD; ++c) {
      cols.item[c] = col_item(x, c < count ? j + c : 0);
      if constexpr (TARGET) cols.target[c] = target_item(x.col, c < count ? j + c : 0);
    }
    Totals sum;
    for (int r = y; r < TILE_ROWS && first + r < x.n; r += ROW_LANES) {
      for (float& total : sum.row) total = 0.f;
      if (count) one_row(first + r, j, count, cols, sum);
      for (int k = 0; k < ROW_SUMS; ++k)
        if (row.to[k]) s.row[k][r][lane] = sum.row[k];
    }
    for (int k = 0; k < COL_SUMS; ++k)
      for (int c = 0; c < QUAD; ++c)
        if (col.to[k]) s.col[k][y][lane * QUAD + c] = sum.col[k].v[c];
  }

  CT_HD void one_row(int64_t i, int64_t j, int count, const Columns& cols, Totals& sum) const {
    const Item it = row_item(x, i);
    const Scores score = scores<DOT>(x, it, cols.item, i, j, count, vector);
    const bool plain = untouched(x, i, 1, j, QUAD), function = is_distance(x.score);
    const Marks marks = plain ? Marks() : marks_of(x, i, j, count);
    Quad out, second = {}, of_cols = {};
    const Quad g = slopes(i, j, count, it, cols, score.s, plain, marks, of_cols, second, sum);
    for (int c = 0; c < QUAD; ++c) {
      const Item& col = cols.item[c];
      const float s = score.s.v[c], own = g.v[c], other = of_cols.v[c];
      const auto times_s = [&](float g) { return c >= count || (!plain && g == 0.f) ? 0.f : g * s; };  // 0 whatever s is
      sum.row[OF_SCORE] += times_s(own) * (x.own_scales ? 1.f : col.scale);
      sum.col[OF_SCORE].v[c] += x.own_scales ? times_s(other) : times_s(own) * it.scale;
      const float ds = x.own_scales ? own * it.scale + other * col.scale : own * it.scale * col.scale, both = own + other;
      out.v[c] = DOT || ds == 0.f ? ds : ds * score.slope.v[c];
      const float bias = c >= count ? 0.f : DOT || !function ? both : out.v[c];
      sum.row[OF_GRAD] += bias;
      sum.col[OF_GRAD].v[c] += bias;
    }
    if constexpr (DOT && !TARGET) write(0, i, j, count, out);
    else write_products(i, j, count, score, function, out, second);
  }

  // The gradients of all products. grad may be scores: each pair is read before it is written.
  CT_HD void write_products(int64_t i, int64_t j, int count, const Scores& score, bool function, const Quad& first,
                            const Quad& second) const {
    CT_ROLL
    for (int64_t t = 0; t < x.directions + x.grad_second; ++t) {
      if constexpr (TARGET) write(t, i, j, count, t == 0 ? first : second);
      else write(t, i, j, count, function ? of_tile(t, i, j, count, first) : t == 0 ? first : of_gate(score, first));
    }
  }

  // dL/dz; under Pairs::own_scales of the rows' z, and of the columns' to of_cols; with a target also that of the product of second
  // operands.
  CT_HD Quad slopes(int64_t i, int64_t j, int count, const Item& it, const Columns& cols, const Quad& s, bool plain,
                    const Marks& marks, Quad& of_cols, Quad& second, Totals& sum) const {
    Quad u = {}, g = {};
    Logits logits = {};
    TargetItem target = {};
    if constexpr (TARGET) {
      u = dots(x, x.directions, i, j, count, vector);
      logits = logits_of(x, i);
      target = target_item(x.row, i);
    }
    for (int c = 0; c < QUAD; ++c) {
      if (TARGET && c >= count) continue;
      const Item& col = cols.item[c];
      const Pair pair = {row_z(x, it, col, s.v[c]), logits(u.v[c]), marks[c], plain || c >= count};
      float of_t = 0.f;
      const BySide by =
          pair_grad<R, TARGET>(x, it, col, target, cols.target[TARGET ? c : 0], pair, col_z(x, it, col, s.v[c]), i, j + c, of_t);
      g.v[c] = x.own_scales ? by.row : by.row + by.col;
      of_cols.v[c] = x.own_scales ? by.col : 0.f;
      if constexpr (TARGET) {
        second.v[c] = of_t * logits.scale;
        sum.row[OF_SECOND] += of_t == 0.f ? 0.f : of_t * u.v[c];
      }
    }
    return g;
  }

  // From dL/dq to dL/d<a, b_t>.
  CT_HD Quad of_tile(int64_t t, int64_t i, int64_t j, int count, const Quad& dq) const {
    const Quad d = dots(x, t, i, j, count, vector);
    Quad to;
    for (int c = 0; c < QUAD; ++c) to.v[c] = x.offset && t == 0 ? -2.f * dq.v[c] : -2.f * dq.v[c] * d.v[c];
    return to;
  }
  // From dL/d<a, b> to that of the gate.
  static CT_HD Quad of_gate(const Scores& score, const Quad& of_dot) {
    Quad to;
    for (int c = 0; c < QUAD; ++c) to.v[c] = of_dot.v[c] == 0.f ? 0.f : -0.5f * of_dot.v[c] * score.s.v[c] * score.slope.v[c];
    return to;
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
      for (int k = 0; k < COL_SUMS; ++k)
        if (col.to[k]) col.to[k][at.y * col.width + j] = sum(&s.col[k][0][at.thread], ROW_LANES, TILE_COLS);
    }
    if (r >= 0 && r < TILE_ROWS && i < x.n) {
      for (int k = 0; k < ROW_SUMS; ++k)
        if (row.to[k]) row.to[k][at.x * row.width + i] = sum(s.row[k][r], LANES, 1);
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

Sums sums_of(const Side& side, int64_t width) { return {{side.grad_sum, side.grad_score_sum, side.grad_second_sum}, width}; }

// Where the kernel writes one side's sums: the result itself where there is one strip, else the workspace from `at` on.
Sums partial_sums(const Side& side, int64_t width, int64_t count, float*& at) {
  Sums s = sums_of(side, width);
  for (float*& to : s.to) {
    if (count == 1 || !to) continue;
    to = at;
    at += count * width;
  }
  return s;
}
Status merge_side(const Side& side, const Sums& parts, int64_t count, void* stream) {
  const Sums out = sums_of(side, parts.width);
  for (int k = 0; k < SUMS; ++k) {
    if (parts.to[k] == out.to[k]) continue;  // one strip, or not wanted
    const MergeSums merge = {parts.to[k], out.to[k], parts.width, count};
    const Status status = launch(merge, strips(parts.width, MergeSums::threads), 1, stream);
    if (status.error) return status;
  }
  return {};
}

bool vector_stores(const Pairs& x) {
  return (uintptr_t)x.grad % (x.grad_type == GradType::kFloat ? 16 : 8) == 0 && x.grad_stride % QUAD == 0 &&
         x.grad_direction % QUAD == 0;
}

int64_t wanted(const Side& side) {
  int64_t count = 0;
  for (const float* to : sums_of(side, 0).to) count += to != nullptr;
  return count;
}

template <Reduce R, bool DOT, bool TARGET> Status run(const DeviceBlock& x) {
  const int64_t row_strips = strips(x.n, TILE_ROWS), col_strips = strips(x.m, TILE_COLS);
  float* at = (float*)x.workspace;
  const Sums row = partial_sums(x.row, x.n, col_strips, at), col = partial_sums(x.col, x.m, row_strips, at);
  const ScoreGrad<R, DOT, TARGET> kernel = {x, row, col, vector_loads(x), vector_stores(x)};
  Status status = launch(kernel, col_strips, row_strips, x.stream);
  if (!status.error) status = merge_side(x.row, row, col_strips, x.stream);
  return status.error ? status : merge_side(x.col, col, row_strips, x.stream);
}
}  // namespace

int64_t score_grad_workspace(const DeviceBlock& x) {
  const int64_t row = wanted(x.row) * x.n * strips(x.m, TILE_COLS), col = wanted(x.col) * x.m * strips(x.n, TILE_ROWS);
  return (int64_t)sizeof(float) * (row + col);
}

Status score_grad(const DeviceBlock& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {"score_grad", guard.error};
  return for_reduce(x.reduce, [&](auto tag) -> Status {
    constexpr Reduce R = decltype(tag)::value;
    if constexpr (Functor<R>::arg) return {};  // differentiated as a gather of the saved argmax, never by tiles
    else {
      if constexpr (logarithm<Functor<R>>)
        if (x.target != Target::kNone) return run<R, true, true>(x);
      return x.score == Score::kDot ? run<R, true, false>(x) : run<R, false, false>(x);
    }
  });
}

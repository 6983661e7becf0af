#pragma once
// The rules of one pair, shared by stats and score_grad. Included inside an anonymous namespace after launch.h.
// Threads work on four neighbouring columns, so that scores move 16 bytes at a time.

CT_HD float vexp(float x) { return expf(x); }
CT_HD float vlog(float x) { return logf(x); }
CT_HD float vsqrt(float x) { return sqrtf(x); }
CT_HD float vreciprocal(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.f, x);  // one instruction for such x, within 2 units in the last place
#else
  return 1.f / x;
#endif
}
CT_HD float vmax(float x, float y) { return x > y ? x : y; }
CT_HD float vabs(float x) { return fabsf(x); }
CT_HD float vselect_positive(float x, float yes, float no) { return x > 0.f ? yes : no; }

#include "common/functors.h"

constexpr int QUAD = 4;
struct alignas(16) Quad {
  float v[QUAD];
};
struct alignas(8) HalfQuad {  // bits of bfloat16 or float16
  uint16_t v[QUAD];
};
#if defined(__CUDACC__)  // intrinsics, because nvcc merges plain stores with those of the scalar path, four by one
__device__ __forceinline__ void store_quad(float* p, const Quad& q) {
  __stcg((float4*)p, make_float4(q.v[0], q.v[1], q.v[2], q.v[3]));
}
__device__ __forceinline__ void store_quad(uint16_t* p, const HalfQuad& q) {
  __stcg((uint2*)p, make_uint2(q.v[0] | (uint32_t)q.v[1] << 16, q.v[2] | (uint32_t)q.v[3] << 16));
}
#else
inline void store_quad(float* p, const Quad& q) { *(Quad*)p = q; }
inline void store_quad(uint16_t* p, const HalfQuad& q) { *(HalfQuad*)p = q; }
#endif

CT_HD float finite_part(float x) { return x == -INFINITY ? 0.f : x; }  // e^(-inf - 0) = 0 for an empty item; NaN stays

// All that is one number per row or column; what is absent is neutral.
struct Item {
  float scale, bias, norm, peak, log_total, weight, positive_weight;
};
CT_HD Item item(const Side& side, const float* scale, const float* bias, const float* norm, int64_t k) {
  Item it;
  it.scale = scale ? scale[k] : 1.f;
  it.bias = bias ? bias[k] : 0.f;
  it.norm = norm ? norm[k] : 0.f;
  it.peak = side.stat ? finite_part(side.stat[2 * k]) : 0.f;
  it.log_total = side.stat ? finite_part(side.stat[2 * k + 1]) : 0.f;
  it.weight = side.weight ? side.weight[k] : 0.f;
  it.positive_weight = side.positive_weight ? side.positive_weight[k] : 0.f;
  return it;
}
CT_HD Item row_item(const Pairs& x, int64_t i) { return item(x.row, x.row_scale, x.row_bias, x.row_norm, i); }
CT_HD Item col_item(const Pairs& x, int64_t j) { return item(x.col, x.col_scale, x.col_bias, x.col_norm, j); }

CT_HD bool flip(bool x) { return !x; }

#include "common/rules.h"

// What tests and limits compare is read where they ask, not kept with the item: its registers would spill.
CT_HD bool equal(const int64_t* row, const int64_t* col, int64_t i, int64_t j) { return row && col && row[i] == col[j]; }

CT_HD bool shared_label(const Pairs& x, int64_t i, int64_t j) {
  if (!x.row_labels || !x.col_labels) return false;
  int64_t both = 0;
  CT_ROLL
  for (int64_t k = 0; k < x.label_words; ++k) both |= x.row_labels[i * x.label_words + k] & x.col_labels[j * x.label_words + k];
  return both != 0;
}

CT_HD bool partner(const Pairs& x, int64_t i, int64_t j) {
  bool found = false;
  CT_ROLL
  for (int64_t k = i * x.partners; k < (i + 1) * x.partners; ++k) found |= x.partner[k] == x.col_origin + j;
  return found;
}
// What a positive counts in its sum.
CT_HD float share_of(const Pairs& x, int64_t i, int64_t j) {
  if (!x.share) return 1.f;
  float found = 0.f;
  CT_ROLL
  for (int64_t k = i * x.partners; k < (i + 1) * x.partners; ++k)
    if (x.partner[k] == x.col_origin + j) found += x.share[k];
  return found;
}

CT_HD Rules<bool> rule_of(const Pairs& x, int64_t i, int64_t j) {
  const Facts<bool> facts = {
      x.row_origin + i == x.col_origin + j,
      equal(x.row_ids, x.col_ids, i, j),
      equal(x.row_groups, x.col_groups, i, j),
      shared_label(x, i, j),
      x.row_order && x.col_order && x.col_order[j] < x.row_order[i],
      partner(x, i, j),
  };
  return rules_of<bool>(x, facts, x.mask && !x.mask[i * x.mask_stride + j]);
}
// A pair's rules, as both sides see them: whether it is positive, and whether it is dropped from the statistic of its kind, under
// Pairs::split that of the others or that of kept positives.
struct Mark {
  bool positive, drop;
};
// The marks of a quad of pairs, a bit for each; none where all are known to be kept and none is positive.
struct Marks {
  uint32_t positive = 0, drop = 0;
  CT_HD Mark operator[](int c) const { return {(positive >> c & 1) != 0, (drop >> c & 1) != 0}; }
};
CT_HD Marks marks_of(const Pairs& x, int64_t i, int64_t j, int count) {
  Marks m;
  CT_ROLL
  for (int c = 0; c < count; ++c) {
    const Rules<bool> rule = rule_of(x, i, j + c);
    m.positive |= (uint32_t)rule.positive << c;
    m.drop |= (uint32_t)(x.split && rule.positive ? rule.drop_from_positives : rule.drop) << c;
  }
  return m;
}

// One order of operations, so that stats and score_grad see the same bits of z.
CT_HD float affine(float row_scale, float col_scale, const Item& row, const Item& col, float s) {
  return fmaf(s * row_scale, col_scale, row.bias) + col.bias;
}
// z as rows, and as columns, see it.
CT_HD float row_z(const Pairs& x, const Item& row, const Item& col, float s) {
  return affine(row.scale, x.own_scales ? 1.f : col.scale, row, col, s);
}
CT_HD float col_z(const Pairs& x, const Item& row, const Item& col, float s) {
  return affine(x.own_scales ? 1.f : row.scale, col.scale, row, col, s);
}

// Whether one side drops the pair, by rules or limits; NaN is outside no limit.
CT_HD bool dropped(const Pairs& x, float z, Mark mark, const Side& side, int64_t k) {
  const bool outside = (side.high && z > side.high[k]) || (side.low && z <= side.low[k]);
  return mark.drop || (outside && !(x.keep_positives && mark.positive));
}
// Whether the pair is in the side's statistic of kept positives.
CT_HD bool kept_positive(const Pairs& x, float z, Mark mark, const Side& side, int64_t k) {
  return x.split && mark.positive && !dropped(x, z, mark, side, k);
}
// Whether the pair is in the side's statistic.
CT_HD bool in_statistic(const Pairs& x, float z, Mark mark, const Side& side, int64_t k) {
  return !(x.split && mark.positive) && !dropped(x, z, mark, side, k);
}
// z for one side: pairs outside its statistic become -inf.
CT_HD float side_z(const Pairs& x, float z, Mark mark, const Side& side, int64_t k) {
  return in_statistic(x, z, mark, side, k) ? z : -INFINITY;
}

// ---- scores -------------------------------------------------------------------------------------------------------

CT_HD Quad load_quad(const float* p, int count, bool vector) {
  if (vector && count == QUAD) return *(const Quad*)p;
  Quad q = {};
  for (int c = 0; c < QUAD; ++c)
    if (c < count) q.v[c] = p[c];
  return q;
}
CT_HD Quad dots(const Pairs& x, int64_t tile, int64_t i, int64_t j, int count, bool vector) {
  return load_quad(x.scores + tile * x.score_direction + i * x.score_stride + j, count, vector);
}

struct Scores {
  Quad s;
  Quad slope;  // of distances d score / dq, 0 where q stands at its floor; of gated ones d score / d<a, b>, 0 without a gate
};
// From the first tile's dots to scores; slopes that stats does not use cost nothing there.
CT_HD void distance_scores(const Pairs& x, const Item& row, const Item* cols, int64_t i, int64_t j, int count, bool vector,
                           Scores& out) {
  Quad q;
  for (int c = 0; c < QUAD; ++c) {
    const float norms = row.norm + cols[c].norm, dot = out.s.v[c];
    q.v[c] = x.offset ? norms - 2.f * dot : norms - dot * dot;
  }
  for (int64_t t = 1; t < x.directions; ++t) {
    const Quad d = dots(x, t, i, j, count, vector);
    for (int c = 0; c < QUAD; ++c) q.v[c] -= d.v[c] * d.v[c];
  }
  for (int c = 0; c < QUAD; ++c) {
    const float floor = (row.norm + cols[c].norm) * x.floor + 1e-30f, raised = vmax(floor, q.v[c]);  // this order keeps NaN
    const bool distance = x.score == Score::kDistance, logarithm = x.score == Score::kLogDistance;
    out.s.v[c] = distance ? Distance::value(raised) : logarithm ? LogDistance::value(raised) : SquaredDistance::value(raised);
    const float slope = distance    ? Distance::slope(raised)
                        : logarithm ? LogDistance::slope(raised)
                                    : SquaredDistance::slope(raised);
    out.slope.v[c] = q.v[c] <= floor ? 0.f : slope;
  }
}
// The same from the first product and the gate, the second one.
CT_HD void gated_scores(const Pairs& x, int64_t i, int64_t j, int count, bool vector, Scores& out) {
  const Quad gate = dots(x, x.directions, i, j, count, vector);
  for (int c = 0; c < QUAD; ++c) {
    out.slope.v[c] = gate.v[c] <= x.floor ? 0.f : 1.f / vsqrt(gate.v[c]);
    out.s.v[c] *= out.slope.v[c];
  }
}
template <bool DOT>
CT_HD Scores scores(const Pairs& x, const Item& row, const Item* cols, int64_t i, int64_t j, int count, bool vector) {
  Scores out = {dots(x, 0, i, j, count, vector), {}};
  if constexpr (!DOT) {
    if (is_distance(x.score)) distance_scores(x, row, cols, i, j, count, vector, out);
    else gated_scores(x, i, j, count, vector, out);
  }
  return out;
}

// The logits t of a row's target from products of second operands. One order of operations, as of z.
struct Logits {
  float scale, bias;
  CT_HD float operator()(float u) const { return fmaf(u, scale, bias); }
};
CT_HD Logits logits_of(const Pairs& x, int64_t i) {
  return {x.second_scale ? x.second_scale[i] : 1.f, x.second_bias ? x.second_bias[i] : 0.f};
}

static bool vector_loads(const Pairs& x) {
  return (uintptr_t)x.scores % 16 == 0 && x.score_stride % QUAD == 0 && x.score_direction % QUAD == 0;
}

CT_HD int count_at(int64_t j, int64_t m) { return m - j < QUAD ? (m > j ? (int)(m - j) : 0) : QUAD; }

// Columns are summed in strips of rows, rows of score gradients in strips of columns: partial results, merged in order.
constexpr int TILE_ROWS = 64, TILE_COLS = 128, LANES = TILE_COLS / QUAD, ROW_LANES = 8;
CT_HD int64_t strips(int64_t count, int size) { return count > size ? (count + size - 1) / size : 1; }

#pragma once
// What the kernels of every native backend are told about a block of pairs (n rows of a) x (m columns of b): plain types only.
#include <cstdint>

enum class Keep : int32_t { kAll = 0, kNotSameIndex = 1, kNotSameId = 2, kSameId = 3, kNotSameIndexOrId = 4 };
enum class Positives : int32_t { kNone = 0, kSameIndex = 1, kSameId = 2, kKept = 3 };
enum class Reduce : int32_t { kLse = 0, kSoftplus = 1, kRelu = 2, kMax = 3 };

// What a reduce keeps of an item, as TRAITS in spec.py: the largest z, a sum (beside a peak of e^(z - peak), else of terms), the
// index of the largest z. Kernels ask for these, never for a reduce by name.
struct Traits {
  bool peak, total, arg;
  constexpr bool logarithm() const { return peak && total; }  // the statistic is peak + log total
};
constexpr Traits traits(Reduce reduce) {
  return {reduce == Reduce::kLse || reduce == Reduce::kMax, reduce != Reduce::kMax, reduce == Reduce::kMax};
}

// All but kDot are functions of q_ij = row_norm_i + col_norm_j - 2 <a_i, b_0j> [offset] - sum of <a_i, b_tj>^2 over the other directions.
enum class Score : int32_t { kDot = 0, kSquaredDistance = 1, kDistance = 2, kLogDistance = 3 };

// What score_grad writes score gradients as; only kHalf ones are multiplied by Pairs::factor.
enum class GradType : int32_t { kFloat = 0, kBfloat16 = 1, kHalf = 2 };

// One direction of the statistic: rows reduce over columns, columns reduce over rows. Null pointer = absent.
struct Side {
  bool on = false;
  const float* threshold = nullptr;  // pairs with z above it are dropped for this side
  // stats writes these; lse uses peak and total, softplus and relu total, max peak and arg
  float *peak = nullptr, *total = nullptr, *positive = nullptr;
  int64_t* arg = nullptr;
  // score_grad reads these: the finished statistic as pairs (peak, log total), so that z - statistic keeps its digits where both
  // are large; its upstream gradient; the upstream gradient of the positive sum
  const float *stat = nullptr, *weight = nullptr, *positive_weight = nullptr;
  // score_grad writes these: sum of dL/dz (kDot) or dL/dq, and of dL/dz * score * (scale of the other side)
  float *grad_sum = nullptr, *grad_score_sum = nullptr;
};

// One block: what its scores mean, which pairs count, and where results go.
struct Pairs {
  int64_t directions = 1;
  int64_t n = 0, m = 0;
  int64_t row_origin = 0, col_origin = 0;  // global index of the first row / column
  const float *row_scale = nullptr, *col_scale = nullptr, *row_bias = nullptr, *col_bias = nullptr;
  Score score = Score::kDot;
  bool offset = true;
  float floor = 0.f;  // q is raised to this share of the norms
  const float *row_norm = nullptr, *col_norm = nullptr;  // scores but kDot
  const int64_t *row_ids = nullptr, *col_ids = nullptr;
  const uint8_t* mask = nullptr;  // (n, m), nonzero = keep
  int64_t mask_stride = 0;
  Keep keep = Keep::kAll;
  Positives positives = Positives::kNone;
  bool keep_positives = false;  // positives are kept whatever the other rules say
  bool same = false;            // b is a: an item is never its own positive
  Reduce reduce = Reduce::kLse;
  Side row, col;
  float* scores = nullptr;  // (directions, n, score_stride) raw <a, b>: written by stats, read by score_grad instead of recomputing
  int64_t score_stride = 0, score_direction = 0;
  void* grad = nullptr;  // score_grad: dL/d<a, b>, (directions, n, grad_stride), in grad_type
  int64_t grad_stride = 0, grad_direction = 0;
  GradType grad_type = GradType::kFloat;
  const float* factor = nullptr;  // a power of two against underflow
};

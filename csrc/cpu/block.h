#pragma once
// The boundary between Python and the kernels: one block of pairs (n rows of a) x (m columns of b), plain types only.
#include <cstdint>

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1 };  // bfloat16 only where native_bf16
enum class Keep : int32_t { kAll = 0, kNotSameIndex = 1, kNotSameId = 2, kSameId = 3, kNotSameIndexOrId = 4 };
enum class Positives : int32_t { kNone = 0, kSameIndex = 1, kSameId = 2, kKept = 3 };
enum class Reduce : int32_t { kLse = 0, kSoftplus = 1, kRelu = 2, kMax = 3 };
// All but kDot are functions of q_ij = row_norm_i + col_norm_j - 2 <a_i, b_0j> [offset] - sum of <a_i, b_tj>^2 over the other tiles.
enum class Score : int32_t { kDot = 0, kSquaredDistance = 1, kDistance = 2, kLogDistance = 3 };

// One direction of the statistic: rows reduce over columns, columns reduce over rows. Null pointer = absent.
struct Role {
  bool on = false;
  const float* threshold = nullptr;  // pairs with z above it are dropped for this role
  // stats writes these; lse uses peak and total, softplus and relu total, max peak and arg
  float *peak = nullptr, *total = nullptr, *positive = nullptr;
  int64_t* arg = nullptr;
  // coeff reads these: the finished statistic as pairs (peak, log total), so that z - statistic keeps its digits where both
  // are large; its upstream gradient; the upstream gradient of the positive sum
  const float *stat = nullptr, *weight = nullptr, *positive_weight = nullptr;
  // coeff writes these: sum of dL/dz (kDot) or dL/dq, and of dL/dz * score * (scale of the other side)
  float *grad_sum = nullptr, *grad_score_sum = nullptr;
};

struct Block {
  const void* a = nullptr;     // (n, d) row-major
  const void* b = nullptr;     // (m, d) packed by pack(); tile t lies b_tile bytes after tile t - 1
  int64_t tiles = 1, b_tile = 0;
  int64_t n = 0, m = 0, d = 0;
  int64_t row_origin = 0, col_origin = 0;  // global index of the first row / column
  DType dtype = DType::kFloat32;
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
  Role row, col;
  float* scores = nullptr;  // (tiles, n, score_stride) raw <a, b>: written by stats, read by coeff instead of recomputing
  int64_t score_stride = 0, score_tile = 0;
  void* grad = nullptr;  // coeff: dL/d<a, b>, (tiles, n, grad_stride), float32, or bfloat16 where grad_bf16
  int64_t grad_stride = 0, grad_tile = 0;
  bool grad_bf16 = false;
  int threads = 1;
};

// A small problem with everything done in one call; block.b is not packed, block.scores and block.grad are not used.
struct Whole {
  Block block;
  const float *row_weight = nullptr, *row_positive_weight = nullptr, *col_weight = nullptr, *col_positive_weight = nullptr;
  float *grad_a = nullptr, *grad_b = nullptr;  // (n, d), (m, d), added to; may be the same where b is a
  float loss = 0.f;
};

// One operand of gemm: element (i, k) at data[i * row_stride + k * col_stride], in elements.
struct Operand {
  const void* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;
};

struct Kernels {
  const char* isa;
  bool native_bf16;    // bfloat16 pairs are multiplied directly, with fp32 accumulation
  int column_padding;  // packed columns, scores and gradients are padded to a multiple of this
  int64_t (*packed_bytes)(int64_t m, int64_t d, DType);
  void (*pack)(const void* b, int64_t m, int64_t d, DType, void* out, int threads);
  void (*stats)(const Block&);
  void (*coeff)(const Block&);
  void (*whole)(Whole&);
  // c (m, n) float32, row stride c_stride:  c += a (m, k) b (n, k)^T
  void (*gemm)(Operand a, Operand b, float* c, int64_t c_stride, int64_t m, int64_t n, int64_t k, DType, int threads);
};

#pragma once
// The boundary between Python and the kernels: one block of pairs, plain types only.
#include "common/pairs.h"

CT_ENUM(DType, kFloat32, kBFloat16);  // bfloat16 only where native_bf16

#define BLOCK_FIELDS(FIELD)                                                                                     \
  FIELD(const void*, a, nullptr); /* (n, d) row-major */                                                        \
  FIELD(const void*, b, nullptr); /* (m, d) packed by pack(); tile t lies b_direction bytes after tile t - 1 */ \
  FIELD(int64_t, b_direction, 0);                                                                               \
  FIELD(int64_t, d, 0);                                                                                         \
  FIELD(const void*, second_a, nullptr); /* second operands, in the same forms: rows, packed columns, length */ \
  FIELD(const void*, second_b, nullptr);                                                                        \
  FIELD(int64_t, second_d, 0);                                                                                  \
  FIELD(DType, dtype, DType::kFloat32);                                                                         \
  FIELD(int32_t, threads, 1);
CT_STRUCT_FROM(Block, Pairs, BLOCK_FIELDS);

// Blocks whose features are slices of the same items' features: the scores of each are the sums of the products of all blocks up to
// it, and its score gradients those of all blocks from it on. They differ in features, scales and limits, statistics and weights.
constexpr int MOST_SLICES = 16;

// Some columns of a small problem.
#define SMALL_COLUMNS_FIELDS(FIELD)                                       \
  FIELD(const void*, b, nullptr); /* (directions, m, d) */                \
  FIELD(int64_t, m, 0);                                                   \
  FIELD(float*, grad, nullptr);    /* like b */                           \
  FIELD(bool, without_ids, false); /* no row has the id of one of them */ \
  FIELD(bool, without_groups, false);
CT_STRUCT(SmallColumns, SMALL_COLUMNS_FIELDS);

// What the items of a side weigh in the sum: a number each, or all the same.
#define SMALL_WEIGHT_FIELDS(FIELD)    \
  FIELD(const float*, each, nullptr); \
  FIELD(float, all, 0.f);
CT_STRUCT(SmallWeight, SMALL_WEIGHT_FIELDS);

// What a small call does. kLoss: the weighted sum of the statistics and, with a place for any, its gradients. kStats: the finished
// statistics of the sides that are on. kGradients: those from finished statistics and their weights, block.row.stat and so on; what
// keeps nothing weighs nothing.
CT_ENUM(SmallWork, kLoss, kStats, kGradients);

// A small problem with everything done in one call. Columns come in blocks: block.b is not read, block.m is that of all blocks.
// block.grad is not read either. block.scores: where kStats leaves the raw products, (directions, n, m up to a multiple of
// column_padding), for kGradients; null: they are formed again.
#define SMALL_CALL_FIELDS(FIELD)                                                                                   \
  FIELD(Block, block, {});                                                                                         \
  FIELD(SmallWork, work, SmallWork::kLoss);                                                                        \
  FIELD(int64_t, blocks, 0);                                                                                       \
  FIELD(SmallColumns, first, {});                                                                                  \
  FIELD(SmallColumns, second, {});                                                                                 \
  FIELD(SmallColumns, third, {});                                                                                  \
  FIELD(SmallColumns, fourth, {});                                                                                 \
  FIELD(SmallWeight, row_weight, {});                                                                              \
  FIELD(SmallWeight, row_positive_weight, {});                                                                     \
  FIELD(SmallWeight, col_weight, {});                                                                              \
  FIELD(SmallWeight, col_positive_weight, {});                                                                     \
  FIELD(bool, square, false);    /* the columns are the rows: grad_a has the gradient of both */                   \
  FIELD(bool, one_scale, false); /* block.row_scale and grad_scale are one number */                               \
  /* kStats writes these, (n, 2) and (m, 2): statistics as pairs, those of kept positives with block.split, and */ \
  /* positive and counts of block.row and block.col */                                                             \
  FIELD(float*, row_stat, nullptr);                                                                                \
  FIELD(float*, col_stat, nullptr);                                                                                \
  FIELD(float*, row_positive_stat, nullptr);                                                                       \
  FIELD(float*, col_positive_stat, nullptr);                                                                       \
  FIELD(float*, loss, nullptr);   /* kLoss writes this; it and kGradients write the next */                        \
  FIELD(float*, grad_a, nullptr); /* (n, d) */                                                                     \
  FIELD(float*, grad_scale, nullptr);                                                                              \
  /* columns of each row alone, in the rows' log-sum-exp: (n, private_count, d) */                                 \
  FIELD(const void*, private_columns, nullptr);                                                                    \
  FIELD(int64_t, private_count, 0);                                                                                \
  FIELD(float*, grad_private, nullptr);                                                                            \
  /* of every `sets` rows, n / sets apart, others and kept positives are joined (block.split): what counts is */   \
  /* weight * softplus(log-sum-exp of the others - that of the positives); 1: of each row by itself */             \
  FIELD(int64_t, sets, 1);
CT_STRUCT(SmallCall, SMALL_CALL_FIELDS);

// One operand of gemm: element (i, k) at data[i * row_stride + k * col_stride], in elements.
struct Operand {
  const void* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;
};

// Vectors of samples whose orthonormal basis is wanted, or its gradient.
constexpr int LARGEST_BASIS = 8;
struct Basis {
  const float* vectors[LARGEST_BASIS];  // t of (samples, d)
  float* grads[LARGEST_BASIS];          // backward: written, like vectors
  int t, count;
  int64_t samples, d;
  bool exact, backward;         // exact: computed in double, else in float
  float *directions, *lengths;  // (count, samples, d), (t, samples): written; backward: their gradients
  int threads;
};

// Rows and columns, whose scores are reduced over segments of columns: segment s has columns [offsets[s], offsets[s + 1]).
#define SEGMENT_SCORES_FIELDS(FIELD)                                                                                    \
  FIELD(const void*, a, nullptr); /* (n, d) row-major, packed by nobody */                                              \
  FIELD(const void*, b, nullptr); /* (m, d) */                                                                          \
  FIELD(int64_t, n, 0);                                                                                                 \
  FIELD(int64_t, m, 0);                                                                                                 \
  FIELD(int64_t, d, 0);                                                                                                 \
  FIELD(DType, dtype, DType::kFloat32); /* segment_max_gradients: float32 alone */                                      \
  FIELD(int32_t, threads, 1);                                                                                           \
  FIELD(const int64_t*, offsets, nullptr); /* (count + 1), from 0 to at most m, not decreasing */                       \
  FIELD(int64_t, count, 0);                                                                                             \
  FIELD(const uint8_t*, mask, nullptr); /* (m,), 0 = the column counts nowhere; null: all count */                      \
  /* (n, count) each. segment_maxima writes values and the columns they are in, -1 where no score is above -inf; */     \
  /* segment_softmax the log-sum-exp of sharpness z and the mean of z under its softmax, -inf there */                  \
  FIELD(float*, values, nullptr);                                                                                       \
  FIELD(int32_t*, args, nullptr);                                                                                       \
  FIELD(float, sharpness, 0.f);                                                                                         \
  FIELD(float*, stat, nullptr);                                                                                         \
  FIELD(float*, mean, nullptr);                                                                                         \
  /* segment_score_grad: p (constant + slope (z - mean)) with p = e^(sharpness z - stat), and sum p (z - mean)^2 */     \
  FIELD(const float*, constant, nullptr); /* of segment_max_gradients: the gradient of values */                        \
  FIELD(const float*, slope, nullptr);    /* null: 0 */                                                                 \
  FIELD(float*, variance, nullptr);       /* null: not wanted */                                                        \
  FIELD(void*, grad, nullptr);            /* (m, grad_stride) in dtype, grad_stride a multiple of column_padding and */ \
  FIELD(int64_t, grad_stride, 0);         /* at least n */                                                              \
  FIELD(float*, grad_a, nullptr);         /* segment_max_gradients adds to both, (n, d) and (m, d); null: not wanted */ \
  FIELD(float*, grad_b, nullptr);
CT_STRUCT(SegmentScores, SEGMENT_SCORES_FIELDS);

struct Kernels {
  const char* isa;
  bool native_bf16;    // bfloat16 pairs are multiplied directly, with fp32 accumulation
  int column_padding;  // packed columns, scores and gradients are padded to a multiple of this
  int64_t (*packed_bytes)(int64_t m, int64_t d, DType);
  void (*pack)(const void* b, int64_t m, int64_t d, DType, void* out, int threads);
  // of one block, or of slices; false: there was no working memory, and results mean nothing
  bool (*stats)(const Block*, int count);
  bool (*score_grad)(const Block*, int count);
  bool (*small_call)(const SmallCall&);
  // c (m, n) float32, row stride c_stride:  c = a (m, k) b (n, k)^T or, with add, c += a b^T
  bool (*gemm)(Operand a, Operand b, float* c, int64_t c_stride, int64_t m, int64_t n, int64_t k, DType, int threads, bool add);
  bool (*basis)(const Basis&);
  bool (*segment_maxima)(const SegmentScores&);
  bool (*segment_softmax)(const SegmentScores&);
  bool (*segment_score_grad)(const SegmentScores&);
  bool (*segment_max_gradients)(const SegmentScores&);
};

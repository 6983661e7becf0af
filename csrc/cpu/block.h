#pragma once
// The boundary between Python and the kernels: one block of pairs, plain types only.
#include "common/pairs.h"

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1 };  // bfloat16 only where native_bf16

struct Block : Pairs {
  const void* a = nullptr;  // (n, d) row-major
  const void* b = nullptr;  // (m, d) packed by pack(); tile t lies b_direction bytes after tile t - 1
  int64_t b_direction = 0, d = 0;
  DType dtype = DType::kFloat32;
  int threads = 1;
};

// A small problem with everything done in one call; block.b is not packed, block.scores and block.grad are not used.
struct SmallCall {
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
  // false: there was no working memory, and results mean nothing
  bool (*stats)(const Block&);
  bool (*score_grad)(const Block&);
  bool (*small_call)(SmallCall&);
  // c (m, n) float32, row stride c_stride:  c += a (m, k) b (n, k)^T
  bool (*gemm)(Operand a, Operand b, float* c, int64_t c_stride, int64_t m, int64_t n, int64_t k, DType, int threads);
};

#pragma once
// The boundary between nvcc (*.cu) and the host compiler (bind.cpp): plain types, so no pybind11 header meets nvcc.
#include <cstddef>
#include "common/pairs.h"

struct DeviceProperties {
  char name[256];
  int major, minor;     // compute capability
  size_t total_memory;  // bytes
  int multiprocessor_count;
};

// All but the error texts return a cudaError_t; 0 is success.
int cuda_device_count(int* count);
int cuda_runtime_version(int* version);  // e.g. 13000
int cuda_driver_version(int* version);   // newest runtime that the driver serves; 0 without a driver
int cuda_device_properties(int device, DeviceProperties* properties);
const char* cuda_error_name(int error);
const char* cuda_error_string(int error);

// Scores are given (directions, n, m); stats and score_grad are epilogues over them. All pointers are device memory.
#define DEVICE_BLOCK_FIELDS(FIELD)                                                                                     \
  FIELD(void*, workspace, nullptr); /* bytes as stats_workspace, score_grad_workspace or small_call_workspace says, */ \
                                    /* aligned to 16 */                                                                \
  FIELD(float*, loss, nullptr);     /* small_call writes it: the weighted sum of the statistics and of the */          \
                                    /* sums over positives */                                                          \
  FIELD(void*, stream, nullptr);                                                                                       \
  FIELD(int32_t, device, 0);
CT_STRUCT_FROM(DeviceBlock, Pairs, DEVICE_BLOCK_FIELDS);

CT_ENUM(Element, kFloat32, kFloat64, kBfloat16, kFloat16);

// `size` vectors per sample, of which an orthonormal basis is wanted. Elements of a vector lie side by side.
constexpr int LARGEST_SET = 6, LARGEST_WIDTH = 1 << 30;
using ConstAddresses = const void* [LARGEST_SET];
using Addresses = void* [LARGEST_SET];
using Strides = int64_t[LARGEST_SET];
#define VECTOR_SETS_FIELDS(FIELD)                                                                        \
  FIELD(Element, type, Element::kFloat32);                                                               \
  FIELD(int32_t, size, 0);                                                                               \
  FIELD(int32_t, count, 0); /* directions wanted of the vectors */                                       \
  FIELD(int32_t, width, 0); /* at most LARGEST_WIDTH */                                                  \
  FIELD(int64_t, samples, 0);                                                                            \
  FIELD(ConstAddresses, vector, {});                                                                     \
  FIELD(Strides, stride, {}); /* from sample to sample */                                                \
  /* (count, samples, width) and (size, samples), no gaps: float64 for float64 vectors, else float32. */ \
  /* Written by basis; their gradients are read by basis_backward. */                                    \
  FIELD(void*, directions, nullptr);                                                                     \
  FIELD(void*, lengths, nullptr);                                                                        \
  /* written by basis_backward, (samples, width) in the type of the vectors, no gaps */                  \
  FIELD(Addresses, grad, {});                                                                            \
  FIELD(void*, stream, nullptr);                                                                         \
  FIELD(int32_t, device, 0);
CT_STRUCT(VectorSets, VECTOR_SETS_FIELDS);

// Scores of `rows` rows, `stride` columns each, of which segment s has [offsets[s], offsets[s + 1]). Rows start at multiples of
// 16 bytes, and `stride` is a multiple of 4: what lies behind the last segment is read, not used.
#define SCORE_SEGMENTS_FIELDS(FIELD)                                                                                  \
  FIELD(int64_t, rows, 0);                                                                                            \
  FIELD(int64_t, stride, 0);                                                                                          \
  FIELD(int64_t, count, 0);                                                                                           \
  FIELD(const float*, scores, nullptr);                                                                               \
  FIELD(const int64_t*, offsets, nullptr); /* (count + 1), from 0 to at most stride, not decreasing */                \
  /* (stride), 0 = the column counts nowhere; null: all count. At a multiple of 4 bytes */                            \
  FIELD(const uint8_t*, mask, nullptr);                                                                               \
  /* (rows, count) each. segment_maxima writes values, and their columns, -1 where no score is above -inf */          \
  FIELD(float*, values, nullptr);                                                                                     \
  FIELD(int32_t*, args, nullptr);                                                                                     \
  /* segment_softmax writes the log-sum-exp of sharpness z and the mean of z under its softmax, -inf there */         \
  FIELD(const float*, sharpness, nullptr); /* one number */                                                           \
  FIELD(float*, stat, nullptr);                                                                                       \
  FIELD(float*, mean, nullptr);                                                                                       \
  /* segment_score_grad writes p (constant + slope (z - mean)), p = e^(sharpness z - stat), and sum p (z - mean)^2 */ \
  FIELD(const float*, constant, nullptr);                                                                             \
  FIELD(const float*, slope, nullptr); /* null: 0 */                                                                  \
  FIELD(float*, variance, nullptr);    /* null: not wanted */                                                         \
  FIELD(void*, grad, nullptr);         /* (rows, stride) in `type`, not kFloat64; may be the scores */                \
  FIELD(Element, type, Element::kFloat32);                                                                            \
  FIELD(void*, stream, nullptr);                                                                                      \
  FIELD(int32_t, device, 0);
CT_STRUCT(ScoreSegments, SCORE_SEGMENTS_FIELDS);

struct Status {
  const char* kernel = nullptr;  // the one that was not launched; null: all were
  int error = 0;
};

int64_t stats_workspace(const DeviceBlock&);
int64_t score_grad_workspace(const DeviceBlock&);
Status stats(const DeviceBlock&);       // overwrites what the sides that are on point to
Status score_grad(const DeviceBlock&);  // grad may be scores (float32, same strides)
// For a call that is one block, not kMax: statistics, loss and score gradients. Sides come without statistics, with weights.
int64_t small_call_workspace(const DeviceBlock&);
Status small_call(const DeviceBlock&);
Status basis(const VectorSets&);
Status basis_backward(const VectorSets&);
Status segment_maxima(const ScoreSegments&);
Status segment_softmax(const ScoreSegments&);
Status segment_score_grad(const ScoreSegments&);

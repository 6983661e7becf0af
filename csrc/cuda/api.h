#pragma once
// The boundary between nvcc (*.cu) and the host compiler (bind.cpp): plain types, so no pybind11 header meets nvcc.
#include <cstddef>
#include "common/pairs.h"

struct DeviceProperties {
  char name[256];
  int major, minor;          // compute capability
  size_t total_memory;       // bytes
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
struct DeviceBlock : Pairs {
  void* workspace = nullptr;  // bytes as stats_workspace, score_grad_workspace or small_call_workspace says, aligned to 16
  float* loss = nullptr;      // small_call writes it: the weighted sum of the statistics and of the sums over positives
  void* stream = nullptr;
  int device = 0;
};

enum class Element : int32_t { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2, kFloat16 = 3 };

// `size` vectors per sample, of which an orthonormal basis is wanted. Elements of a vector lie side by side.
constexpr int LARGEST_SET = 6, LARGEST_WIDTH = 1 << 30;
struct VectorSets {
  Element type = Element::kFloat32;
  int32_t size = 0, count = 0;  // vectors; directions wanted of them
  int32_t width = 0;            // at most LARGEST_WIDTH
  int64_t samples = 0;
  const void* vector[LARGEST_SET] = {};
  int64_t stride[LARGEST_SET] = {};  // from sample to sample
  // (count, samples, width) and (size, samples), no gaps: float64 for float64 vectors, else float32. Written by basis; their
  // gradients are read by basis_backward.
  void *directions = nullptr, *lengths = nullptr;
  void* grad[LARGEST_SET] = {};  // written by basis_backward, (samples, width) in the type of the vectors, no gaps
  void* stream = nullptr;
  int device = 0;
};

// Scores of `rows` rows, `stride` columns each, of which segment s has [offsets[s], offsets[s + 1]). Rows start at multiples of
// 16 bytes, and `stride` is a multiple of 4: what lies behind the last segment is read, not used.
struct ScoreSegments {
  int64_t rows = 0, stride = 0, count = 0;
  const float* scores = nullptr;
  const int64_t* offsets = nullptr;  // (count + 1), from 0 to at most stride, not decreasing
  const uint8_t* mask = nullptr;     // (stride), 0 = the column is in no maximum; null: all are. At a multiple of 4 bytes
  float* values = nullptr;           // (rows, count), written
  int32_t* args = nullptr;           // the same, the column of each value; -1: no score is above -inf
  void* stream = nullptr;
  int device = 0;
};

struct Status {
  const char* kernel = nullptr;  // the one that was not launched; null: all were
  int error = 0;
};

int64_t stats_workspace(const DeviceBlock&);
int64_t score_grad_workspace(const DeviceBlock&);
Status stats(const DeviceBlock&);  // overwrites what the sides that are on point to
Status score_grad(const DeviceBlock&);  // grad may be scores (float32, same strides)
// For a call that is one block, not kMax: statistics, loss and score gradients. Sides come without statistics, with weights.
int64_t small_call_workspace(const DeviceBlock&);
Status small_call(const DeviceBlock&);
Status basis(const VectorSets&);
Status basis_backward(const VectorSets&);
Status segment_max(const ScoreSegments&);

#pragma once
// Runs a kernel: a struct whose phase<P>(place, shared) is what one thread of a block does between two barriers.
// Nothing but `shared` lives from one phase to the next, so a plain loop over threads can stand for a block
// (host_executor.h) and index arithmetic can be proved without a device.
#include "common/macros.h"
#include "cuda/api.h"

struct Place {
  int64_t x, y;  // block
  int thread;
};

#if defined(__CUDACC__)
#include <cuda_runtime.h>

template <int P, class K> __device__ __forceinline__ void run_phases(const K& kernel, const Place& at, typename K::Shared& shared) {
  kernel.template phase<P>(at, shared);
  if constexpr (P + 1 < K::phases) {
    __syncthreads();
    run_phases<P + 1>(kernel, at, shared);
  }
}

constexpr int RESIDENT = 512;  // threads that a multiprocessor must have room for: up to 128 registers each

template <class K> __global__ void __launch_bounds__(K::threads, RESIDENT / K::threads)
    run_kernel(const __grid_constant__ K kernel) {
  __shared__ typename K::Shared shared;
  run_phases<0>(kernel, Place{blockIdx.x, blockIdx.y, (int)threadIdx.x}, shared);
}

template <class K> Status launch(const K& kernel, int64_t x, int64_t y, void* stream) {
  if (x == 0 || y == 0) return {};
  run_kernel<<<dim3((unsigned)x, (unsigned)y), K::threads, 0, (cudaStream_t)stream>>>(kernel);
  const cudaError_t error = cudaGetLastError();
  return {error ? K::name : nullptr, (int)error};
}

// Makes `device` current and puts back what was current before.
struct DeviceGuard {
  int before = 0, error;
  explicit DeviceGuard(int device) {
    error = cudaGetDevice(&before);
    if (!error) error = cudaSetDevice(device);
  }
  ~DeviceGuard() { cudaSetDevice(before); }
};
#else
#include "cuda/host_executor.h"
#endif

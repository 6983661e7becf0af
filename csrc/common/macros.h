#pragma once
// Marks functions that nvcc compiles for host and device and that a host compiler inlines.
#if defined(__CUDACC__)
#define CT_HD __host__ __device__ __forceinline__
#else
#define CT_HD inline __attribute__((always_inline))
#endif

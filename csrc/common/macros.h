#pragma once
// Marks functions that nvcc compiles for host and device and that a host compiler inlines, and loops that must be unrolled
// so that arrays they index stay in registers, or must not be, so that registers suffice.
#if defined(__CUDACC__)
#define CT_HD __host__ __device__ __forceinline__
#define CT_UNROLL _Pragma("unroll")
#define CT_ROLL _Pragma("unroll 1")
#else
#define CT_HD inline __attribute__((always_inline))
#define CT_UNROLL
#define CT_ROLL
#endif

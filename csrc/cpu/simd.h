#pragma once
// A float vector of the width the file is compiled for, written with compiler vector extensions: one source serves
// SSE2, AVX2, AVX-512, NEON and other machines. C headers only: an inline std:: function emitted in a file with a wide
// instruction set would be a weak symbol that the linker may hand to every caller.
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif
#include "common/macros.h"

namespace NS {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t IVec __attribute__((vector_size(W * 4)));
typedef float UVec __attribute__((vector_size(W * 4), aligned(4), may_alias));

CT_HD Vec load(const float* p) { return *(const UVec*)p; }
CT_HD void store(float* p, Vec v) { *(UVec*)p = v; }
CT_HD Vec splat(float x) { return Vec{} + x; }

// NaN in a gives b, NaN in b stays
#if defined(__AVX512F__)  // one instruction, where the compiler makes two of the comparison
CT_HD Vec vmax(Vec a, Vec b) { return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
CT_HD Vec vmin(Vec a, Vec b) { return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
#else
CT_HD Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
CT_HD Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
#endif
CT_HD Vec vabs(Vec a) { return (Vec)((IVec)a & 0x7fffffff); }
CT_HD Vec vselect_positive(Vec x, Vec yes, Vec no) { return x > 0.f ? yes : no; }
CT_HD Vec vselect(IVec mask, Vec yes, Vec no) { return mask ? yes : no; }

CT_HD float hsum(Vec v) {
  float parts[W], sum = 0.f;
  memcpy(parts, &v, sizeof v);
  for (int i = 0; i < W; ++i) sum += parts[i];
  return sum;
}
CT_HD float hmax(Vec v) {
  float parts[W], peak = -INFINITY;
  memcpy(parts, &v, sizeof v);
  for (int i = 0; i < W; ++i) peak = parts[i] > peak ? parts[i] : peak;
  return peak;
}

// e^x to about 1.5 ulp on [-87.3, 88]; 0 below, clamped above; NaN stays NaN, e^-inf = 0.
CT_HD Vec vexp(Vec x) {
  const Vec low = splat(-87.3f), y = vmin(splat(88.f), x);
  const Vec magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
  const Vec shifted = y * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Vec p = splat(1.98756915e-4f);
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 5.00000012e-1f;
  p = (p * r) * r + r + 1.f;
#if defined(__AVX512F__)  // the same bits in fewer instructions
  const __mmask16 counts = _mm512_cmp_ps_mask((__m512)x, (__m512)low, _CMP_NLT_UQ);
  return (Vec)_mm512_maskz_scalef_ps(counts, (__m512)p, (__m512)n);
#else
  const IVec exponent = ((IVec)shifted - (IVec)magic + 127) << 23;
  return x < low ? Vec{} : p * (Vec)exponent;
#endif
}

CT_HD Vec vreciprocal(Vec x) { return 1.f / x; }

CT_HD Vec vsqrt(Vec x) {
  Vec y = x;
  for (int k = 0; k < W; ++k) y[k] = sqrtf(x[k]);
  return y;
}

// log x for normal x > 0, relative error below 3e-7; inf and NaN stay
CT_HD Vec vlog(Vec x) {
  const IVec bits = (IVec)x, exponent = (bits - 0x3f3504f3) >> 23;  // x = 2^exponent m, sqrt(1/2) <= m < sqrt(2)
  const Vec m = (Vec)(bits - (exponent << 23));
  const Vec s = (m - 1.f) / (m + 1.f), q = s * s;
  Vec p = splat(2.f / 9.f);
  p = p * q + 2.f / 7.f;
  p = p * q + 2.f / 5.f;
  p = p * q + 2.f / 3.f;
  const Vec e = __builtin_convertvector(exponent, Vec);
  const Vec y = e * 0.693359375f + (s * q * p + (2.f * s - e * 2.12194440e-4f));
  return x < splat(INFINITY) ? y : x;
}

// Where bfloat16 is multiplied in pairs:
//   store_bf16   W floats, rounded to nearest
//   dot_pairs    acc += a.lo * b.lo + a.hi * b.hi per 32-bit lane of bf16 pairs, rounded once per product pair
#if defined(__AVX512BF16__)
#define CT_BF16_PAIRS 1
CT_HD void store_bf16(uint16_t* p, Vec v) {
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &h, sizeof h);
}
CT_HD Vec dot_pairs(Vec acc, IVec a, IVec b) { return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define CT_BF16_PAIRS 1
CT_HD void store_bf16(uint16_t* p, Vec v) {
  const bfloat16x4_t h = vcvt_bf16_f32((float32x4_t)v);
  memcpy(p, &h, sizeof h);
}
CT_HD Vec dot_pairs(Vec acc, IVec a, IVec b) { return (Vec)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)a, (bfloat16x8_t)b); }
#elif defined(CONTRASTILE_LIKE_ARM)  // what tests/native/arm.py compares other machines with
#define CT_BF16_PAIRS 1
CT_HD void store_bf16(uint16_t* p, Vec v) {
  for (int k = 0; k < W; ++k) {
    uint32_t bits;
    const float x = v[k];
    memcpy(&bits, &x, sizeof bits);
    p[k] = (uint16_t)(x != x ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}
CT_HD Vec dot_pairs(Vec acc, IVec a, IVec b) {
  const int32_t high = (int32_t)0xffff0000;
  return acc + (Vec)(a << 16) * (Vec)(b << 16) + (Vec)(a & high) * (Vec)(b & high);
}
#endif

}  // namespace NS

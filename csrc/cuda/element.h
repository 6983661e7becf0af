#pragma once
// Numbers as tensors hold them: half-precision types, and memory that moves 16 bytes at a time.
#include <stdint.h>
#include <string.h>
#include "common/macros.h"

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

CT_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
CT_HD float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

CT_HD uint16_t to_bf16(float x) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t bits = bits_of(x);
  if (x != x) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

CT_HD uint16_t to_half(float x) {  // the same; 65520 and above become infinity
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  // below 2^-14: the addition rounds to multiples of 2^-24 and leaves their number in the last bits
  if (size < 0x38800000) return (uint16_t)(sign | (bits_of(from_bits(size) + 0.5f) - bits_of(0.5f)));
  return (uint16_t)(sign | (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13);
}

CT_HD float half_value(uint16_t bits) {
  const uint32_t size = (uint32_t)(bits & 0x7fff) << 13, sign = (uint32_t)(bits & 0x8000) << 16;
  const float x = size >= 0x7c00u << 13 ? from_bits(size | 0x7f800000) : from_bits(size) * 0x1p112f;  // exact, subnormals too
  return from_bits(bits_of(x) | sign);
}

CT_HD float widen(Bf16 x) { return from_bits((uint32_t)x.bits << 16); }
CT_HD float widen(Half x) {
#if defined(__CUDA_ARCH__)  // one instruction for the same
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  return half_value(x.bits);
#endif
}
CT_HD float widen(float x) { return x; }
CT_HD double widen(double x) { return x; }
CT_HD void narrow(double x, float& to) { to = (float)x; }
CT_HD void narrow(double x, double& to) { to = x; }
CT_HD void narrow(float x, float& to) { to = x; }
CT_HD void narrow(float x, Bf16& to) { to.bits = to_bf16(x); }
CT_HD void narrow(float x, Half& to) { to.bits = to_half(x); }

struct alignas(16) Bytes16 {
  uint32_t v[4];
};
#if defined(__CUDACC__)  // intrinsics, because nvcc merges plain accesses with those of the scalar path
CT_HD Bytes16 load16(const void* p) {
#if defined(__CUDA_ARCH__)
  const uint4 raw = __ldg((const uint4*)p);
  return {raw.x, raw.y, raw.z, raw.w};
#else
  return *(const Bytes16*)p;
#endif
}
CT_HD void store16(void* p, const Bytes16& x) {
#if defined(__CUDA_ARCH__)
  __stcg((uint4*)p, make_uint4(x.v[0], x.v[1], x.v[2], x.v[3]));
#else
  *(Bytes16*)p = x;
#endif
}
#else
inline Bytes16 load16(const void* p) { return *(const Bytes16*)p; }
inline void store16(void* p, const Bytes16& x) { *(Bytes16*)p = x; }
#endif

// N numbers, a multiple of 16 bytes: all at once where `vector` and they are all there, else one by one.
template <class T, int N> struct alignas(16) Pack {
  static constexpr int pieces = N * (int)sizeof(T) / 16;
  T v[N];

  CT_HD void load(const T* from, int count, bool vector) {
    if (vector && count == N) {
      CT_UNROLL for (int k = 0; k < pieces; ++k) {
        const Bytes16 piece = load16((const char*)from + 16 * k);
        memcpy((char*)v + 16 * k, &piece, 16);
      }
      return;
    }
    CT_UNROLL for (int c = 0; c < N; ++c) v[c] = c < count ? from[c] : T{};
  }
  CT_HD void store(T* to, int count, bool vector) const {
    if (vector && count == N) {
      CT_UNROLL for (int k = 0; k < pieces; ++k) {
        Bytes16 piece;
        memcpy(&piece, (const char*)v + 16 * k, 16);
        store16((char*)to + 16 * k, piece);
      }
      return;
    }
    CT_UNROLL for (int c = 0; c < N; ++c) if (c < count) to[c] = v[c];
  }
};

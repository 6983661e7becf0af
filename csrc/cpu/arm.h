#pragma once
// Whether this ARM processor multiplies bfloat16 in pairs (BFDOT).
#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif

static inline bool has_bf16_pairs() {
#if defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return !sysctlbyname("hw.optional.arm.FEAT_BF16", &found, &size, nullptr, 0) && found;
#elif defined(__linux__)
  constexpr unsigned long BF16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  return getauxval(AT_HWCAP2) & BF16;
#else
  return false;
#endif
}

#pragma once
// A device made of loops: blocks and threads one after another, every phase for all threads before the next.
// Tests compile the kernels with it. CONTRASTILE_HOST_ORDER=reverse turns every order round: results that depend
// on it are races. Shared memory starts as NaN.
#include <cstdlib>
#include <cstring>

inline int64_t in_order(int64_t k, int64_t count) {
  const char* order = std::getenv("CONTRASTILE_HOST_ORDER");
  return order && !std::strcmp(order, "reverse") ? count - 1 - k : k;
}

template <int P, class K> void run_phases(const K& kernel, int64_t x, int64_t y, typename K::Shared& shared) {
  const int64_t step = in_order(0, 2) == 0 ? 1 : -1, first = step == 1 ? 0 : K::threads - 1;
  for (int k = 0; k < K::threads; ++k) kernel.template phase<P>(Place{x, y, (int)(first + step * k)}, shared);
  if constexpr (P + 1 < K::phases) run_phases<P + 1>(kernel, x, y, shared);
}

// How many kernels were launched.
extern "C" {
inline __attribute__((visibility("default"))) int64_t host_launches = 0;
}

template <class K> Status launch(const K& kernel, int64_t x, int64_t y, void*) {
  if (x == 0 || y == 0) return {};
  if (x >= int64_t(1) << 31 || y > 65535) return {K::name, 9};  // what a grid can be: cudaErrorInvalidConfiguration
  ++host_launches;
  static typename K::Shared shared;
  for (int64_t k = 0; k < x * y; ++k) {
    const int64_t block = in_order(k, x * y);
    std::memset((void*)&shared, 0xff, sizeof shared);
    run_phases<0>(kernel, block % x, block / x, shared);
  }
  return {};
}

struct DeviceGuard {
  int error = 0;
  explicit DeviceGuard(int) {}
};

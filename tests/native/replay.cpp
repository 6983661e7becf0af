// Repeats calls of kernels that recorded_module.py wrote, on this machine, and compares what they leave in memory:
//   replay FILE            which kernels this processor gets, and all calls on each of them
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include "cpu/arm.h"
#include "cpu/block.h"

namespace generic { extern const Kernels kernels; }
namespace neonbf16 { extern const Kernels kernels; }

enum Number { kStats, kScoreGrad, kSmallCall, kMaxima, kSoftmax, kSegmentGrad, kMaxGradients, kGemm, kPack };
enum Type { kBytes, kFloat32, kBfloat16 };
struct Header {
  int32_t kernel, structs, struct_bytes, pointers, regions, halves;
};
struct Pointer {
  int64_t place, region, distance;
};
struct Region {
  int64_t type, size;
  std::vector<char> memory, expected;
};
struct Call {
  Header header;
  std::vector<char> structs;
  std::vector<Region> regions;
};

static bool read(FILE* file, void* to, size_t bytes) { return fread(to, 1, bytes, file) == bytes; }

// The next call, its addresses those of memory here.
static bool next(FILE* file, Call& call) {
  if (!read(file, &call.header, sizeof call.header)) return false;
  call.structs.resize((size_t)call.header.structs * call.header.struct_bytes);
  std::vector<Pointer> pointers(call.header.pointers);
  call.regions.assign(call.header.regions, {});
  bool whole =
      read(file, call.structs.data(), call.structs.size()) && read(file, pointers.data(), pointers.size() * sizeof(Pointer));
  for (Region& x : call.regions) {
    whole = whole && read(file, &x.type, 2 * sizeof(int64_t));
    x.memory.resize(whole ? x.size : 0), x.expected.resize(whole ? x.size : 0);
    whole = whole && read(file, x.memory.data(), x.size) && read(file, x.expected.data(), x.size);
  }
  for (const Pointer& p : pointers) {
    char* at = whole ? call.regions[p.region].memory.data() + p.distance : nullptr;
    if (whole) memcpy(call.structs.data() + p.place, &at, sizeof at);
  }
  if (!whole) fprintf(stderr, "a record ends early\n"), exit(2);
  return true;
}

template <class X> static std::vector<X> as(const Call& call) {
  if (call.header.struct_bytes != sizeof(X)) fprintf(stderr, "structs have other sizes here\n"), exit(2);
  std::vector<X> found(call.header.structs);
  memcpy((void*)found.data(), call.structs.data(), call.structs.size());
  return found;
}

static bool run(const Kernels& k, const Call& call) {
  const int64_t* x = (const int64_t*)call.structs.data();
  switch (call.header.kernel) {
    case kStats: return k.stats(as<Block>(call).data(), call.header.structs);
    case kScoreGrad: return k.score_grad(as<Block>(call).data(), call.header.structs);
    case kSmallCall: return k.small_call(as<SmallCall>(call)[0]);
    case kMaxima: return k.segment_maxima(as<SegmentScores>(call)[0]);
    case kSoftmax: return k.segment_softmax(as<SegmentScores>(call)[0]);
    case kSegmentGrad: return k.segment_score_grad(as<SegmentScores>(call)[0]);
    case kMaxGradients: return k.segment_max_gradients(as<SegmentScores>(call)[0]);
    case kGemm:
      return k.gemm({(const void*)x[0], x[1], x[2]}, {(const void*)x[3], x[4], x[5]}, (float*)x[6], x[7], x[8], x[9], x[10],
                    (DType)x[11], (int)x[12]);
    case kPack: return k.pack((const void*)x[0], x[1], x[2], (DType)x[3], (void*)x[4], (int)x[5]), true;
  }
  return false;
}

static double value(const char* p, int64_t type) {
  uint32_t bits = 0;
  memcpy(type == kFloat32 ? (char*)&bits : (char*)&bits + 2, p, type == kFloat32 ? 4 : 2);
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Floats may be off by a few roundings of the largest number beside them; all else, and what is no number, must be the same.
static bool same(const Region& x) {
  if (x.type == kBytes) return !memcmp(x.memory.data(), x.expected.data(), x.size);
  const int width = x.type == kFloat32 ? 4 : 2;
  double largest = 0;
  for (int64_t i = 0; i < x.size; i += width) {
    const double y = fabs(value(&x.expected[i], x.type));
    if (std::isfinite(y) && memcmp(&x.memory[i], &x.expected[i], width)) largest = fmax(largest, y);
  }
  const double limit = largest * (x.type == kFloat32 ? 1e-4 : 1e-2) + 1e-30;
  for (int64_t i = 0; i < x.size; i += width) {
    const double found = value(&x.memory[i], x.type), y = value(&x.expected[i], x.type);
    if (std::isfinite(y) ? !(fabs(found - y) <= limit) : std::isnan(y) ? !std::isnan(found) : found != y) {
      printf("element %lld of %lld: %g, expected %g\n", (long long)(i / width), (long long)(x.size / width), found, y);
      return false;
    }
  }
  return true;
}

static int replay(const char* path, const Kernels& kernels) {
  FILE* file = fopen(path, "rb");
  if (!file) return fprintf(stderr, "%s cannot be read\n", path), 2;
  int counts[9] = {}, wrong = 0, number = 0;
  for (Call call; next(file, call); ++number) {
    if (call.header.halves && !kernels.native_bf16) continue;
    bool right = run(kernels, call);
    for (const Region& x : call.regions) right = same(x) && right;
    ++counts[call.header.kernel];
    if (!right && ++wrong <= 10) printf("%s: call %d, of kernel %d, differs\n", kernels.isa, number, call.header.kernel);
  }
  fclose(file);
  printf("%s:", kernels.isa);
  for (int x : counts) printf(" %d", x);
  printf(" calls of the kernels, %d differ\n", wrong);
  return wrong != 0;
}

int main(int count, char** words) {
  if (count != 2) return fprintf(stderr, "replay FILE\n"), 2;
  int failed = replay(words[1], generic::kernels);
  if (has_bf16_pairs()) failed |= replay(words[1], neonbf16::kernels);
  return failed;
}

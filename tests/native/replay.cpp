// Repeats calls of kernels that recorded_module.py wrote, on this machine, and compares what they leave in memory:
//   replay FILE [THREADS]    all calls on each of the kernels that this processor can run, with so many threads instead of theirs
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include "cpu/block.h"

#define DECLARE(NAME) \
  namespace NAME { extern const Kernels kernels; }
REPLAYED(DECLARE)  // by the command that compiles this: the instruction sets, as X(generic) X(neonbf16)

#if defined(__aarch64__)
#include "cpu/arm.h"
static bool runs_here(const Kernels& x) { return !x.native_bf16 || has_bf16_pairs(); }
#else  // compiled for this machine alone
static bool runs_here(const Kernels&) { return true; }
#endif

enum Number { kStats, kScoreGrad, kSmallCall, kMaxima, kSoftmax, kSegmentGrad, kMaxGradients, kGemm, kPack, kBasis, KERNELS };
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

static int32_t& threads_of(Block& x) { return x.threads; }
static int32_t& threads_of(SmallCall& x) { return x.block.threads; }
static int32_t& threads_of(SegmentScores& x) { return x.threads; }

template <class X> static std::vector<X> as(const Call& call, int threads) {
  if (call.header.struct_bytes != sizeof(X)) fprintf(stderr, "structs have other sizes here\n"), exit(2);
  std::vector<X> found(call.header.structs);
  memcpy((void*)found.data(), call.structs.data(), call.structs.size());
  for (X& x : found)
    if (threads) threads_of(x) = threads;
  return found;
}

// Words: vectors and their gradients, as many as there can be; how many there are of each; and the other arguments.
static Basis basis_of(const int64_t* x, int threads) {
  constexpr int MOST = LARGEST_BASIS;
  Basis found = {};
  for (int s = 0; s < MOST; ++s) found.vectors[s] = (const float*)x[s], found.grads[s] = (float*)x[MOST + s];
  x += 2 * MOST;
  found.t = (int)x[0], found.backward = x[1] > 0;
  found.samples = x[2], found.d = x[3], found.exact = x[4], found.count = (int)x[5];
  found.directions = (float*)x[6], found.lengths = (float*)x[7];
  found.threads = threads ? threads : (int)x[8];
  return found;
}

static bool run(const Kernels& k, const Call& call, int threads) {
  const int64_t* x = (const int64_t*)call.structs.data();
  switch (call.header.kernel) {
    case kStats: return k.stats(as<Block>(call, threads).data(), call.header.structs);
    case kScoreGrad: return k.score_grad(as<Block>(call, threads).data(), call.header.structs);
    case kSmallCall: return k.small_call(as<SmallCall>(call, threads)[0]);
    case kMaxima: return k.segment_maxima(as<SegmentScores>(call, threads)[0]);
    case kSoftmax: return k.segment_softmax(as<SegmentScores>(call, threads)[0]);
    case kSegmentGrad: return k.segment_score_grad(as<SegmentScores>(call, threads)[0]);
    case kMaxGradients: return k.segment_max_gradients(as<SegmentScores>(call, threads)[0]);
    case kGemm:
      return k.gemm({(const void*)x[0], x[1], x[2]}, {(const void*)x[3], x[4], x[5]}, (float*)x[6], x[7], x[8], x[9], x[10],
                    (DType)x[11], threads ? threads : (int)x[12], x[13]);
    case kPack: return k.pack((const void*)x[0], x[1], x[2], (DType)x[3], (void*)x[4], threads ? threads : (int)x[5]), true;
    case kBasis: return k.basis(basis_of(x, threads));
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

static int replay(const char* path, const Kernels& kernels, int threads) {
  FILE* file = fopen(path, "rb");
  if (!file) return fprintf(stderr, "%s cannot be read\n", path), 2;
  int counts[KERNELS] = {}, wrong = 0, number = 0;
  for (Call call; next(file, call); ++number) {
    if (call.header.halves && !kernels.native_bf16) continue;
    bool right = run(kernels, call, threads);
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
  if (count < 2 || count > 3) return fprintf(stderr, "replay FILE [THREADS]\n"), 2;
  int failed = 0;
#define REPLAY(NAME) \
  if (runs_here(NAME::kernels)) failed |= replay(words[1], NAME::kernels, count == 3 ? atoi(words[2]) : 0);
  REPLAYED(REPLAY)
  return failed;
}

// segment_max: the largest score of every row in every segment of columns, and where it is. No atomics: equal bits every run.
#include <math.h>
#include "cuda/element.h"
#include "cuda/launch.h"
#include "cuda/maximum.h"

namespace {
constexpr int QUAD = 4;

struct Top {
  float peak;
  int32_t arg;

  CT_HD void add(float z, int32_t column) {  // columns grow from call to call: the first of equals stays
    if (!above(z, peak)) return;
    peak = z;
    arg = column;
  }
  CT_HD void merge(const Top& y) {
    if (above(y.peak, peak) || (!above(peak, y.peak) && y.arg < arg)) *this = y;
  }
};

struct alignas(4) Flags {
  uint8_t v[QUAD];
};

// Some neighbouring threads per segment of a row; they take its quads of columns in turn, which are as aligned as the row is:
// the first and the last may reach into the segments beside it.
struct SegmentMax {
  static constexpr const char* name = "segment_max";
  static constexpr int LANES = 8, SEGMENTS = 32, threads = LANES * SEGMENTS, phases = 2;
  struct Shared {
    Top part[SEGMENTS][LANES];
  };
  ScoreSegments x;
  int64_t strips;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    const int64_t row = at.x / strips, segment = at.x % strips * SEGMENTS + at.thread / LANES;
    const int lane = at.thread % LANES;
    if (segment >= x.count) return;
    Top* parts = s.part[at.thread / LANES];
    if constexpr (P == 0) parts[lane] = walk(row, segment, lane);
    if constexpr (P == 1)
      if (lane == 0) join(parts, row * x.count + segment);
  }

  CT_HD Top walk(int64_t row, int64_t segment, int lane) const {
    const int64_t begin = x.offsets[segment], end = x.offsets[segment + 1];
    const float* scores = x.scores + row * x.stride;
    Top top = {-INFINITY, -1};
    for (int64_t j = begin / QUAD * QUAD + lane * QUAD; j < end; j += LANES * QUAD) {
      Pack<float, QUAD> z;
      z.load(scores + j, QUAD, true);
      const Flags kept = x.mask ? *(const Flags*)(x.mask + j) : Flags{{1, 1, 1, 1}};
      CT_UNROLL for (int c = 0; c < QUAD; ++c) if (j + c >= begin && j + c < end && kept.v[c]) top.add(z.v[c], (int32_t)(j + c));
    }
    return top;
  }

  CT_HD void join(const Top* parts, int64_t out) const {
    Top top = parts[0];
    for (int k = 1; k < LANES; ++k) top.merge(parts[k]);
    x.values[out] = top.peak;
    x.args[out] = top.arg;
  }
};
}  // namespace

Status segment_max(const ScoreSegments& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {SegmentMax::name, guard.error};
  const int64_t strips = (x.count + SegmentMax::SEGMENTS - 1) / SegmentMax::SEGMENTS;
  return launch(SegmentMax{x, strips}, x.rows * strips, 1, x.stream);
}

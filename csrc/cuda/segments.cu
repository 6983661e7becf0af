// Reduces of the scores of every row over segments of columns, and score gradients of soft ones. No atomics: equal bits every run.
#include <float.h>
#include <math.h>
#include "cuda/element.h"
#include "cuda/launch.h"
#include "cuda/maximum.h"

namespace {
constexpr int QUAD = 4, LANES = 8, SEGMENTS = 32;

// The largest score and its column.
struct Top {
  static constexpr const char* name = "segment_maxima";
  float peak;
  int32_t arg;

  CT_HD static Top none() { return {-INFINITY, -1}; }

  CT_HD void add(float z, int32_t column, float) {  // columns grow from call to call: the first of equals stays
    if (!above(z, peak)) return;
    peak = z;
    arg = column;
  }
  CT_HD void merge(const Top& y) {
    if (above(y.peak, peak) || (!above(peak, y.peak) && y.arg < arg)) *this = y;
  }
  CT_HD void write(const ScoreSegments& x, int64_t at) const {
    x.values[at] = peak;
    x.args[at] = arg;
  }
};

// A peak of t = sharpness z, the sum of e^(t - peak) and that times z. The peak is finite: a sum of nothing is 0, one with inf is
// inf, and NaN shows in the sum.
struct Softmax {
  static constexpr const char* name = "segment_softmax";
  float peak, total, weighted;

  CT_HD static Softmax none() { return {-FLT_MAX, 0.f, 0.f}; }

  CT_HD void raise(float to) {
    const float old = expf(peak - to);
    total *= old;
    weighted *= old;
    peak = to;
  }
  CT_HD void add(float z, int32_t, float sharpness) {
    const float t = z * sharpness;
    if (t > peak) raise(fminf(t, FLT_MAX));
    const float e = expf(t - peak);
    total += e;
    weighted += e == 0.f ? 0.f : e * z;
  }
  CT_HD void merge(Softmax y) {
    if (y.peak > peak) raise(y.peak);
    else y.raise(peak);
    total += y.total;
    weighted += y.weighted;
  }
  CT_HD void write(const ScoreSegments& x, int64_t at) const {
    x.stat[at] = total == 0.f ? -INFINITY : peak + logf(total);
    x.mean[at] = total == 0.f ? -INFINITY : weighted / total;
  }
};

struct alignas(4) Flags {
  uint8_t v[QUAD];
};

// LANES neighbouring threads per segment of a row.
struct Group {
  int64_t row, segment;
  int group, lane;

  CT_HD Group(const Place& at, int64_t strips)
      : row(at.x / strips),
        segment(at.x % strips * SEGMENTS + at.thread / LANES),
        group(at.thread / LANES),
        lane(at.thread % LANES) {}
};

// Scores of a row, whose quads the threads of a group take in turn: quads are as aligned as the row is, so the first and the last
// may reach into the segments beside it.
struct Quad {
  Pack<float, QUAD> z;
  bool kept[QUAD];

  CT_HD Quad(const ScoreSegments& x, int64_t row, int64_t j, int64_t begin, int64_t end) {
    z.load(x.scores + row * x.stride + j, QUAD, true);
    const Flags flags = x.mask ? *(const Flags*)(x.mask + j) : Flags{{1, 1, 1, 1}};
    CT_UNROLL for (int c = 0; c < QUAD; ++c) kept[c] = j + c >= begin && j + c < end && flags.v[c];
  }
};

template <class State> struct Reduced {
  static constexpr const char* name = State::name;
  static constexpr int threads = LANES * SEGMENTS, phases = 2;
  struct Shared {
    State part[SEGMENTS][LANES];
  };
  ScoreSegments x;
  int64_t strips;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    const Group own(at, strips);
    if (own.segment >= x.count) return;
    State* parts = s.part[own.group];
    if constexpr (P == 0) parts[own.lane] = walk(own);
    if constexpr (P == 1)
      if (own.lane == 0) join(parts, own.row * x.count + own.segment);
  }

  CT_HD State walk(const Group& own) const {
    const int64_t begin = x.offsets[own.segment], end = x.offsets[own.segment + 1];
    const float sharpness = x.sharpness ? *x.sharpness : 0.f;
    State state = State::none();
    for (int64_t j = begin / QUAD * QUAD + own.lane * QUAD; j < end; j += LANES * QUAD) {
      const Quad quad(x, own.row, j, begin, end);
      CT_UNROLL for (int c = 0; c < QUAD; ++c) if (quad.kept[c]) state.add(quad.z.v[c], (int32_t)(j + c), sharpness);
    }
    return state;
  }

  CT_HD void join(const State* parts, int64_t out) const {
    State state = parts[0];
    for (int k = 1; k < LANES; ++k) state.merge(parts[k]);
    state.write(x, out);
  }
};

template <class T> struct alignas(QUAD * sizeof(T)) Four {
  T v[QUAD];
};

// p (constant + slope (z - mean)), p = e^(t - stat), and the sum of p (z - mean)^2. The first segment also writes the zeros of
// columns before it, the last of those behind it. A score may lie where its gradient goes.
template <class T> struct Gradient {
  static constexpr const char* name = "segment_score_grad";
  static constexpr int threads = LANES * SEGMENTS, phases = 2;
  struct Shared {
    float part[SEGMENTS][LANES];
  };
  ScoreSegments x;
  int64_t strips;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    const Group own(at, strips);
    if (own.segment >= x.count) return;
    if constexpr (P == 0) s.part[own.group][own.lane] = walk(own);
    if constexpr (P == 1) {
      if (own.lane || !x.variance) return;
      float sum = 0.f;
      for (int k = 0; k < LANES; ++k) sum += s.part[own.group][k];
      x.variance[own.row * x.count + own.segment] = sum;
    }
  }

  CT_HD float walk(const Group& own) const {
    const int64_t begin = x.offsets[own.segment], end = x.offsets[own.segment + 1], at = own.row * x.count + own.segment;
    const int64_t first = own.segment ? begin : 0, last = own.segment + 1 < x.count ? end : x.stride;
    const float sharpness = *x.sharpness, stat = x.stat[at], mean = x.mean[at], constant = x.constant[at];
    const float slope = x.slope ? x.slope[at] : 0.f;
    float squares = 0.f;
    for (int64_t j = first / QUAD * QUAD + own.lane * QUAD; j < last; j += LANES * QUAD) {
      const Quad quad(x, own.row, j, begin, end);
      Four<T> grad;
      CT_UNROLL for (int c = 0; c < QUAD; ++c) {
        const float t = quad.z.v[c] * sharpness, apart = quad.z.v[c] - mean;
        const bool none = !quad.kept[c] || t == -INFINITY;
        const float p = none ? 0.f : expf(t - stat);
        narrow(none ? 0.f : p * (x.slope ? slope * apart + constant : constant), grad.v[c]);
        squares += none ? 0.f : p * apart * apart;
      }
      T* to = (T*)x.grad + own.row * x.stride + j;
      if (j >= first && j + QUAD <= last) *(Four<T>*)to = grad;
      else CT_UNROLL for (int c = 0; c < QUAD; ++c) if (j + c >= first && j + c < last) to[c] = grad.v[c];
    }
    return squares;
  }
};

template <class Kernel> Status run(const ScoreSegments& x) {
  const DeviceGuard guard(x.device);
  if (guard.error) return {Kernel::name, guard.error};
  const int64_t strips = (x.count + SEGMENTS - 1) / SEGMENTS;
  return launch(Kernel{x, strips}, x.rows * strips, 1, x.stream);
}
}  // namespace

Status segment_maxima(const ScoreSegments& x) { return run<Reduced<Top>>(x); }
Status segment_softmax(const ScoreSegments& x) { return run<Reduced<Softmax>>(x); }
Status segment_score_grad(const ScoreSegments& x) {
  if (x.type == Element::kBfloat16) return run<Gradient<Bf16>>(x);
  return x.type == Element::kFloat16 ? run<Gradient<Half>>(x) : run<Gradient<float>>(x);
}

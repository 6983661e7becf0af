// small_call: the epilogues of a call that is one block - statistics, loss, score gradients - in one crossing from Python, where
// crossings and small operations between the kernels would cost more than the kernels.
#include <math.h>
#include "cuda/launch.h"

namespace {
#include "common/cross_entropy.h"
#include "common/functors.h"

// One side's statistic on its way to score gradients, and its share of the loss; count 0: not wanted.
struct Share {
  int64_t count;
  const float *peak, *total, *positive;  // null: not a part of the statistic
  const float *weight, *positive_weight;
  float* stat;                    // (count, 2)
  float *slope, *positive_slope;  // null but for a cross entropy
};

// One block: the sides together have some ten thousand items (SMALL_ITEMS in base.py).
struct Finish {
  static constexpr const char* name = "finish";
  static constexpr int threads = 512, phases = 3, HEADS = 16;
  struct Shared {
    double part[threads];
  };
  Share row, col;
  bool logarithm;
  float* loss;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) s.part[at.thread] = walk(row, at.thread) + walk(col, at.thread);
    if constexpr (P == 1) join(s, at.thread, HEADS, threads);
    if constexpr (P == 2) join(s, at.thread, 1, HEADS);
    if (P == 2 && at.thread == 0) *loss = (float)s.part[0];
  }

  static CT_HD void join(Shared& s, int thread, int heads, int count) {  // `count` partials become `heads`
    for (int k = thread + heads; thread < heads && k < count; k += heads) s.part[thread] += s.part[k];
  }

  // The statistic and the positive are large and nearly equal: float64. An item that keeps nothing adds 0.
  CT_HD double walk(const Share& side, int thread) const {
    double sum = 0.0;
    for (int64_t k = thread; k < side.count; k += threads) {
      const float first = logarithm ? side.peak[k] : side.total[k], second = logarithm ? logf(side.total[k]) : 0.f;
      const double value = (double)first + second;
      side.stat[2 * k] = first;
      side.stat[2 * k + 1] = second;
      if (side.slope) {
        const CrossEntropy c =
            cross_entropy(value, side.positive[k], side.weight[k], side.positive_weight ? side.positive_weight[k] : 0.f);
        sum += c.value;
        side.slope[k] = c.weight;
        side.positive_slope[k] = c.positive_weight;
        continue;
      }
      if (value != -INFINITY) sum += side.weight[k] * value;
      if (side.positive_weight) sum += (double)side.positive_weight[k] * side.positive[k];
    }
    return sum;
  }
};

// Gives a side that is on memory for its statistic, and Finish what it needs of the side.
Share prepare(Side& side, int64_t count, bool cross_entropy, float*& at) {
  if (!side.on) return {};
  side.peak = at;
  side.total = at + count;
  side.positive = at + 2 * count;
  float* stat = at + 3 * count;
  side.stat = stat;
  Share share = {count, side.peak, side.total, side.positive, side.weight, side.positive_weight, stat, nullptr, nullptr};
  if (cross_entropy) {
    side.weight = share.slope = at + 5 * count;
    side.positive_weight = share.positive_slope = at + 6 * count;
  }
  at += 7 * count;
  return share;
}

int64_t side_bytes(const DeviceBlock& x) { return (7 * (x.n + x.m) * (int64_t)sizeof(float) + 15) / 16 * 16; }
}  // namespace

int64_t small_call_workspace(const DeviceBlock& x) {
  const int64_t stats = stats_workspace(x), score_grad = score_grad_workspace(x);
  return side_bytes(x) + (stats > score_grad ? stats : score_grad);
}

Status small_call(const DeviceBlock& block) {
  DeviceBlock x = block;
  const DeviceGuard guard(x.device);
  if (guard.error) return {"finish", guard.error};
  float* at = (float*)x.workspace;
  const Share row = prepare(x.row, x.n, x.cross_entropy, at), col = prepare(x.col, x.m, x.cross_entropy, at);
  x.workspace = (char*)x.workspace + side_bytes(x);
  Status status = stats(x);
  const bool parted = for_reduce(x.reduce, [](auto tag) { return logarithm<Functor<decltype(tag)::value>>; });
  if (!status.error) status = launch(Finish{row, col, parted, x.loss}, 1, 1, x.stream);
  return status.error ? status : score_grad(x);
}

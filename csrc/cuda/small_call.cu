// small_call: the epilogues of a call that is one block - statistics, loss, score gradients - in one crossing from Python, where
// crossings and small operations between the kernels would cost more than the kernels.
#include <math.h>
#include "cuda/launch.h"

namespace {
#include "common/place.h"
#include "common/finish.h"
#include "common/functors.h"

// One block: the sides together have some ten thousand items (SMALL_ITEMS in base.py).
struct FinishSides {
  static constexpr const char* name = "finish";
  static constexpr int threads = 512, phases = 3, HEADS = 16;
  struct Shared {
    double part[threads];
  };
  Pairs x;
  Finish row, col;
  bool logarithm;
  float* loss;

  template <int P> CT_HD void phase(const Place& at, Shared& s) const {
    if constexpr (P == 0) s.part[at.thread] = walk(x.row, row, at.thread) + walk(x.col, col, at.thread);
    if constexpr (P == 1) join(s, at.thread, HEADS, threads);
    if constexpr (P == 2) join(s, at.thread, 1, HEADS);
    if (P == 2 && at.thread == 0) *loss = (float)s.part[0];
  }

  static CT_HD void join(Shared& s, int thread, int heads, int count) {  // `count` partials become `heads`
    for (int k = thread + heads; thread < heads && k < count; k += heads) s.part[thread] += s.part[k];
  }

  CT_HD double walk(const Side& side, const Finish& to, int thread) const {
    double sum = 0.0;
    for (int64_t k = thread; k < to.count; k += threads) sum += finish_item(x, logarithm, side, to, k);
    return sum;
  }
};

int64_t side_bytes(const DeviceBlock& x) { return (ITEM_BYTES * (x.n + x.m) + 2 * ALIGNMENT_BYTES + 15) / 16 * 16; }
}  // namespace

int64_t small_call_workspace(const DeviceBlock& x) {
  const int64_t stats = stats_workspace(x), score_grad = score_grad_workspace(x);
  return side_bytes(x) + (stats > score_grad ? stats : score_grad);
}

Status small_call(const DeviceBlock& block) {
  DeviceBlock x = block;
  const DeviceGuard guard(x.device);
  if (guard.error) return {"finish", guard.error};
  char* at = (char*)x.workspace;
  const Finish row = begin_side(x, x.row, x.n, x.row.weight, x.row.positive_weight, at);
  const Finish col = begin_side(x, x.col, x.m, x.col.weight, x.col.positive_weight, at);
  x.workspace = (char*)x.workspace + side_bytes(x);
  Status status = stats(x);
  const bool parted = for_reduce(x.reduce, [](auto tag) { return logarithm<Functor<decltype(tag)::value>>; });
  if (!status.error) status = launch(FinishSides{x, row, col, parted, x.loss}, 1, 1, x.stream);
  end_side(x.row, row);
  end_side(x.col, col);
  return status.error ? status : score_grad(x);
}

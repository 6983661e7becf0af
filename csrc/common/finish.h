// Included inside a namespace that has macros.h, pairs.h, place.h and <math.h>.
// A call done at once: from the statistics of its sides to the loss and to what score gradients are made with.
#include "common/cross_entropy.h"

// A side's weights, and where its finished statistics, as pairs, and slopes go. Slopes null: they are the weights.
struct Finish {
  int64_t count = 0;
  const float *weight = nullptr, *positive_weight = nullptr;
  float *stat = nullptr, *slope = nullptr, *positive_slope = nullptr, *positive_stat = nullptr, *positive_stat_slope = nullptr;
};
constexpr int64_t ITEM_BYTES = 12 * sizeof(float) + 2 * sizeof(int64_t), ALIGNMENT_BYTES = 16;  // all that begin_side takes

// Gives a side that is on memory for the log-sum-exps of its pairs.
static void begin_stats(const Pairs& x, Side& side, int64_t count, char*& at) {
  if (!side.on) return;
  side.peak = take<float>(at, count);
  side.total = take<float>(at, count);
  side.positive_peak = x.split ? take<float>(at, count) : nullptr;
  side.positive_total = x.split ? take<float>(at, count) : nullptr;
}

// Gives a side that is on memory for its statistics and what becomes of them.
static Finish begin_side(const Pairs& x, Side& side, int64_t count, const float* weight, const float* positive_weight, char*& at) {
  if (!side.on) return {};
  begin_stats(x, side, count, at);
  side.positive = take<float>(at, count);
  Finish to = {count, weight, positive_weight, take<float>(at, 2 * count)};
  if (x.cross_entropy || x.split) {
    to.slope = take<float>(at, count);
    to.positive_slope = take<float>(at, count);
  }
  if (x.split) {
    side.kept_positives = take<int64_t>(at, count);
    side.positives = take<int64_t>(at, count);
    to.positive_stat = take<float>(at, 2 * count);
    to.positive_stat_slope = take<float>(at, count);
  }
  return to;
}

// Writes the finished statistics of one item.
CT_HD static void finish_stats(const Pairs& x, bool logarithm, const Side& side, const Finish& to, int64_t i) {
  const float first = logarithm ? side.peak[i] : side.total[i], second = logarithm ? logf(side.total[i]) : 0.f;
  to.stat[2 * i] = first;
  to.stat[2 * i + 1] = second;
  if (!x.split) return;
  to.positive_stat[2 * i] = side.positive_peak[i];
  to.positive_stat[2 * i + 1] = logf(side.positive_total[i]);
}

// Finishes one item and returns its share of the loss: nothing where it keeps nothing. The statistic and the positive are large
// and nearly equal: float64.
CT_HD static double finish_item(const Pairs& x, bool logarithm, const Side& side, const Finish& to, int64_t i) {
  finish_stats(x, logarithm, side, to, i);
  const double stat = (double)to.stat[2 * i] + to.stat[2 * i + 1];
  const float weight = to.weight[i], positive_weight = to.positive_weight ? to.positive_weight[i] : 0.f;
  if (x.split) {
    const double positive_stat = (double)to.positive_stat[2 * i] + to.positive_stat[2 * i + 1];
    const bool one = !x.share && side.kept_positives[i] == 1 && side.positives[i] == 1;
    const ApartEntropy c = positives_apart(stat, positive_stat, side.positive[i], one, weight, positive_weight);
    to.slope[i] = c.weight;
    to.positive_slope[i] = c.positive_weight;
    to.positive_stat_slope[i] = c.positive_stat_weight;
    return c.value;
  }
  if (x.cross_entropy) {
    const CrossEntropy c = cross_entropy(stat, side.positive[i], weight, positive_weight);
    to.slope[i] = c.weight;
    to.positive_slope[i] = c.positive_weight;
    return c.value;
  }
  return (stat != -INFINITY ? weight * stat : 0.0) + (positive_weight == 0.f ? 0.0 : (double)positive_weight * side.positive[i]);
}

// What score_grad reads of the side.
static void end_side(Side& side, const Finish& to) {
  side.stat = to.stat;
  side.weight = to.slope ? to.slope : to.weight;
  side.positive_weight = to.slope ? to.positive_slope : to.positive_weight;
  side.positive_stat = to.positive_stat;
  side.positive_stat_weight = to.positive_stat_slope;
}

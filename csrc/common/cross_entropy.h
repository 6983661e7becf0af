// Included inside a namespace that has macros.h and <math.h>.
// weight * softplus(stat - positive) + positive_weight * positive: its value and its slopes in the statistic and the positive.
struct CrossEntropy {
  double value;
  float weight, positive_weight;
};

// In double: both are large, and nearly equal before a model has converged. What has no weight adds nothing, and without others
// the loss is 0, whatever the positive.
CT_HD static CrossEntropy cross_entropy(double stat, double positive, float weight, float positive_weight) {
  const double margin = stat == -INFINITY ? stat : stat - positive, e = exp(-fabs(margin));  // e: no overflow
  const double softplus = (margin > 0.0 ? margin : 0.0) + log1p(e), sigmoid = (margin > 0.0 ? 1.0 : e) / (1.0 + e);
  const double share = weight == 0.f ? 0.0 : weight * sigmoid, value = weight == 0.f ? 0.0 : weight * softplus;
  const double linear = positive_weight == 0.f ? 0.0 : positive_weight * positive;
  return {value + linear, (float)share, (float)(positive_weight - share)};
}

// weight * (k + softplus(o - k)) + positive_weight * positive: o the log-sum-exp of the others, k that of the kept positives; its
// slopes in o, in the positive and in k. As with_positives_apart in driver/value.py, which says why. `one`: k is the positive.
struct ApartEntropy {
  double value;
  float weight, positive_weight, positive_stat_weight;
};

CT_HD static ApartEntropy positives_apart(double o, double k, double positive, bool one, float weight, float positive_weight) {
  const bool kept = k != -INFINITY;
  const double margin = kept ? o - k : INFINITY, e = exp(-fabs(margin)), tail = e / (1.0 + e);
  const double softplus = (margin > 0.0 ? margin : 0.0) + log1p(e), share = margin > 0.0 ? 1.0 - tail : tail;
  const double of_others = weight == 0.f ? 0.0 : weight * share, rest = kept ? softplus : o == -INFINITY ? 0.0 : o;
  const double linear = positive_weight == 0.f ? 0.0 : positive_weight * positive;
  const double large = (weight == 0.f || !kept ? 0.0 : weight * k) + linear;  // it cancels first
  const double of_sum = one ? (double)positive_weight + weight - of_others : positive_weight;
  const double of_kept = one || weight == 0.f ? 0.0 : weight * (margin > 0.0 ? tail : 1.0 - tail);
  return {large + (weight == 0.f ? 0.0 : weight * rest), (float)of_others, (float)of_sum, (float)of_kept};
}

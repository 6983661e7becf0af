// Included inside a namespace that has macros.h and <math.h>.
// weight * softplus(stat - positive) + positive_weight * positive: its value and its slopes in the statistic and the positive.
struct CrossEntropy {
  double value;
  float weight, positive_weight;
};

// In double: both are large, and nearly equal before a model has converged. What has no weight adds nothing, and without others
// the loss is 0, whatever the positive.
CT_HD static CrossEntropy cross_entropy(double stat, float positive, float weight, float positive_weight) {
  const double margin = stat == -INFINITY ? stat : stat - positive, e = exp(-fabs(margin));  // e: no overflow
  const double softplus = (margin > 0.0 ? margin : 0.0) + log1p(e), sigmoid = (margin > 0.0 ? 1.0 : e) / (1.0 + e);
  const double share = weight == 0.f ? 0.0 : weight * sigmoid, value = weight == 0.f ? 0.0 : weight * softplus;
  const double linear = positive_weight == 0.f ? 0.0 : (double)positive_weight * positive;
  return {value + linear, (float)share, (float)(positive_weight - share)};
}

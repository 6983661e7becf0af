#pragma once
// What the kernels of every native backend are told about a block of pairs (n rows of a) x (m columns of b): plain types only.
#include "common/fields.h"

// Numbers equal those of the enumerations in spec.py.
CT_ENUM(Test, kSameIndex, kOtherIndex, kSameId, kOtherId, kSameGroup, kOtherGroup, kSharedLabel, kNoSharedLabel, kLowerOrder, kKept,
        kPartner, kNoPartner);  // the places of their bits in a rule
CT_ENUM(Reduce, kLse, kSoftplus, kRelu, kMax);

// A conjunction of tests.
enum class Rule : int32_t {};
constexpr int count_of(Rule) { return 1 << count_of(Test{}); }
constexpr int32_t bits(Rule rule) { return (int32_t)rule; }
constexpr int32_t bit(Test test) { return 1 << (int)test; }
constexpr bool has(Rule rule, Test test) { return bits(rule) & bit(test); }

// The distances are functions of q_ij = row_norm_i + col_norm_j - 2 <a_i, b_0j> [offset] - sum of <a_i, b_tj>^2 over the other
// directions. kGated is <a, b> / sqrt(u), u the product of second operands.
CT_ENUM(Score, kDot, kSquaredDistance, kDistance, kLogDistance, kGated);

// What weights second operands give the pairs: none, e^t or t, where t_ij = second_scale_i u_ij + second_bias_i.
CT_ENUM(Target, kNone, kSoftmax, kAffine);

// What score_grad writes score gradients as; only kHalf ones are multiplied by Pairs::factor.
CT_ENUM(GradType, kFloat, kBfloat16, kHalf);

// One direction of the statistic: rows reduce over columns, columns reduce over rows. Null pointer = absent.
#define SIDE_FIELDS(FIELD)                                                                                         \
  FIELD(bool, on, false);                                                                                          \
  FIELD(const float*, low, nullptr); /* this side keeps low < z <= high */                                         \
  FIELD(const float*, high, nullptr);                                                                              \
  /* stats writes these; lse uses peak and total, softplus and relu total, max peak and arg */                     \
  FIELD(float*, peak, nullptr);                                                                                    \
  FIELD(float*, total, nullptr);                                                                                   \
  FIELD(float*, positive, nullptr);                                                                                \
  FIELD(int64_t*, arg, nullptr);                                                                                   \
  /* Pairs::split: of positives that are kept, then their number */                                                \
  FIELD(float*, positive_peak, nullptr);                                                                           \
  FIELD(float*, positive_total, nullptr);                                                                          \
  FIELD(int64_t*, kept_positives, nullptr);                                                                        \
  /* numbers of pairs: in the statistic; positive, kept or not */                                                  \
  FIELD(int64_t*, kept, nullptr);                                                                                  \
  FIELD(int64_t*, positives, nullptr);                                                                             \
  /* Target::kSoftmax: the largest t, then sums of e = e^(t - it), of e (z - peak) and of e (t - it) */            \
  FIELD(float*, target_peak, nullptr);                                                                             \
  FIELD(float*, target_total, nullptr);                                                                            \
  FIELD(float*, target_z, nullptr);                                                                                \
  FIELD(float*, target_t, nullptr);                                                                                \
  /* Target::kAffine: sums of t and of t (z - peak) */                                                             \
  FIELD(float*, weights, nullptr);                                                                                 \
  FIELD(float*, weighted, nullptr);                                                                                \
  /* score_grad reads these: the finished statistic as pairs (peak, log total), so that z - statistic keeps its */ \
  /* digits where both are large; its upstream gradient; the upstream gradient of the positive sum */              \
  FIELD(const float*, stat, nullptr);                                                                              \
  FIELD(const float*, weight, nullptr);                                                                            \
  FIELD(const float*, positive_weight, nullptr);                                                                   \
  /* Pairs::split: the finished statistic of kept positives in the same form, and its upstream gradient */         \
  FIELD(const float*, positive_stat, nullptr);                                                                     \
  FIELD(const float*, positive_stat_weight, nullptr);                                                              \
  /* Pairs::target: q = e^(t - target_stat) (kAffine: t) of a pair adds mean_weight q to dL/dz; its dL/dt is */    \
  /* q (mean_weight z + logit_weight t + mean_offset) (kAffine: mean_weight z + mean_offset), z above stat's */    \
  /* peak and t above target_stat's */                                                                             \
  FIELD(const float*, target_stat, nullptr);                                                                       \
  FIELD(const float*, mean_weight, nullptr); /* null: the target has no slope */                                   \
  FIELD(const float*, logit_weight, nullptr);                                                                      \
  FIELD(const float*, mean_offset, nullptr);                                                                       \
  /* score_grad writes these: sum of dL/dz (of distances dL/dq), of dL/dz * score * (scale of the other side), */  \
  /* and, of rows, of dL/dt u */                                                                                   \
  FIELD(float*, grad_sum, nullptr);                                                                                \
  FIELD(float*, grad_score_sum, nullptr);                                                                          \
  FIELD(float*, grad_second_sum, nullptr);
CT_STRUCT(Side, SIDE_FIELDS);

// One block: what its scores mean, which pairs count, and where results go.
#define PAIRS_FIELDS(FIELD)                                                                                               \
  FIELD(int64_t, directions, 1);                                                                                          \
  FIELD(int64_t, n, 0);                                                                                                   \
  FIELD(int64_t, m, 0);                                                                                                   \
  FIELD(int64_t, row_origin, 0); /* global index of the first row */                                                      \
  FIELD(int64_t, col_origin, 0);                                                                                          \
  FIELD(const float*, row_scale, nullptr);                                                                                \
  FIELD(const float*, col_scale, nullptr);                                                                                \
  /* row_scale is that of the rows' statistics alone, col_scale, which is given, that of the columns' */                  \
  FIELD(bool, own_scales, false);                                                                                         \
  FIELD(const float*, row_bias, nullptr);                                                                                 \
  FIELD(const float*, col_bias, nullptr);                                                                                 \
  FIELD(Score, score, Score::kDot);                                                                                       \
  FIELD(bool, offset, true);                                                                                              \
  FIELD(float, floor, 0.f);               /* q is raised to this share of the norms; kGated: u up to it is no gate */     \
  FIELD(const float*, row_norm, nullptr); /* distances */                                                                 \
  FIELD(const float*, col_norm, nullptr);                                                                                 \
  FIELD(const int64_t*, row_ids, nullptr);                                                                                \
  FIELD(const int64_t*, col_ids, nullptr); /* this and the next: null of columns that are unlike every row */             \
  FIELD(const int64_t*, row_groups, nullptr);                                                                             \
  FIELD(const int64_t*, col_groups, nullptr);                                                                             \
  FIELD(const int64_t*, row_labels, nullptr); /* (n, label_words), a bit for each label */                                \
  FIELD(const int64_t*, col_labels, nullptr);                                                                             \
  FIELD(int64_t, label_words, 0);                                                                                         \
  FIELD(const int64_t*, row_order, nullptr);                                                                              \
  FIELD(const int64_t*, col_order, nullptr);                                                                              \
  FIELD(const int64_t*, partner, nullptr); /* (n, partners) global indices of columns, -1: none */                        \
  FIELD(const float*, share, nullptr);     /* (n, partners) weight of a positive in its sum; null: 1 */                   \
  FIELD(int64_t, partners, 0);                                                                                            \
  FIELD(const uint8_t*, mask, nullptr); /* (n, m), nonzero = keep */                                                      \
  FIELD(int64_t, mask_stride, 0);                                                                                         \
  FIELD(Rule, keep, Rule{});          /* which pairs count */                                                             \
  FIELD(Rule, positives, Rule{});     /* which pairs are summed apart; no test: none */                                   \
  FIELD(bool, keep_positives, false); /* positives are kept whatever the other rules say */                               \
  FIELD(bool, split, false);          /* the statistic is that of the others, and kept positives have one of their own */ \
  FIELD(bool, cross_entropy, false);  /* of small_call: the weights are those of softplus(statistic - positive) */        \
  FIELD(Reduce, reduce, Reduce::kLse);                                                                                    \
  FIELD(Target, target, Target::kNone);                                                                                   \
  FIELD(const float*, second_scale, nullptr); /* of rows, null: 1 */                                                      \
  FIELD(const float*, second_bias, nullptr);  /* of rows */                                                               \
  FIELD(Side, row, {});                                                                                                   \
  FIELD(Side, col, {});                                                                                                   \
  /* raw products (directions, then that of second operands; n; score_stride): written by stats, read by score_grad */    \
  FIELD(float*, scores, nullptr);                                                                                         \
  FIELD(int64_t, score_stride, 0);                                                                                        \
  FIELD(int64_t, score_direction, 0);                                                                                     \
  FIELD(void*, grad, nullptr); /* score_grad: the gradients of the products, in grad_type and the same order */           \
  FIELD(int64_t, grad_stride, 0);                                                                                         \
  FIELD(int64_t, grad_direction, 0);                                                                                      \
  FIELD(bool, grad_second, false); /* that of second operands' as well */                                                 \
  FIELD(GradType, grad_type, GradType::kFloat);                                                                           \
  FIELD(const float*, factor, nullptr); /* a power of two against underflow */
CT_STRUCT(Pairs, PAIRS_FIELDS);

// Whether a pair has a product of second operands, and how many products it has.
constexpr bool has_second(const Pairs& x) { return x.target != Target::kNone || x.score == Score::kGated; }
constexpr int64_t products(const Pairs& x) { return x.directions + has_second(x); }
// Whether the score is a function of a squared distance.
constexpr bool is_distance(Score score) { return score != Score::kDot && score != Score::kGated; }

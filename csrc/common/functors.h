// Included inside a namespace that has macros.h and the functions named below.
// Per-pair mathematics of the reduces: each value stands beside its derivative.
// V is float (device code, scalar host code) or a SIMD vector; the including file first provides, for its V,
//   vexp(V), vlog(V), vsqrt(V), vreciprocal(V) (of 1 <= x <= 2), vmax(V, V), vabs(V), vselect_positive(V x, V yes, V no).
// `term` is what one kept pair adds to a sum, `slope` the statistic's derivative in z (of a sum without its other arguments);
// `positive_term` / `positive_slope` are the same for a positive pair. Beside them what a reduce keeps of an item and allows, as
// TRAITS in spec.py: the largest z; a sum, of e^(z - peak) where there is a peak, else of terms; the index of the largest z, at
// which it is differentiated; whether a pair's slope depends on its z alone. Kernels ask for these, never for a reduce by name.
struct Linear {  // positives of lse, relu and max: the sum of z itself
  template <class V> CT_HD static V positive_term(V z) { return z; }
  template <class V> CT_HD static V positive_slope(V) { return V{} + 1.f; }
};

// log(1 + y) for 0 <= y <= 1 as y + y^2 Q(y), within 2 units in the last place (1.5 where products are fused with sums). Q has the
// smallest relative error of its degree, 2^-24.8.
template <class V> CT_HD static V log1p_unit(V y) {
  V q = y * 0.0053648246f - 0.030065794f;
  q = q * y + 0.07920454f;
  q = q * y - 0.13753803f;
  q = q * y + 0.19153655f;
  q = q * y - 0.24857163f;
  q = q * y + 0.33321324f;
  q = q * y - 0.49999648f;
  return y * y * q + y;
}

template <Reduce R> struct Functor;

template <> struct Functor<Reduce::kSoftplus> {  // log(1 + e^z); a positive pair counts log(1 + e^-z)
  static constexpr bool peak = false, total = true, arg = false, additive = true;
  template <class V> CT_HD static V term(V z) { return vmax(z, V{}) + log1p_unit(vexp(-vabs(z))); }
  template <class V> CT_HD static V slope(V z) {
    const V e = vexp(-vabs(z));
    return vselect_positive(z, V{} + 1.f, e) * vreciprocal(e + 1.f);  // no overflow, no cancellation
  }
  template <class V> CT_HD static V positive_term(V z) { return term(-z); }
  template <class V> CT_HD static V positive_slope(V z) { return -slope(-z); }
};

template <> struct Functor<Reduce::kRelu> : Linear {  // max(z, 0); the slope at 0 is 0, as in torch
  static constexpr bool peak = false, total = true, arg = false, additive = true;
  template <class V> CT_HD static V term(V z) { return vmax(V{}, z); }  // this order keeps NaN
  template <class V> CT_HD static V slope(V z) {
    return vselect_positive(z, V{} + 1.f, vselect_positive(-z, V{}, z));  // NaN stays NaN
  }
};

template <> struct Functor<Reduce::kLse>
    : Linear {  // log sum e^z over the kept pairs, as the monoid (peak, total); empty = (-inf, 0)
  static constexpr bool peak = true, total = true, arg = false, additive = false;
  template <class V> CT_HD static V slope(V z, V peak, V log_total) { return vexp((z - peak) - log_total); }
};

template <> struct Functor<Reduce::kMax> : Linear {
  static constexpr bool peak = true, total = false, arg = true, additive = false;
};

// The statistic is peak + log total, not one of them.
template <class F> constexpr bool logarithm = F::peak && F::total;

template <class F, class V> CT_HD static V slope_of(V z, V peak, V log_total) {
  if constexpr (F::additive) return F::slope(z);
  else return F::slope(z, peak, log_total);
}

template <Reduce R> struct ReduceTag {
  static constexpr Reduce value = R;
};
// body(tag) for the reduce, as a constant.
template <int K = 0, class Body> static auto for_reduce(Reduce reduce, const Body& body) {
  if constexpr (K + 1 < count_of(Reduce{}))
    if (reduce != (Reduce)K) return for_reduce<K + 1>(reduce, body);
  return body(ReduceTag<(Reduce)K>{});
}

// What a pair weighs in the mean of z, of its t, and the slope in t, of z and t above the peaks of their statistics, from the
// upstream gradients of spec.Upstream: those of the mean, of the mean of t, and the rest.
template <Target T> struct PairWeight;

template <> struct PairWeight<Target::kSoftmax> {
  template <class V> CT_HD static V weight(V t, V peak, V log_total) { return vexp((t - peak) - log_total); }
  template <class V> CT_HD static V slope(V q, V z, V t, V mean, V logit, V offset) { return q * (mean * z + logit * t + offset); }
};

template <> struct PairWeight<Target::kAffine> {  // a sum divides `mean` already
  template <class V> CT_HD static V weight(V t, V, V) { return t; }
  template <class V> CT_HD static V slope(V, V z, V, V mean, V, V offset) { return mean * z + offset; }
};

// The gated score s = x / sqrt(u); where u <= least there is no gate, and no score.
struct Gate {
  template <class V> CT_HD static V inverse(V u, float least) {  // of the square root; NaN stays NaN
    const V above = u - least;
    return vselect_positive(above, 1.f / vsqrt(u), vselect_positive(-above, V{}, above));
  }
  template <class V> CT_HD static V slope(V s, V inverse) { return -0.5f * s * inverse * inverse; }  // ds/du
};

// Scores as functions of q > 0, the squared distance of a row from a column's flat.
struct SquaredDistance {
  template <class V> CT_HD static V value(V q) { return q; }
  template <class V> CT_HD static V slope(V) { return V{} + 1.f; }
};

struct Distance {
  template <class V> CT_HD static V value(V q) { return vsqrt(q); }
  template <class V> CT_HD static V slope(V q) { return 0.5f / vsqrt(q); }
};

struct LogDistance {
  template <class V> CT_HD static V value(V q) { return vlog(q); }
  template <class V> CT_HD static V slope(V q) { return 1.f / q; }
};

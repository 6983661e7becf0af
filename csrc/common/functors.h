// Included inside a namespace that has macros.h and the functions named below.
// Per-pair mathematics of the reduces: each value stands beside its derivative.
// V is float (device code, scalar host code) or a SIMD vector; the including file first provides, for its V,
//   vexp(V), vlog(V), vsqrt(V), vlog1p_unit(V) (log(1 + y) for 0 <= y <= 1), vmax(V, V), vabs(V),
//   vselect_positive(V x, V yes, V no).
// `term` is what one kept pair adds to a sum, `slope` the statistic's derivative in z (of a sum without its other arguments);
// `positive_term` / `positive_slope` are the same for a positive pair.
struct Linear {  // positives of lse, relu and max: the sum of z itself
  template <class V> CT_HD static V positive_term(V z) { return z; }
  template <class V> CT_HD static V positive_slope(V) { return V{} + 1.f; }
};

template <Reduce R> struct Functor;

template <> struct Functor<Reduce::kSoftplus> {  // log(1 + e^z); a positive pair counts log(1 + e^-z)
  template <class V> CT_HD static V term(V z) { return vmax(z, V{}) + vlog1p_unit(vexp(-vabs(z))); }
  template <class V> CT_HD static V slope(V z) {
    const V e = vexp(-vabs(z)), tail = e / (e + 1.f);  // sigmoid(-|z|): no overflow, no cancellation
    return vselect_positive(z, 1.f - tail, tail);
  }
  template <class V> CT_HD static V slope(V z, V, V) { return slope(z); }
  template <class V> CT_HD static V positive_term(V z) { return term(-z); }
  template <class V> CT_HD static V positive_slope(V z) { return -slope(-z); }
};

template <> struct Functor<Reduce::kRelu> : Linear {  // max(z, 0); the slope at 0 is 0, as in torch
  template <class V> CT_HD static V term(V z) { return vmax(V{}, z); }  // this order keeps NaN
  template <class V> CT_HD static V slope(V z, V, V) {
    return vselect_positive(z, V{} + 1.f, vselect_positive(-z, V{}, z));  // NaN stays NaN
  }
};

template <> struct Functor<Reduce::kLse> : Linear {  // log sum e^z over the kept pairs, as the monoid (peak, total); empty = (-inf, 0)
  template <class V> CT_HD static V slope(V z, V peak, V log_total) { return vexp((z - peak) - log_total); }
};

template <> struct Functor<Reduce::kMax> : Linear {};  // differentiated as a gather of the saved argmax, never by tiles

template <Reduce R> struct ReduceTag {
  static constexpr Reduce value = R;
};
// body(tag) for the reduce, as a constant.
template <class Body> static auto for_reduce(Reduce reduce, Body body) {
  switch (reduce) {
    case Reduce::kSoftplus: return body(ReduceTag<Reduce::kSoftplus>{});
    case Reduce::kRelu: return body(ReduceTag<Reduce::kRelu>{});
    case Reduce::kMax: return body(ReduceTag<Reduce::kMax>{});
    default: return body(ReduceTag<Reduce::kLse>{});
  }
}

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

#pragma once
// Partial statistics of an item and where they lie. Included inside an anonymous namespace after maximum.h and pair.h.
#include "common/place.h"

// One pair, as both sides see it.
struct Pair {
  float z, t;  // t: with a target
  Mark mark;
  float share;  // what a positive counts in its sum
  bool plain;   // it is known to be kept and not positive
};

// A sum of e^z.
struct Exponentials {
  float peak, total;

  CT_HD void clear() {
    peak = -INFINITY;
    total = 0.f;
  }
  CT_HD void add(float z) {
    if (z > peak) {  // NaN is above nothing: it reaches the total, not the peak
      total *= vexp(peak - z);
      peak = z;
    }
    total += vexp(z - finite_part(peak));
  }
  CT_HD void merge(const Exponentials& y) {
    const float top = vmax(y.peak, peak), base = finite_part(top);
    total = total * vexp(peak - base) + y.total * vexp(y.peak - base);
    peak = top;
  }
};

// From one largest z to another. Sums of what lies above it move with it, but those of an item that met nothing.
struct Rise {
  float from, to;

  CT_HD float by() const { return from == -INFINITY ? 0.f : from - to; }
};

// Sums of a target's weights w, of w (z - the largest z) and of w (t - peak). Softmax: w = e^(t - peak); affine: w = t, and the
// peak stays -inf.
struct TargetSums {
  float peak, total, of_z, of_t;

  CT_HD void clear() {
    peak = -INFINITY;
    total = of_z = of_t = 0.f;
  }
  CT_HD void raise(const Rise& z, float top) {
    of_z += total * z.by();
    if (peak == top) return;
    of_t += total * Rise{peak, top}.by();
    const float factor = vexp(peak - top);
    total *= factor;
    of_z *= factor;
    of_t *= factor;
    peak = top;
  }
  CT_HD void add(bool affine, const Rise& rise, float z, float t) {
    raise(rise, affine ? peak : vmax(t, peak));  // this order leaves NaN to the total
    const float base = finite_part(peak), w = affine ? t : vexp(t - base);
    total += w;
    of_z += w * (z - finite_part(rise.to));
    of_t += w * (t - base);
  }
  CT_HD void merge(TargetSums y, const Rise& own, const Rise& other) {
    const float top = vmax(y.peak, peak);
    raise(own, top);
    y.raise(other, top);
    total += y.total;
    of_z += y.of_z;
    of_t += y.of_t;
  }
};

// Numbers of pairs. A block has fewer than 2^31 an item.
struct Counts {
  int32_t kept, positives;

  CT_HD void clear() { kept = positives = 0; }
  CT_HD void add(const Pairs& x, const Pair& p, const Side& side, int64_t k) {
    kept += in_statistic(x, p.z, p.mark, side, k);
    positives += p.mark.positive;
  }
  CT_HD void merge(const Counts& y) {
    kept += y.kept;
    positives += y.positives;
  }
};

// What a partial statistic has beside: nothing; where pairs are counted or positives are apart, these; where there is a target, its
// sums and the counts. A Rise is that of the statistic's largest z.
enum class Extra { kNone, kApart, kTarget };
template <Extra E> struct Beside {
  CT_HD void clear() {}
  CT_HD void add(const Pairs&, const Pair&, const Side&, int64_t, const Rise&) {}
  CT_HD void merge(const Beside&, const Rise&, const Rise&) {}
};
template <> struct Beside<Extra::kApart> {
  Exponentials apart;
  int32_t kept_positives;
  Counts counts;

  CT_HD void clear() {
    apart.clear();
    kept_positives = 0;
    counts.clear();
  }
  CT_HD void add(const Pairs& x, const Pair& p, const Side& side, int64_t k, const Rise&) {
    counts.add(x, p, side, k);
    if (!kept_positive(x, p.z, p.mark, side, k)) return;
    apart.add(p.z);
    ++kept_positives;
  }
  CT_HD void merge(const Beside& y, const Rise&, const Rise&) {
    apart.merge(y.apart);
    kept_positives += y.kept_positives;
    counts.merge(y.counts);
  }
};
template <> struct Beside<Extra::kTarget> {
  TargetSums target;
  Counts counts;

  CT_HD void clear() {
    target.clear();
    counts.clear();
  }
  CT_HD void add(const Pairs& x, const Pair& p, const Side& side, int64_t k, const Rise& rise) {
    counts.add(x, p, side, k);
    if (in_statistic(x, p.z, p.mark, side, k)) target.add(x.target == Target::kAffine, rise, p.z, p.t);
  }
  CT_HD void merge(const Beside& y, const Rise& own, const Rise& other) {
    target.merge(y.target, own, other);
    counts.merge(y.counts);
  }
};

// The index of the largest z, where that is kept.
template <bool ARG> struct Best {
  CT_HD void clear() {}
};
template <> struct Best<true> {
  int64_t arg;
  CT_HD void clear() { arg = -1; }
};

// A partial statistic: a monoid, see merge in monoid.py. Of bases, empty ones take no memory.
template <Reduce R, Extra E> struct PartialStats : Best<Functor<R>::arg>, Beside<E> {
  using F = Functor<R>;
  using More = Beside<E>;
  using Arg = Best<F::arg>;
  static constexpr Extra extra = E;
  Exponentials main;  // as far as R keeps them; the total may be a sum of terms
  float positive;

  CT_HD void clear() {
    main.clear();
    positive = 0.f;
    Arg::clear();
    More::clear();
  }
  // The pair of item k of `side` with the item `index` of the other. Indices grow from call to call: the first maximum stays.
  CT_HD void add(const Pairs& x, const Pair& p, const Side& side, int64_t k, int64_t index) {
    const float before = main.peak;
    add_kept(p.plain ? p.z : side_z(x, p.z, p.mark, side, k), index);
    if (p.mark.positive) positive += p.share * F::positive_term(p.z);
    More::add(x, p, side, k, {before, main.peak});
  }
  CT_HD void add_kept(float z, int64_t index) {
    if constexpr (F::arg) {
      if (above(z, main.peak)) {
        main.peak = z;
        Arg::arg = index;
      }
    } else if constexpr (F::peak) {
      main.add(z);
    } else {
      main.total += F::term(z);
    }
  }
  CT_HD void merge(const PartialStats& y) {
    const float before = main.peak;
    merge_kept(y);
    positive += y.positive;
    More::merge(y, {before, main.peak}, {y.main.peak, main.peak});
  }
  CT_HD void merge_kept(const PartialStats& y) {
    if constexpr (F::arg) {
      if (above(y.main.peak, main.peak) || (!above(main.peak, y.main.peak) && y.arg < Arg::arg)) {
        main.peak = y.main.peak;
        Arg::arg = y.arg;
      }
    } else if constexpr (F::peak) {
      main.merge(y.main);
    } else {
      main.total += y.main.total;
    }
  }
};

// Where partials of one side go, `width` numbers per strip; null = not wanted.
struct Output {
  int64_t *arg, *kept_positives, *kept, *positives;
  float *peak, *total, *positive, *positive_peak, *positive_total, *target_peak, *target_total, *target_z, *target_t;
  int64_t width;

  template <class Stats> CT_HD void store(int64_t strip, int64_t k, const Stats& p) const {
    each(p, [at = strip * width + k](auto* numbers, auto number) { numbers[at] = number; });
  }
  template <class Stats> CT_HD Stats load(int64_t strip, int64_t k) const {
    Stats p;
    p.clear();
    each(p, [at = strip * width + k](auto* numbers, auto& number) { number = numbers[at]; });
    return p;
  }
  // visit(place, number) for each that is wanted
  template <class Stats, class Visit> CT_HD void each(Stats& p, const Visit& visit) const {
    if (peak) visit(peak, p.main.peak);
    if (total) visit(total, p.main.total);
    if (positive) visit(positive, p.positive);
    if constexpr (Stats::F::arg)
      if (arg) visit(arg, p.arg);
    if constexpr (Stats::extra == Extra::kApart) {
      if (positive_peak) visit(positive_peak, p.apart.peak);
      if (positive_total) visit(positive_total, p.apart.total);
      if (kept_positives) visit(kept_positives, p.kept_positives);
    }
    if constexpr (Stats::extra == Extra::kTarget) {
      if (target_peak) visit(target_peak, p.target.peak);
      if (target_total) visit(target_total, p.target.total);
      if (target_z) visit(target_z, p.target.of_z);
      if (target_t) visit(target_t, p.target.of_t);
    }
    if constexpr (Stats::extra != Extra::kNone) {
      if (kept) visit(kept, p.counts.kept);
      if (positives) visit(positives, p.counts.positives);
    }
  }
};
Output output(const Side& side, int64_t width) {
  return {side.arg,
          side.kept_positives,
          side.kept,
          side.positives,
          side.peak,
          side.total,
          side.positive,
          side.positive_peak,
          side.positive_total,
          side.target_peak,
          side.weights ? side.weights : side.target_total,
          side.weighted ? side.weighted : side.target_z,
          side.target_t,
          width};
}
// The same fields as in `like`, `count` strips long, in the workspace, in the order of the struct: those of 8 bytes come first.
Output partials(const Output& like, void* workspace, int64_t count) {
  const int64_t size = count * like.width;
  char* at = (char*)workspace;
  return {room(like.arg, size, at),
          room(like.kept_positives, size, at),
          room(like.kept, size, at),
          room(like.positives, size, at),
          room(like.peak, size, at),
          room(like.total, size, at),
          room(like.positive, size, at),
          room(like.positive_peak, size, at),
          room(like.positive_total, size, at),
          room(like.target_peak, size, at),
          room(like.target_total, size, at),
          room(like.target_z, size, at),
          room(like.target_t, size, at),
          like.width};
}

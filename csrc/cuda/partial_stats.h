#pragma once
// Partial statistics of an item and where they lie. Included inside an anonymous namespace after maximum.h and pair.h.
#include "common/place.h"

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

// What a partial statistic has beside, where positives are apart or pairs are counted. A block has fewer than 2^31 pairs an item.
template <bool MORE> struct Beside {
  CT_HD void clear() {}
  CT_HD void add(const Pairs&, float, Mark, const Side&, int64_t) {}
  CT_HD void merge(const Beside&) {}
};
template <> struct Beside<true> {
  Exponentials apart;
  int32_t kept_positives, kept, positives;

  CT_HD void clear() {
    apart.clear();
    kept_positives = kept = positives = 0;
  }
  CT_HD void add(const Pairs& x, float z, Mark mark, const Side& side, int64_t k) {
    kept += in_statistic(x, z, mark, side, k);
    positives += mark.positive;
    if (!kept_positive(x, z, mark, side, k)) return;
    apart.add(z);
    ++kept_positives;
  }
  CT_HD void merge(const Beside& y) {
    apart.merge(y.apart);
    kept_positives += y.kept_positives;
    kept += y.kept;
    positives += y.positives;
  }
};

// A partial statistic: a monoid, see merge in monoid.py.
template <Reduce R, bool MORE> struct PartialStats : Beside<MORE> {  // a base: an empty one takes no memory
  using F = Functor<R>;
  using More = Beside<MORE>;
  static constexpr bool more = MORE;
  Exponentials main;  // as far as R keeps them; the total may be a sum of terms
  float positive;
  int64_t arg;

  CT_HD void clear() {
    main.clear();
    positive = 0.f;
    arg = -1;
    More::clear();
  }
  // The pair of item k of `side` with the item `index` of the other; it counts `share` in the sum over positives. Indices grow
  // from call to call: the first maximum stays.
  CT_HD void add(const Pairs& x, float z, Mark mark, float share, bool plain, const Side& side, int64_t k, int64_t index) {
    add_kept(plain ? z : side_z(x, z, mark, side, k), index);
    if (mark.positive) positive += share * F::positive_term(z);
    More::add(x, z, mark, side, k);
  }
  CT_HD void add_kept(float z, int64_t index) {
    if constexpr (F::arg) {
      if (above(z, main.peak)) {
        main.peak = z;
        arg = index;
      }
    } else if constexpr (F::peak) {
      main.add(z);
    } else {
      main.total += F::term(z);
    }
  }
  CT_HD void merge(const PartialStats& y) {
    positive += y.positive;
    More::merge(y);
    if constexpr (F::arg) {
      if (above(y.main.peak, main.peak) || (!above(main.peak, y.main.peak) && y.arg < arg)) {
        main.peak = y.main.peak;
        arg = y.arg;
      }
    } else if constexpr (F::peak) {
      main.merge(y.main);
    } else {
      main.total += y.main.total;
    }
  }
};

// Where partials of one side go, `width` numbers per strip; null = not wanted.
struct Target {
  int64_t *arg, *kept_positives, *kept, *positives;
  float *peak, *total, *positive, *positive_peak, *positive_total;
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
    if (arg) visit(arg, p.arg);
    if constexpr (Stats::more) {
      if (positive_peak) visit(positive_peak, p.apart.peak);
      if (positive_total) visit(positive_total, p.apart.total);
      if (kept_positives) visit(kept_positives, p.kept_positives);
      if (kept) visit(kept, p.kept);
      if (positives) visit(positives, p.positives);
    }
  }
};
Target target(const Side& side, int64_t width) {
  return {side.arg,   side.kept_positives, side.kept,          side.positives,      side.peak,
          side.total, side.positive,       side.positive_peak, side.positive_total, width};
}
// The same fields as in `like`, `count` strips long, in the workspace, in the order of the struct: those of 8 bytes come first.
Target partials(const Target& like, void* workspace, int64_t count) {
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
          like.width};
}

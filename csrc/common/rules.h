// Included inside a namespace that has macros.h and `flip`, the negation of a B.
// Which pairs count, for one pair (B is bool) or some at once (B is a vector of 0 and -1).
template <class B> struct Rules {
  B positive, drop;  // dropped for both sides
};

template <class B> CT_HD static Rules<B> rules_of(const Pairs& x, B same_index, B same_id, B masked) {
  B drop = {}, positive = {};
  if (x.keep == Keep::kNotSameIndex) drop = same_index;
  if (x.keep == Keep::kNotSameIndexOrId) drop = same_index | same_id;
  if (x.keep == Keep::kNotSameId) drop = same_id;
  if (x.keep == Keep::kSameId) drop = flip(same_id);
  drop = drop | masked;
  if (x.positives == Positives::kSameIndex) positive = same_index;
  if (x.positives == Positives::kSameId) positive = x.same ? B(same_id & flip(same_index)) : same_id;
  if (x.positives == Positives::kKept) positive = flip(drop);
  if (x.keep_positives) drop = drop & flip(positive);
  return {positive, drop};
}

// Whether every pair of these rows and columns is kept by both sides and none is positive, seen without looking at them.
CT_HD static bool untouched(const Pairs& x, int64_t i, int64_t rows, int64_t j, int64_t cols) {
  if (x.mask || x.row.threshold || x.col.threshold) return false;
  if (x.keep >= Keep::kNotSameId || x.positives >= Positives::kSameId) return false;
  if (x.keep == Keep::kAll && x.positives == Positives::kNone) return true;
  const int64_t diagonal = x.row_origin + i - x.col_origin - j;  // column with the index of the first row
  return diagonal + rows <= 0 || diagonal >= cols;
}

// Included inside a namespace that has macros.h and `flip`, the negation of a B.
// Which pairs count, for one pair (B is bool) or some at once (B is a vector of 0 and -1).
template <class B> struct Facts {  // what tests ask; those that no rule names need not be right
  B same_index, same_id, same_group, shared_label, lower_order, partner;
};
template <class B> struct Rules {
  B positive, drop;       // dropped for both sides
  B drop_from_positives;  // Pairs::split: not among the kept positives
};

// Where every test of the rule holds.
template <class B> CT_HD static B holds(Rule rule, const Facts<B>& f) {
  B fails = {};
  if (has(rule, Test::kSameIndex)) fails = fails | flip(f.same_index);
  if (has(rule, Test::kOtherIndex)) fails = fails | f.same_index;
  if (has(rule, Test::kSameId)) fails = fails | flip(f.same_id);
  if (has(rule, Test::kOtherId)) fails = fails | f.same_id;
  if (has(rule, Test::kSameGroup)) fails = fails | flip(f.same_group);
  if (has(rule, Test::kOtherGroup)) fails = fails | f.same_group;
  if (has(rule, Test::kSharedLabel)) fails = fails | flip(f.shared_label);
  if (has(rule, Test::kNoSharedLabel)) fails = fails | f.shared_label;
  if (has(rule, Test::kLowerOrder)) fails = fails | flip(f.lower_order);
  if (has(rule, Test::kPartner)) fails = fails | flip(f.partner);
  if (has(rule, Test::kNoPartner)) fails = fails | f.partner;
  return flip(fails);
}

template <class B> CT_HD static Rules<B> rules_of(const Pairs& x, const Facts<B>& facts, B masked) {
  B drop = masked, positive = {};
  if (bits(x.keep)) drop = drop | flip(holds(x.keep, facts));
  if (bits(x.positives)) positive = has(x.positives, Test::kKept) ? B(flip(drop)) : holds(x.positives, facts);
  if (x.keep_positives) drop = drop & flip(positive);
  if (!x.split) return {positive, drop, B{}};
  return {positive, B(drop | positive), B(drop | flip(positive))};
}

constexpr int32_t of_partners = bit(Test::kPartner) | bit(Test::kNoPartner);

// Whether a rule or a limit is there that looks at more than indices.
CT_HD static bool looks_at_pairs(const Pairs& x) {
  const int32_t of_indices = bit(Test::kSameIndex) | bit(Test::kOtherIndex) | of_partners;
  return x.mask || x.row.low || x.row.high || x.col.low || x.col.high || ((bits(x.keep) | bits(x.positives)) & ~of_indices);
}

// Whether pairs off the diagonal that are no partners are all kept by both sides and none is positive.
CT_HD static bool plain_off_diagonal(const Pairs& x) {
  const bool partners_alone = has(x.keep, Test::kPartner) || has(x.positives, Test::kNoPartner);
  const bool others = has(x.positives, Test::kOtherIndex) && !has(x.positives, Test::kPartner);
  return !looks_at_pairs(x) && !has(x.keep, Test::kSameIndex) && !others && !partners_alone;
}

// Whether one of these rows has a partner among these columns.
CT_HD static bool partner_among(const Pairs& x, int64_t i, int64_t rows, int64_t j, int64_t cols) {
  if (!((bits(x.keep) | bits(x.positives)) & of_partners)) return false;
  for (int64_t k = i * x.partners; k < (i + rows) * x.partners; ++k) {
    const int64_t column = x.partner[k] - x.col_origin - j;
    if (column >= 0 && column < cols) return true;
  }
  return false;
}

// Whether every pair of these rows and columns is kept by both sides and none is positive, seen without looking at them.
CT_HD static bool untouched(const Pairs& x, int64_t i, int64_t rows, int64_t j, int64_t cols) {
  if (!plain_off_diagonal(x)) return false;
  if (!bits(x.keep) && !bits(x.positives)) return true;
  const int64_t diagonal = x.row_origin + i - x.col_origin - j;  // column with the index of the first row
  return (diagonal + rows <= 0 || diagonal >= cols) && !partner_among(x, i, rows, j, cols);
}

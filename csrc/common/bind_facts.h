#pragma once
// What Python states again, in spec.py, and a test compares: the names of enumerations, and what each reduce keeps and allows.
#include "common/bind_fields.h"
#include "common/macros.h"
#include "common/pairs.h"

namespace {
#include "common/functors.h"
}

static py::dict enumerations() {
  py::dict names;
  names["Test"] = names_of(Test{});
  names["Reduce"] = names_of(Reduce{});
  names["Score"] = names_of(Score{});
  names["Target"] = names_of(Target{});
  return names;
}

static py::list reduce_traits() {  // in the order of Reduce
  py::list traits;
  for (int k = 0; k < count_of(Reduce{}); ++k)
    traits.append(for_reduce((Reduce)k, [](auto tag) {
      using F = Functor<decltype(tag)::value>;
      py::dict of;
      of["peak"] = F::peak;
      of["total"] = F::total;
      of["arg"] = F::arg;
      of["additive"] = F::additive;
      return of;
    }));
  return traits;
}

static void bind_facts(py::module_& m) {
  m.attr("enumerations") = enumerations();
  m.attr("traits") = reduce_traits();
}

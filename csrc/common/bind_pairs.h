#pragma once
// Python's view of Pairs and Side, for every native module. Classes are local to their module: two modules have a Side.
#include <pybind11/pybind11.h>

#include <string>

#include "common/pairs.h"

namespace py = pybind11;

template <class T, class Owner, class Base> static void pointer(py::class_<Owner>& cls, const char* name, T* Base::*member) {
  cls.def_property(
      name, [member](const Owner& x) { return (uintptr_t)(x.*member); },
      [member](Owner& x, uintptr_t address) { x.*member = (T*)address; });
}

// A number beyond `last` is one that only Python knows: the kernels would take it for another.
template <class E, class Owner, class Base>
static void enumeration(py::class_<Owner>& cls, const char* name, E Base::*member, E last) {
  cls.def_property(
      name, [member](const Owner& x) { return (int)(x.*member); },
      [member, last, name](Owner& x, int value) {
        if (value < 0 || value > (int)last) throw py::value_error(std::string(name) + " has no number " + std::to_string(value));
        x.*member = (E)value;
      });
}

static void bind_side(py::module_& m) {
  py::class_<Side> side(m, "Side", py::module_local());
  side.def(py::init<>());
  side.def_readwrite("on", &Side::on);
  pointer(side, "threshold", &Side::threshold);
  pointer(side, "peak", &Side::peak);
  pointer(side, "total", &Side::total);
  pointer(side, "positive", &Side::positive);
  pointer(side, "arg", &Side::arg);
  pointer(side, "stat", &Side::stat);
  pointer(side, "weight", &Side::weight);
  pointer(side, "positive_weight", &Side::positive_weight);
  pointer(side, "grad_sum", &Side::grad_sum);
  pointer(side, "grad_score_sum", &Side::grad_score_sum);
}

template <class Owner> static void bind_pairs(py::class_<Owner>& block) {
  block.def_readwrite("directions", &Pairs::directions).def_readwrite("n", &Pairs::n).def_readwrite("m", &Pairs::m);
  block.def_readwrite("row_origin", &Pairs::row_origin).def_readwrite("col_origin", &Pairs::col_origin);
  pointer(block, "row_scale", &Pairs::row_scale);
  pointer(block, "col_scale", &Pairs::col_scale);
  pointer(block, "row_bias", &Pairs::row_bias);
  pointer(block, "col_bias", &Pairs::col_bias);
  enumeration(block, "score", &Pairs::score, Score::kLogDistance);
  block.def_readwrite("offset", &Pairs::offset).def_readwrite("floor", &Pairs::floor);
  pointer(block, "row_norm", &Pairs::row_norm);
  pointer(block, "col_norm", &Pairs::col_norm);
  pointer(block, "row_ids", &Pairs::row_ids);
  pointer(block, "col_ids", &Pairs::col_ids);
  pointer(block, "mask", &Pairs::mask);
  block.def_readwrite("mask_stride", &Pairs::mask_stride);
  enumeration(block, "keep", &Pairs::keep, Keep::kNotSameIndexOrId);
  enumeration(block, "positives", &Pairs::positives, Positives::kKept);
  block.def_readwrite("keep_positives", &Pairs::keep_positives).def_readwrite("same", &Pairs::same);
  enumeration(block, "reduce", &Pairs::reduce, Reduce::kMax);
  block.def_readwrite("row", &Pairs::row).def_readwrite("col", &Pairs::col);
  pointer(block, "scores", &Pairs::scores);
  block.def_readwrite("score_stride", &Pairs::score_stride).def_readwrite("score_direction", &Pairs::score_direction);
  pointer(block, "grad", &Pairs::grad);
  block.def_readwrite("grad_stride", &Pairs::grad_stride).def_readwrite("grad_direction", &Pairs::grad_direction);
  enumeration(block, "grad_type", &Pairs::grad_type, GradType::kHalf);
  pointer(block, "factor", &Pairs::factor);
}

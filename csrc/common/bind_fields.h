#pragma once
// Structs of fields.h across the border: Python fills them in memory of its own, of which it learns the layout here; a call copies
// the struct and looks at its enumerations. One crossing per call, whatever the number of fields.
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>

namespace py = pybind11;

// The letter of Python's struct module.
template <class T> static constexpr char letter_of() {
  if constexpr (std::is_array_v<T>) return letter_of<std::remove_extent_t<T>>();
  else if constexpr (std::is_pointer_v<T>) return 'P';
  else if constexpr (std::is_enum_v<T> || std::is_same_v<T, int32_t>) return 'i';
  else if constexpr (std::is_same_v<T, int64_t>) return 'q';
  else if constexpr (std::is_same_v<T, float>) return 'f';
  else return static_cast<char>(std::enable_if_t<std::is_same_v<T, bool>, int>('?'));
}

// (bytes of a fresh struct, fields), a field being (name, letter or the description of a struct, offset, numbers in it).
template <class X> static py::tuple layout() {
  static_assert(std::is_trivially_copyable_v<X>);
  const X fresh;
  py::list fields;
  X::each_field(fresh, [&](const char* name, const auto& field) {
    using T = std::remove_const_t<std::remove_reference_t<decltype(field)>>;
    const std::ptrdiff_t offset = (const char*)&field - (const char*)&fresh;
    const size_t count = std::is_array_v<T> ? std::extent_v<T> : 1;
    if constexpr (std::is_class_v<T>) fields.append(py::make_tuple(name, layout<T>(), offset, count));
    else fields.append(py::make_tuple(name, std::string(1, letter_of<T>()), offset, count));
  });
  return py::make_tuple(py::bytes((const char*)&fresh, sizeof fresh), py::tuple(fields));
}

// A number beyond an enumeration is one that only Python knows: the kernels would take it for another.
template <class X> static void check_enumerations(const X& x) {
  X::each_field(x, [](const char* name, const auto& field) {
    using T = std::remove_const_t<std::remove_reference_t<decltype(field)>>;
    if constexpr (std::is_class_v<T>) check_enumerations(field);
    if constexpr (std::is_enum_v<T>)
      if ((int)field < 0 || (int)field >= count_of(T{}))
        throw py::value_error(std::string(name) + " has no number " + std::to_string((int)field));
  });
}

// The struct in an object's memory.
template <class X> static X taken(const py::object& from) {
  Py_buffer view;
  if (PyObject_GetBuffer(from.ptr(), &view, PyBUF_SIMPLE)) throw py::error_already_set();
  X x;
  const bool fits = view.len == (Py_ssize_t)sizeof x;
  if (fits) std::memcpy((void*)&x, view.buf, sizeof x);
  PyBuffer_Release(&view);
  if (!fits) throw py::type_error("another struct was expected, of " + std::to_string(sizeof x) + " bytes");
  check_enumerations(x);
  return x;
}

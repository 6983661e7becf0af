// contrastile._cuda. The import calls nothing in the driver, so it works on machines without one.
#include <pybind11/pybind11.h>
#include <stdexcept>
#include <string>
#include "common/bind_facts.h"
#include "common/bind_fields.h"
#include "cuda/api.h"

static void check(int error) {
  if (error) throw std::runtime_error(std::string(cuda_error_name(error)) + ": " + cuda_error_string(error));
}

static py::tuple device_count() {
  int count = 0;
  const int error = cuda_device_count(&count);
  return py::make_tuple(error ? 0 : count, error, cuda_error_name(error));
}

static py::tuple versions() {
  int runtime = 0, driver = 0;
  check(cuda_runtime_version(&runtime));
  check(cuda_driver_version(&driver));
  return py::make_tuple(runtime, driver);
}

static py::tuple device_properties(int device) {
  DeviceProperties found;
  check(cuda_device_properties(device, &found));
  return py::make_tuple(found.name, py::make_tuple(found.major, found.minor), found.total_memory, found.multiprocessor_count);
}

static void check_launch(const Status& status) {
  if (!status.error) return;
  throw std::runtime_error(std::string(status.kernel) + ": " + cuda_error_name(status.error) + ": " +
                           cuda_error_string(status.error));
}

// A function of Python's that copies the struct and launches.
template <class X> static auto launcher(Status (*function)(const X&)) {
  return [function](const py::object& from) { check_launch(function(taken<X>(from))); };
}
static auto workspace(int64_t (*function)(const DeviceBlock&)) {
  return [function](const py::object& from) { return function(taken<DeviceBlock>(from)); };
}

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.attr("archs") = CONTRASTILE_CUDA_ARCHS;
  m.def("device_count", device_count, "(count, error code, error name); never raises, so that callers can say why.");
  m.def("versions", versions, "(runtime linked in, newest runtime the driver serves), e.g. (13000, 0) without a driver.");
  m.def("device_properties", device_properties, py::arg("device"),
        "(name, (major, minor), total memory in bytes, multiprocessors); raises RuntimeError.");
  py::dict structs;
  structs["Side"] = layout<Side>();
  structs["Block"] = layout<DeviceBlock>();
  structs["VectorSets"] = layout<VectorSets>();
  structs["ScoreSegments"] = layout<ScoreSegments>();
  m.attr("structs") = structs;
  bind_facts(m);
  m.attr("largest_set") = LARGEST_SET;
  m.attr("largest_width") = LARGEST_WIDTH;
  m.def("stats_workspace", workspace(stats_workspace), py::arg("block"));
  m.def("score_grad_workspace", workspace(score_grad_workspace), py::arg("block"));
  m.def("small_call_workspace", workspace(small_call_workspace), py::arg("block"));
  m.def("stats", launcher(stats), py::arg("block"));
  m.def("score_grad", launcher(score_grad), py::arg("block"));
  m.def("small_call", launcher(small_call), py::arg("block"));
#ifndef CONTRASTILE_CUDA_WITHOUT_BASIS
  m.def("basis", launcher(basis), py::arg("sets"));
  m.def("basis_backward", launcher(basis_backward), py::arg("sets"));
#endif
  m.def("segment_maxima", launcher(segment_maxima), py::arg("segments"));
  m.def("segment_softmax", launcher(segment_softmax), py::arg("segments"));
  m.def("segment_score_grad", launcher(segment_score_grad), py::arg("segments"));
  m.def("error_name", cuda_error_name, py::arg("code"));
  m.def("error_string", cuda_error_string, py::arg("code"));
}

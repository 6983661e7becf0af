// contrastile._cuda. The import calls nothing in the driver, so it works on machines without one.
#include <pybind11/pybind11.h>
#include <stdexcept>
#include <string>
#include "common/bind_pairs.h"
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
  return py::make_tuple(found.name, py::make_tuple(found.major, found.minor), found.total_memory,
                        found.multiprocessor_count);
}

static void check_launch(const Status& status) {
  if (!status.error) return;
  throw std::runtime_error(std::string(status.kernel) + ": " + cuda_error_name(status.error) + ": " +
                           cuda_error_string(status.error));
}

static void bind_block(py::module_& m) {
  py::class_<DeviceBlock> block(m, "Block", py::module_local());
  block.def(py::init<>());
  bind_pairs(block);
  pointer(block, "workspace", &DeviceBlock::workspace);
  pointer(block, "loss", &DeviceBlock::loss);
  pointer(block, "stream", &DeviceBlock::stream);
  block.def_readwrite("device", &DeviceBlock::device);
}

static void add_vector(VectorSets& x, uintptr_t vector, int64_t stride, uintptr_t grad) {
  if (x.size == LARGEST_SET) throw std::length_error("a set has at most " + std::to_string(LARGEST_SET) + " vectors");
  x.vector[x.size] = (const void*)vector;
  x.stride[x.size] = stride;
  x.grad[x.size++] = (void*)grad;
}

static void bind_sets(py::module_& m) {
  py::class_<VectorSets> sets(m, "VectorSets", py::module_local());
  sets.def(py::init<>());
  sets.def("add", add_vector, py::arg("vector"), py::arg("stride"), py::arg("grad"));
  enumeration(sets, "type", &VectorSets::type, Element::kFloat16);
  sets.def_readwrite("count", &VectorSets::count);
  sets.def_readwrite("samples", &VectorSets::samples).def_readwrite("width", &VectorSets::width);
  pointer(sets, "directions", &VectorSets::directions);
  pointer(sets, "lengths", &VectorSets::lengths);
  pointer(sets, "stream", &VectorSets::stream);
  sets.def_readwrite("device", &VectorSets::device);
}

static void bind_segments(py::module_& m) {
  py::class_<ScoreSegments> segments(m, "ScoreSegments", py::module_local());
  segments.def(py::init<>());
  segments.def_readwrite("rows", &ScoreSegments::rows).def_readwrite("stride", &ScoreSegments::stride);
  segments.def_readwrite("count", &ScoreSegments::count);
  pointer(segments, "scores", &ScoreSegments::scores);
  pointer(segments, "offsets", &ScoreSegments::offsets);
  pointer(segments, "mask", &ScoreSegments::mask);
  pointer(segments, "values", &ScoreSegments::values);
  pointer(segments, "args", &ScoreSegments::args);
  pointer(segments, "stream", &ScoreSegments::stream);
  segments.def_readwrite("device", &ScoreSegments::device);
}

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.attr("archs") = CONTRASTILE_CUDA_ARCHS;
  m.def("device_count", device_count, "(count, error code, error name); never raises, so that callers can say why.");
  m.def("versions", versions, "(runtime linked in, newest runtime the driver serves), e.g. (13000, 0) without a driver.");
  m.def("device_properties", device_properties, py::arg("device"),
        "(name, (major, minor), total memory in bytes, multiprocessors); raises RuntimeError.");
  bind_side(m);
  bind_block(m);
  bind_sets(m);
  bind_segments(m);
  m.attr("largest_set") = LARGEST_SET;
  m.attr("largest_width") = LARGEST_WIDTH;
  m.def("stats_workspace", stats_workspace, py::arg("block"));
  m.def("score_grad_workspace", score_grad_workspace, py::arg("block"));
  m.def("small_call_workspace", small_call_workspace, py::arg("block"));
  m.def("stats", [](const DeviceBlock& block) { check_launch(stats(block)); });
  m.def("score_grad", [](const DeviceBlock& block) { check_launch(score_grad(block)); });
  m.def("small_call", [](const DeviceBlock& block) { check_launch(small_call(block)); });
#ifndef CONTRASTILE_CUDA_WITHOUT_BASIS
  m.def("basis", [](const VectorSets& sets) { check_launch(basis(sets)); });
  m.def("basis_backward", [](const VectorSets& sets) { check_launch(basis_backward(sets)); });
#endif
  m.def("segment_max", [](const ScoreSegments& segments) { check_launch(segment_max(segments)); });
  m.def("error_name", cuda_error_name, py::arg("code"));
  m.def("error_string", cuda_error_string, py::arg("code"));
}

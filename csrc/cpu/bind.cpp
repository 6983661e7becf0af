// Python module contrastile._cpu: picks the instruction set once, checks nothing (the Python layer does), keeps no state.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include "common/bind_facts.h"
#include "common/bind_fields.h"
#include "cpu/block.h"
#if defined(CONTRASTILE_NEONBF16)
#include "cpu/arm.h"
namespace neonbf16 { extern const Kernels kernels; }
#endif

namespace generic { extern const Kernels kernels; }
#if defined(CONTRASTILE_X86)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#if defined(CONTRASTILE_AVX512BF16)
namespace avx512bf16 { extern const Kernels kernels; }
#endif
#endif

static bool forked = false;  // libgomp's pool does not survive fork(): a parallel region in the child would hang

static std::vector<const Kernels*> supported_kernels() {  // weakest first
  std::vector<const Kernels*> found = {&generic::kernels};
#if defined(CONTRASTILE_X86)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return found;
  found.push_back(&avx2::kernels);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl"))
    return found;
  found.push_back(&avx512::kernels);
#if defined(CONTRASTILE_AVX512BF16)
  if (__builtin_cpu_supports("avx512bf16")) found.push_back(&avx512bf16::kernels);
#endif
#endif
#if defined(CONTRASTILE_NEONBF16)
  if (has_bf16_pairs()) found.push_back(&neonbf16::kernels);
#endif
  return found;
}

static const Kernels& kernels() {  // CONTRASTILE_CPU_ISA can only lower the level; it exists for tests
  static const Kernels* chosen = [] {
    const auto found = supported_kernels();
    const char* wanted = std::getenv("CONTRASTILE_CPU_ISA");
    for (const Kernels* k : found)
      if (wanted && std::string(wanted) == k->isa) return k;
    if (wanted) throw std::runtime_error(std::string("CONTRASTILE_CPU_ISA=") + wanted + " is not supported here");
    return found.back();
  }();
  return *chosen;
}

struct NoMemory : std::bad_alloc {  // Python: MemoryError
  const char* what() const noexcept override { return "contrastile: no memory for the working buffers of a CPU kernel"; }
};
static void granted(bool memory) {
  if (!memory) throw NoMemory();
}

// Asks for large pages where memory is that of one mapping of the C library: less goes into faults and look-ups of pages.
static void use_large_pages(uintptr_t data, uintptr_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t PAGE = 1 << 21, LARGEST_ON_HEAP = 32 << 20;  // of glibc
  const uintptr_t first = (data + PAGE - 1) / PAGE * PAGE, last = (data + bytes) / PAGE * PAGE;
  if (bytes > LARGEST_ON_HEAP) madvise((void*)first, last - first, MADV_HUGEPAGE);  // where there are none, nothing happens
#endif
}

// Runs a kernel on the structs of a list: one block, or slices.
static void run(bool (*Kernels::*kernel)(const Block*, int), const py::list& from) {
  if (from.size() < 1 || from.size() > MOST_SLICES) throw py::value_error("too few or too many slices");
  std::vector<Block> blocks;
  for (const auto& x : from) {
    blocks.push_back(taken<Block>(py::reinterpret_borrow<py::object>(x)));
    if (forked) blocks.back().threads = 1;
  }
  py::gil_scoped_release release;
  granted((kernels().*kernel)(blocks.data(), (int)blocks.size()));
}

static auto segments(bool (*Kernels::*kernel)(const SegmentScores&)) {
  return [kernel](const py::object& from) {
    SegmentScores x = taken<SegmentScores>(from);
    if (forked) x.threads = 1;
    py::gil_scoped_release release;
    granted((kernels().*kernel)(x));
  };
}

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
  py::dict structs;
  structs["Side"] = layout<Side>();
  structs["Block"] = layout<Block>();
  structs["SmallColumns"] = layout<SmallColumns>();
  structs["SmallWeight"] = layout<SmallWeight>();
  structs["SmallCall"] = layout<SmallCall>();
  structs["SegmentScores"] = layout<SegmentScores>();
  m.attr("structs") = structs;
  bind_facts(m);
  m.def("isa", [] { return kernels().isa; });
  m.def("supported_isas", [] {
    py::list names;
    for (const Kernels* k : supported_kernels()) names.append(k->isa);
    return names;
  });
  m.def("native_bf16", [] { return kernels().native_bf16; });
  m.def("column_padding", [] { return kernels().column_padding; });
  m.def(
      "packed_bytes", [](int64_t cols, int64_t d, int dtype) { return kernels().packed_bytes(cols, d, (DType)dtype); },
      py::arg("m"), py::arg("d"), py::arg("dtype"));
  m.def(
      "pack",
      [](uintptr_t b, int64_t cols, int64_t d, int dtype, uintptr_t out, int threads) {
        py::gil_scoped_release release;
        kernels().pack((const void*)b, cols, d, (DType)dtype, (void*)out, forked ? 1 : threads);
      },
      py::arg("b"), py::arg("m"), py::arg("d"), py::arg("dtype"), py::arg("out"), py::arg("threads"));
  m.def("use_large_pages", use_large_pages, py::arg("data"), py::arg("bytes"));
  m.def("stats", [](const py::list& blocks) { run(&Kernels::stats, blocks); });
  m.def("score_grad", [](const py::list& blocks) { run(&Kernels::score_grad, blocks); });
  m.attr("most_slices") = MOST_SLICES;
  m.def("small_call", [](const py::object& from) {
    SmallCall problem = taken<SmallCall>(from);
    if (forked) problem.block.threads = 1;
    py::gil_scoped_release release;
    granted(kernels().small_call(problem));
  });
  m.def("segment_maxima", segments(&Kernels::segment_maxima));
  m.def("segment_softmax", segments(&Kernels::segment_softmax));
  m.def("segment_score_grad", segments(&Kernels::segment_score_grad));
  m.def("segment_max_gradients", segments(&Kernels::segment_max_gradients));
  m.attr("largest_basis") = LARGEST_BASIS;
  m.def(
      "basis",
      [](const py::list& vectors, const py::list& grads, int64_t samples, int64_t d, bool exact, int count, uintptr_t directions,
         uintptr_t lengths, int threads) {
        if (vectors.size() > LARGEST_BASIS) throw py::value_error("too many vectors");
        Basis x = {{},
                   {},
                   (int)vectors.size(),
                   count,
                   samples,
                   d,
                   exact,
                   grads.size() > 0,
                   (float*)directions,
                   (float*)lengths,
                   forked ? 1 : threads};
        for (size_t s = 0; s < vectors.size(); ++s) x.vectors[s] = (const float*)vectors[s].cast<uintptr_t>();
        for (size_t s = 0; s < grads.size(); ++s) x.grads[s] = (float*)grads[s].cast<uintptr_t>();
        py::gil_scoped_release release;
        granted(kernels().basis(x));
      },
      py::arg("vectors"), py::arg("grads"), py::arg("samples"), py::arg("d"), py::arg("exact"), py::arg("count"),
      py::arg("directions"), py::arg("lengths"), py::arg("threads"));
  m.def(
      "gemm",
      [](uintptr_t a, int64_t a_row, int64_t a_col, uintptr_t b, int64_t b_row, int64_t b_col, uintptr_t c, int64_t c_row,
         int64_t rows, int64_t cols, int64_t k, int dtype, int threads, bool add) {
        py::gil_scoped_release release;
        granted(kernels().gemm({(const void*)a, a_row, a_col}, {(const void*)b, b_row, b_col}, (float*)c, c_row, rows, cols, k,
                               (DType)dtype, forked ? 1 : threads, add));
      },
      py::arg("a"), py::arg("a_row"), py::arg("a_col"), py::arg("b"), py::arg("b_row"), py::arg("b_col"), py::arg("c"),
      py::arg("c_row"), py::arg("m"), py::arg("n"), py::arg("k"), py::arg("dtype"), py::arg("threads"), py::arg("add"));
}

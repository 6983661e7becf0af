#pragma once
// The boundary between nvcc (*.cu) and the host compiler (bind.cpp): plain types, so no pybind11 header meets nvcc.
// Only device queries so far. The pair kernels (stats, coeff) are not written yet; they join this file.
#include <cstddef>

struct DeviceProperties {
  char name[256];
  int major, minor;          // compute capability
  size_t total_memory;       // bytes
  int multiprocessor_count;
};

// All but the error texts return a cudaError_t; 0 is success.
int cuda_device_count(int* count);
int cuda_runtime_version(int* version);  // e.g. 13000
int cuda_driver_version(int* version);   // newest runtime that the driver serves; 0 without a driver
int cuda_device_properties(int device, DeviceProperties* properties);
const char* cuda_error_name(int error);
const char* cuda_error_string(int error);

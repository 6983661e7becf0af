// Device queries through the statically linked CUDA runtime.
#include <cuda_runtime.h>
#include <cstring>
#include "cuda/api.h"

int cuda_device_count(int* count) { return cudaGetDeviceCount(count); }
int cuda_runtime_version(int* version) { return cudaRuntimeGetVersion(version); }
int cuda_driver_version(int* version) { return cudaDriverGetVersion(version); }

int cuda_device_properties(int device, DeviceProperties* properties) {
  cudaDeviceProp found;
  if (cudaError_t error = cudaGetDeviceProperties(&found, device)) return error;
  static_assert(sizeof found.name == sizeof properties->name, "the name must fit");
  std::memcpy(properties->name, found.name, sizeof found.name);
  properties->major = found.major;
  properties->minor = found.minor;
  properties->total_memory = found.totalGlobalMem;
  properties->multiprocessor_count = found.multiProcessorCount;
  return cudaSuccess;
}

const char* cuda_error_name(int error) { return cudaGetErrorName((cudaError_t)error); }
const char* cuda_error_string(int error) { return cudaGetErrorString((cudaError_t)error); }

// Device addresses and streams as Python gives them: whole numbers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace edgepose::bindings {

using Address = std::uintptr_t;

inline cudaStream_t stream_of(Address handle) { return reinterpret_cast<cudaStream_t>(handle); }

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace edgepose::bindings

// The kernels on the device, as the bindings see them. All pointers are device pointers to packed arrays, and
// all work is put on the stream: nothing waits, allocates or is checked here. `edgepose/kernels/reference.py`
// specifies what each kernel returns.
#pragma once

#include <cuda_runtime.h>

#include "../core/kernels.hpp"

namespace edgepose::cuda {

// order: joints indices; flipped has the layout of maps, whose count is a multiple of joints;
// out: like the maps, single precision, may be the maps themselves.
void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out, cudaStream_t stream);

}  // namespace edgepose::cuda

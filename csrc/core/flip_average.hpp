#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out);

}  // namespace edgepose::EDGEPOSE_ISA

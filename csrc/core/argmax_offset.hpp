#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

void argmax_offset(const Maps& maps, Refine refine, float* coords, float* scores);
void quarter_offset(const Maps& maps, const float* coords, float* out);

}  // namespace edgepose::EDGEPOSE_ISA

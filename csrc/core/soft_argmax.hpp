#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

void soft_argmax(const Maps& maps, float beta, float* coords, float* scores, float* covariance);

}  // namespace edgepose::EDGEPOSE_ISA

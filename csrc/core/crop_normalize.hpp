#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

void crop_normalize(const Image& image, const double* affine, std::size_t count, const CropOptions& options,
                    float* out);

}  // namespace edgepose::EDGEPOSE_ISA

#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

void crop_pixels(const Image& image, const double* affine, std::size_t count, int height, int width, bool rgb,
                 std::uint8_t* out);

}  // namespace edgepose::EDGEPOSE_ISA

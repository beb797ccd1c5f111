// The kernels of one instruction set.
#include "argmax_offset.hpp"
#include "crop_normalize.hpp"
#include "flip_average.hpp"
#include "soft_argmax.hpp"

namespace edgepose::EDGEPOSE_ISA {

extern const KernelTable kernels;
const KernelTable kernels{crop_normalize, soft_argmax, argmax_offset, quarter_offset, flip_average};

}  // namespace edgepose::EDGEPOSE_ISA

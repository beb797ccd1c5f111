// The kernels of one instruction set.
#include "argmax_offset.hpp"
#include "crop_normalize.hpp"
#include "crop_pixels.hpp"
#include "flip_average.hpp"
#include "group.hpp"
#include "pose_maps.hpp"
#include "soft_argmax.hpp"

namespace edgepose::EDGEPOSE_ISA {

extern const KernelTable kernels;
const KernelTable kernels{crop_normalize, crop_pixels,        soft_argmax, argmax_offset, quarter_offset,
                          flip_average,   aggregate_nms_topk, group,       adjust,        refine};

}  // namespace edgepose::EDGEPOSE_ISA

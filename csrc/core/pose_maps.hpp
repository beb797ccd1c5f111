// Peaks of a bottom-up network's final heatmaps, and what else is read from its maps.
#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

std::size_t aggregate_nms_topk(const PoseMaps& maps, const PeakOptions& options, const Peaks& out,
                               void* scratch);
std::size_t adjust(const PoseMaps& maps, const Persons& persons, void* scratch);
std::size_t refine(const PoseMaps& maps, const Persons& persons, void* scratch);

}  // namespace edgepose::EDGEPOSE_ISA

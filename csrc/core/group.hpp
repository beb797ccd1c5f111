// Peaks put together to persons, as edgepose/kernels/reference_grouping.py specifies it.
#pragma once

#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

std::size_t group(const Peaks& peaks, const GroupOptions& options, Persons& out, bool* truncated,
                  void* scratch);

}  // namespace edgepose::EDGEPOSE_ISA

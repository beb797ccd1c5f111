// The kernels of bottom-up networks, as Python calls them.
#pragma once

#include "arrays.hpp"

namespace edgepose::bindings {

void define_pose_maps(py::module_& m, const KernelTable& (*kernels)());

}  // namespace edgepose::bindings

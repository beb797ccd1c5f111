// The bottom-up kernels of the Python module _cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace edgepose::bindings {

void define_cuda_pose_maps(pybind11::module_& m);

}  // namespace edgepose::bindings

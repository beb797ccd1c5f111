// Checks of the arguments that come from Python, with the same meaning as edgepose/kernels/_checks.py.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace edgepose::bindings {

namespace py = pybind11;

using FloatArray = py::array_t<float>;
using ByteArray = py::array_t<std::uint8_t>;
using Shape = std::vector<py::ssize_t>;

// Raises edgepose.errors.InvalidInputError.
[[noreturn]] void reject(const std::string& name, const std::string& found, const std::string& wanted);
// What was found, for a message.
std::string describe(py::handle value);

// A checked argument: the array stays alive, packed and aligned for as long as this does.
struct MapsArgument {
  py::array array;
  py::ssize_t n, k;
  Maps maps;
};

// `like`, when given, is a checked stack whose dtype and shape it must have.
MapsArgument maps_argument(const char* name, py::handle value, const MapsArgument* like = nullptr);
// Maps (k, h, w) of single or half precision, packed.
py::array joint_maps_argument(const char* name, py::handle value);
Maps joint_maps_of(const py::array& array);
py::array image_argument(const char* name, py::handle value);
Image image_of(const py::array& array);
py::array affine_argument(const char* name, py::handle value);
py::array coordinates_argument(const char* name, py::handle value, const Shape& shape);
std::array<int, 2> size_argument(const char* name, py::handle value);
std::array<double, 3> numbers_argument(const char* name, py::handle value, bool positive, bool scalar);
float beta_argument(py::handle value);
bool switch_argument(const char* name, py::handle value);
Refine refine_argument(py::handle value);

// An out= array, or a new one for None. It must not share memory with `inputs`.
FloatArray output(const std::string& name, py::handle value, const Shape& shape,
                  const std::vector<py::handle>& inputs);
ByteArray byte_output(const std::string& name, py::handle value, const Shape& shape,
                      const std::vector<py::handle>& inputs);

struct NamedShape {
  const char* name;
  Shape shape;
};

// A tuple of out= arrays, or new ones for None.
std::vector<FloatArray> outputs(py::handle value, const std::vector<NamedShape>& shapes, py::handle input);

}  // namespace edgepose::bindings

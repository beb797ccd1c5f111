#include "arrays.hpp"

#include <cmath>
#include <cstdint>

namespace edgepose::bindings {

namespace {

constexpr py::ssize_t kMaxSide = 1 << 24;
constexpr double kMaxAffine = 1e9;
constexpr double kMinBeta = 1e-9, kMaxBeta = 1e9;

std::string text(const Shape& shape) {
  std::string result = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    result += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return result + (shape.size() == 1 ? ",)" : ")");
}

bool is_array(py::handle value) { return py::isinstance<py::array>(value); }

py::array as_array(py::handle value) { return py::reinterpret_borrow<py::array>(value); }

char type_code(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() == '>' || (dtype.byteorder() == '<' && PY_BIG_ENDIAN)) return 0;
  return dtype.char_();
}

bool has_shape(const py::array& array, const Shape& shape) {
  if (array.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (array.shape(static_cast<py::ssize_t>(i)) != shape[i]) return false;
  }
  return true;
}

constexpr int kPacked =
    py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

py::array packed(py::array array) {
  if ((array.flags() & kPacked) == kPacked) return array;
  return py::module_::import("numpy")
      .attr("require")(array, py::none(), py::make_tuple("C", "A"))
      .cast<py::array>();
}

struct Bounds {
  std::intptr_t begin, end;
};

// First byte of an array and the one after its last.
Bounds bounds(const py::array& array) {
  const auto start = reinterpret_cast<std::intptr_t>(array.data());
  Bounds result{start, start + array.itemsize()};
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    if (array.shape(i) == 0) return {start, start};
    const std::intptr_t reach = (array.shape(i) - 1) * array.strides(i);
    (reach < 0 ? result.begin : result.end) += reach;
  }
  return result;
}

bool overlap(const py::array& a, const py::array& b) {
  const Bounds x = bounds(a), y = bounds(b);
  return x.begin < y.end && y.begin < x.end && x.begin < x.end && y.begin < y.end;
}

bool number(py::handle value, double& result) {
  result = PyFloat_AsDouble(value.ptr());
  if (result == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  return true;
}

void check_output(const std::string& name, py::handle value, char code, const char* type, const Shape& shape,
                  const std::vector<py::handle>& inputs) {
  const std::string wanted = std::string("a ") + type + " array of shape " + text(shape);
  if (!is_array(value)) reject(name, describe(value), wanted);
  const py::array array = as_array(value);
  if (type_code(array) != code || !has_shape(array, shape)) reject(name, describe(value), wanted);
  if (!array.writeable() || (array.flags() & kPacked) != kPacked) {
    reject(name, "an array that is read-only or not C-contiguous", "a packed, writeable array");
  }
  for (const py::handle& other : inputs) {
    if (is_array(other) && overlap(array, as_array(other))) {
      reject(name, "an array that shares memory with an input", "an array of its own");
    }
  }
}

}  // namespace

void reject(const std::string& name, const std::string& found, const std::string& wanted) {
  const std::string message = "argument '" + name + "' is not usable; found " + found + "; give " + wanted;
  const py::object error = py::module_::import("edgepose.errors").attr("InvalidInputError");
  PyErr_SetString(error.ptr(), message.c_str());
  throw py::error_already_set();
}

std::string describe(py::handle value) {
  return py::module_::import("edgepose.kernels._checks").attr("describe")(value).cast<std::string>();
}

MapsArgument maps_argument(const char* name, py::handle value, const MapsArgument* like) {
  const char* wanted = "a float32 or float16 array (n, k, h, w) with h and w of at least 1";
  if (!is_array(value)) reject(name, describe(value), wanted);
  py::array array = as_array(value);
  const char code = type_code(array);
  if ((code != 'f' && code != 'e') || array.ndim() != 4) reject(name, describe(value), wanted);
  for (int axis = 2; axis < 4; ++axis) {
    if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) reject(name, describe(value), wanted);
  }
  if (like) {
    const py::array& other = like->array;
    if (type_code(other) != code || !has_shape(array, Shape(other.shape(), other.shape() + 4))) {
      reject(name, describe(value), "the dtype and shape of 'heatmaps', " + describe(other));
    }
  }
  array = packed(array);
  const py::ssize_t n = array.shape(0), k = array.shape(1);
  const Maps maps{array.data(), code == 'e', static_cast<std::size_t>(n * k),
                  static_cast<int>(array.shape(2)), static_cast<int>(array.shape(3))};
  return {std::move(array), n, k, maps};
}

py::array joint_maps_argument(const char* name, py::handle value) {
  const char* wanted = "a float32 or float16 array (joints, h, w), no axis empty";
  if (!is_array(value)) reject(name, describe(value), wanted);
  py::array array = as_array(value);
  const char code = type_code(array);
  if ((code != 'f' && code != 'e') || array.ndim() != 3) reject(name, describe(value), wanted);
  for (int axis = 0; axis < 3; ++axis) {
    if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) reject(name, describe(value), wanted);
  }
  return packed(std::move(array));
}

Maps joint_maps_of(const py::array& array) {
  return {array.data(), type_code(array) == 'e', static_cast<std::size_t>(array.shape(0)),
          static_cast<int>(array.shape(1)), static_cast<int>(array.shape(2))};
}

py::array image_argument(const char* name, py::handle value) {
  const char* wanted = "a uint8 array (H, W, 3) with H and W of at least 1";
  if (!is_array(value)) reject(name, describe(value), wanted);
  py::array array = as_array(value);
  if (type_code(array) != 'B' || array.ndim() != 3 || array.shape(2) != 3)
    reject(name, describe(value), wanted);
  for (int axis = 0; axis < 2; ++axis) {
    if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) reject(name, describe(value), wanted);
  }
  return array.strides(1) == 3 && array.strides(2) == 1 ? array : packed(array);
}

Image image_of(const py::array& array) {
  return {static_cast<const std::uint8_t*>(array.data()), array.strides(0), static_cast<int>(array.shape(0)),
          static_cast<int>(array.shape(1))};
}

py::array affine_argument(const char* name, py::handle value) {
  const char* wanted = "a float64 array (n, 2, 3)";
  if (!is_array(value)) reject(name, describe(value), wanted);
  py::array array = as_array(value);
  if (type_code(array) != 'd' || array.ndim() != 3 || array.shape(1) != 2 || array.shape(2) != 3) {
    reject(name, describe(value), wanted);
  }
  array = packed(array);
  const double* entries = static_cast<const double*>(array.data());
  for (py::ssize_t i = 0; i < array.size(); ++i) {
    if (!(std::fabs(entries[i]) <= kMaxAffine)) {
      reject(name, "an array with NaN or entries beyond 1e9", "finite matrices of usable size");
    }
  }
  return array;
}

py::array coordinates_argument(const char* name, py::handle value, const Shape& shape) {
  const std::string wanted = "a float32 array of shape " + text(shape);
  if (!is_array(value)) reject(name, describe(value), wanted);
  const py::array array = as_array(value);
  if (type_code(array) != 'f' || !has_shape(array, shape)) reject(name, describe(value), wanted);
  return packed(array);
}

std::array<int, 2> size_argument(const char* name, py::handle value) {
  const char* wanted = "(height, width), two whole numbers of at least 1";
  if (!PySequence_Check(value.ptr()) || PySequence_Size(value.ptr()) != 2) {
    PyErr_Clear();
    reject(name, describe(value), wanted);
  }
  std::array<int, 2> result{};
  for (int i = 0; i < 2; ++i) {
    const py::object item = py::reinterpret_steal<py::object>(PySequence_GetItem(value.ptr(), i));
    if (!item) throw py::error_already_set();
    const bool whole = PyIndex_Check(item.ptr()) && !PyBool_Check(item.ptr());
    const py::ssize_t found = whole ? PyNumber_AsSsize_t(item.ptr(), nullptr) : 0;
    PyErr_Clear();
    if (found < 1 || found > kMaxSide) reject(name, describe(value), wanted);
    result[static_cast<std::size_t>(i)] = static_cast<int>(found);
  }
  return result;
}

std::array<double, 3> numbers_argument(const char* name, py::handle value, bool positive, bool scalar) {
  const std::string kind = positive ? "positive numbers" : "finite numbers";
  const std::string wanted = (scalar ? "one or three " : "three ") + kind;
  std::array<double, 3> result{};
  double one = 0;
  const bool sequence =
      PySequence_Check(value.ptr()) && !PyUnicode_Check(value.ptr()) && PySequence_Size(value.ptr()) >= 0;
  PyErr_Clear();
  if (sequence) {
    if (PySequence_Size(value.ptr()) != 3) reject(name, describe(value), wanted);
    for (int i = 0; i < 3; ++i) {
      const py::object item = py::reinterpret_steal<py::object>(PySequence_GetItem(value.ptr(), i));
      if (!item) throw py::error_already_set();
      if (!number(item, result[static_cast<std::size_t>(i)])) reject(name, describe(value), wanted);
    }
  } else if (scalar && number(value, one)) {
    result.fill(one);
  } else {
    reject(name, describe(value), wanted);
  }
  for (const double item : result) {
    if (!std::isfinite(item) || (positive && !(item > 0))) reject(name, describe(value), wanted);
  }
  return result;
}

float beta_argument(py::handle value) {
  double beta = 0;
  if (!number(value, beta) || !(beta >= kMinBeta && beta <= kMaxBeta)) {
    reject("beta", describe(value), "a number from 1e-9 to 1e9");
  }
  return static_cast<float>(beta);
}

bool switch_argument(const char* name, py::handle value) {
  const bool plain = PyBool_Check(value.ptr());
  if (!plain && std::string(Py_TYPE(value.ptr())->tp_name).rfind("numpy.bool", 0) != 0) {
    reject(name, describe(value), "True or False");
  }
  return PyObject_IsTrue(value.ptr()) == 1;
}

Refine refine_argument(py::handle value) {
  if (value.is_none()) return Refine::none;
  if (py::isinstance<py::str>(value)) {
    const std::string found = value.cast<std::string>();
    if (found == "quarter") return Refine::quarter;
    if (found == "taylor") return Refine::taylor;
  }
  reject("refine", describe(value), "'quarter', 'taylor' or None");
}

FloatArray output(const std::string& name, py::handle value, const Shape& shape,
                  const std::vector<py::handle>& inputs) {
  if (value.is_none()) return FloatArray(shape);
  check_output(name, value, 'f', "float32", shape, inputs);
  return py::reinterpret_borrow<FloatArray>(value);
}

ByteArray byte_output(const std::string& name, py::handle value, const Shape& shape,
                      const std::vector<py::handle>& inputs) {
  if (value.is_none()) return ByteArray(shape);
  check_output(name, value, 'B', "uint8", shape, inputs);
  return py::reinterpret_borrow<ByteArray>(value);
}

std::vector<FloatArray> outputs(py::handle value, const std::vector<NamedShape>& shapes, py::handle input) {
  std::vector<FloatArray> result;
  result.reserve(shapes.size());
  if (value.is_none()) {
    for (const NamedShape& item : shapes) result.emplace_back(item.shape);
    return result;
  }
  if ((!py::isinstance<py::tuple>(value) && !py::isinstance<py::list>(value)) ||
      py::len(value) != shapes.size()) {
    std::string names;
    for (const NamedShape& item : shapes) names += (names.empty() ? "" : ", ") + std::string(item.name);
    reject("out", describe(value), "(" + names + ")");
  }
  const auto items = py::reinterpret_borrow<py::sequence>(value);
  std::vector<py::handle> others{input};
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::string name = "out (" + std::string(shapes[i].name) + ")";
    const py::object item = items[i];
    if (item.is_none()) reject(name, "None", "a float32 array of shape " + text(shapes[i].shape));
    result.push_back(output(name, item, shapes[i].shape, others));
    others.push_back(result.back());
  }
  return result;
}

}  // namespace edgepose::bindings

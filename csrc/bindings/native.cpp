// Python module edgepose.kernels._native: checks the arguments, then calls the kernels without the GIL.
#include <atomic>
#include <string>

#include "arrays.hpp"
#include "pose_maps.hpp"

namespace edgepose::bindings {
namespace {

std::atomic<const Isa*> active{&usable_isas().back()};

const KernelTable& kernels() { return *active.load()->kernels; }

bool use_isa(const std::string& name) {
  for (const Isa& isa : usable_isas()) {
    if (name == isa.name) {
      active = &isa;
      return true;
    }
  }
  if (name == "auto") active = &usable_isas().back();
  return name == "auto";
}

FloatArray crop_normalize(py::handle image, py::handle affine, py::handle size, py::handle mean,
                          py::handle std, py::handle swap_rb, py::handle fill, py::handle out) {
  const py::array pixels = image_argument("image", image);
  const py::array matrices = affine_argument("affine", affine);
  const auto [height, width] = size_argument("size", size);
  CropOptions options{height, width, {}, {}, {}, false};
  const auto means = numbers_argument("mean", mean, false, false);
  const auto stds = numbers_argument("std", std, true, false);
  options.swap_rb = switch_argument("swap_rb", swap_rb);
  const auto fills = numbers_argument("fill", fill, false, true);
  for (std::size_t c = 0; c < 3; ++c) {
    options.mean[c] = means[c];
    options.std[c] = stds[c];
    options.fill[c] = fills[c];
  }
  FloatArray result = output("out", out, {matrices.shape(0), 3, height, width}, {image, affine});
  float* to = result.mutable_data();
  const auto count = static_cast<std::size_t>(matrices.shape(0));
  const Image source = image_of(pixels);
  const double* entries = static_cast<const double*>(matrices.data());
  {
    py::gil_scoped_release release;
    kernels().crop_normalize(source, entries, count, options, to);
  }
  return result;
}

ByteArray crop_pixels(py::handle image, py::handle affine, py::handle size, py::handle rgb, py::handle out) {
  const py::array pixels = image_argument("image", image);
  const py::array matrices = affine_argument("affine", affine);
  const auto [height, width] = size_argument("size", size);
  const bool swap = switch_argument("rgb", rgb);
  ByteArray result = byte_output("out", out, {matrices.shape(0), height, width, 3}, {image, affine});
  std::uint8_t* to = result.mutable_data();
  const auto count = static_cast<std::size_t>(matrices.shape(0));
  const Image source = image_of(pixels);
  const double* entries = static_cast<const double*>(matrices.data());
  {
    py::gil_scoped_release release;
    kernels().crop_pixels(source, entries, count, height, width, swap, to);
  }
  return result;
}

py::tuple soft_argmax(py::handle heatmaps, py::handle beta, py::handle out) {
  const MapsArgument maps = maps_argument("heatmaps", heatmaps);
  const float temperature = beta_argument(beta);
  const py::ssize_t n = maps.n, k = maps.k;
  std::vector<FloatArray> results =
      outputs(out, {{"coords", {n, k, 2}}, {"scores", {n, k}}, {"covariance", {n, k, 2, 2}}}, heatmaps);
  float* coords = results[0].mutable_data();
  float* scores = results[1].mutable_data();
  float* covariance = results[2].mutable_data();
  {
    py::gil_scoped_release release;
    kernels().soft_argmax(maps.maps, temperature, coords, scores, covariance);
  }
  return py::make_tuple(results[0], results[1], results[2]);
}

py::tuple argmax_offset(py::handle heatmaps, py::handle refine, py::handle out) {
  const MapsArgument maps = maps_argument("heatmaps", heatmaps);
  const Refine step = refine_argument(refine);
  const py::ssize_t n = maps.n, k = maps.k;
  std::vector<FloatArray> results = outputs(out, {{"coords", {n, k, 2}}, {"scores", {n, k}}}, heatmaps);
  float* coords = results[0].mutable_data();
  float* scores = results[1].mutable_data();
  {
    py::gil_scoped_release release;
    kernels().argmax_offset(maps.maps, step, coords, scores);
  }
  return py::make_tuple(results[0], results[1]);
}

FloatArray quarter_offset(py::handle heatmaps, py::handle coords, py::handle out) {
  const MapsArgument maps = maps_argument("heatmaps", heatmaps);
  const Shape shape{maps.n, maps.k, 2};
  const py::array points = coordinates_argument("coords", coords, shape);
  std::vector<py::handle> inputs{heatmaps};
  if (!out.is(coords)) inputs.push_back(coords);
  FloatArray result = output("out", out, shape, inputs);
  const float* from = static_cast<const float*>(points.data());
  float* to = result.mutable_data();
  {
    py::gil_scoped_release release;
    kernels().quarter_offset(maps.maps, from, to);
  }
  return result;
}

using Permutation = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

FloatArray flip_average(py::handle heatmaps, py::handle flipped, const Permutation& order, py::handle shift,
                        py::handle out) {
  const MapsArgument maps = maps_argument("heatmaps", heatmaps);
  const MapsArgument other = maps_argument("flipped", flipped, &maps);
  const bool move = switch_argument("shift", shift);
  std::vector<py::handle> inputs{flipped};
  if (!out.is(heatmaps)) inputs.push_back(heatmaps);
  FloatArray result = output("out", out, {maps.n, maps.k, maps.maps.height, maps.maps.width}, inputs);
  float* to = result.mutable_data();
  bool usable = order.ndim() == 1 && order.shape(0) == maps.k;
  for (py::ssize_t i = 0; usable && i < maps.k; ++i) usable = order.at(i) >= 0 && order.at(i) < maps.k;
  if (!usable) reject("flip_pairs", describe(order), "a permutation of the joints");
  const std::int64_t* joints = order.data();
  {
    py::gil_scoped_release release;
    kernels().flip_average(maps.maps, other.maps.data, joints, static_cast<std::size_t>(maps.k), move, to);
  }
  return result;
}

}  // namespace
}  // namespace edgepose::bindings

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
  namespace py = pybind11;
  using namespace edgepose::bindings;
  m.doc() = "The kernels in C++; edgepose.kernels.native is the module to use.";
  m.def("isas", [] {
    py::list names;
    for (const edgepose::Isa& isa : edgepose::usable_isas()) names.append(isa.name);
    return names;
  });
  m.def("isa", [] { return std::string(active.load()->name); });
  m.def("use_isa", &use_isa, py::arg("name"));
  m.def("crop_normalize", &crop_normalize, py::arg("image"), py::arg("affine"), py::arg("size"),
        py::arg("mean"), py::arg("std"), py::arg("swap_rb"), py::arg("fill"), py::arg("out"));
  m.def("crop_pixels", &crop_pixels, py::arg("image"), py::arg("affine"), py::arg("size"), py::arg("rgb"),
        py::arg("out"));
  m.def("soft_argmax", &soft_argmax, py::arg("heatmaps"), py::arg("beta"), py::arg("out"));
  m.def("argmax_offset", &argmax_offset, py::arg("heatmaps"), py::arg("refine"), py::arg("out"));
  m.def("quarter_offset", &quarter_offset, py::arg("heatmaps"), py::arg("coords"), py::arg("out"));
  m.def("flip_average", &flip_average, py::arg("heatmaps"), py::arg("flipped"), py::arg("order"),
        py::arg("shift"), py::arg("out"));
  define_pose_maps(m, &kernels);
}

// Python module edgepose.kernels._cuda: the kernels on the device, by raw device pointers and streams.
//
// Pointers and streams are whole numbers, as pycuda, PyTorch and CuPy give them; edgepose/kernels/cuda.py is
// the module that checks shapes and types. Work is put on the stream; only `synchronize` waits.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "../cuda/device_kernels.hpp"
#include "../cuda/launch.hpp"
#include "addresses.hpp"
#include "cuda_pose_maps.hpp"

namespace edgepose::bindings {
namespace {

namespace py = pybind11;

Maps maps_at(Address maps, bool half, std::size_t count, int height, int width) {
  return {at<const void>(maps), half, count, height, width};
}

// Work between `begin_capture` and `end_capture`, ready to run again and again.
class Graph {
 public:
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t error = cudaGraphInstantiate(&ready_, graph, 0);
    cudaGraphDestroy(graph);
    cuda::check(error, "a CUDA graph cannot be made ready");
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { close(); }

  void launch(Address stream) {
    if (!ready_) throw std::runtime_error("the CUDA graph is closed");
    py::gil_scoped_release release;
    cuda::check(cudaGraphLaunch(ready_, stream_of(stream)), "a CUDA graph cannot be started");
  }

  void close() {
    if (ready_) cudaGraphExecDestroy(ready_);
    ready_ = nullptr;
  }

 private:
  cudaGraphExec_t ready_ = nullptr;
};

void use_device(int device) {
  cuda::check(cudaSetDevice(device), "the CUDA device cannot be used");
  cuda::check(cudaFree(nullptr), "the CUDA device cannot be used");
}

Address allocate(std::size_t bytes) {
  void* pointer = nullptr;
  py::gil_scoped_release release;
  cuda::check(cudaMalloc(&pointer, bytes), "device memory cannot be had");
  return reinterpret_cast<Address>(pointer);
}

void release(Address pointer) {
  py::gil_scoped_release release;  // this waits for work on the device
  cuda::check(cudaFree(at<void>(pointer)), "device memory cannot be freed");
}

void copy(Address to, Address from, std::size_t bytes, cudaMemcpyKind kind, Address stream) {
  py::gil_scoped_release release;  // a copy from or to pageable memory waits
  cuda::check(cudaMemcpyAsync(at<void>(to), at<const void>(from), bytes, kind, stream_of(stream)),
              "memory cannot be copied");
}

Address create_stream() {
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream cannot be had");
  return reinterpret_cast<Address>(stream);
}

void destroy_stream(Address stream) {
  cuda::check(cudaStreamDestroy(stream_of(stream)), "a stream cannot be destroyed");
}

void synchronize(Address stream) {
  py::gil_scoped_release release;
  cuda::check(cudaStreamSynchronize(stream_of(stream)), "work on the device failed");
}

void begin_capture(Address stream) {
  cuda::check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal),
              "the stream cannot be captured");
}

std::unique_ptr<Graph> end_capture(Address stream) {
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream_of(stream), &graph);
  if (error != cudaSuccess && graph) cudaGraphDestroy(graph);
  cuda::check(error, "the captured work cannot be made a CUDA graph");
  return std::make_unique<Graph>(graph);
}

using Triple = std::array<double, 3>;
// By name of a structure that device memory holds: offsets of its members, and its size as "".
using Layouts = std::map<std::string, std::map<std::string, std::size_t>>;

Layouts layouts() {
  using cuda::CropSource;
  return {{"crop_source",
           {{"pixels", offsetof(CropSource, pixels)},
            {"chroma", offsetof(CropSource, chroma)},
            {"stride", offsetof(CropSource, stride)},
            {"chroma_stride", offsetof(CropSource, chroma_stride)},
            {"height", offsetof(CropSource, height)},
            {"width", offsetof(CropSource, width)},
            {"affine", offsetof(CropSource, affine)},
            {"", sizeof(CropSource)}}}};
}

void crop_normalize(Address sources, std::size_t count, int height, int width, const Triple& mean,
                    const Triple& std, const Triple& fill, bool swap_rb, Address out, Address stream) {
  CropOptions options{height, width, {}, {}, {}, swap_rb};
  for (std::size_t c = 0; c < 3; ++c) {
    options.mean[c] = mean[c];
    options.std[c] = std[c];
    options.fill[c] = fill[c];
  }
  cuda::crop_normalize(at<const cuda::CropSource>(sources), count, options, at<float>(out),
                       stream_of(stream));
}

void crop_pixels(Address sources, std::size_t count, int height, int width, bool rgb, Address out,
                 Address stream) {
  cuda::crop_pixels(at<const cuda::CropSource>(sources), count, height, width, rgb, at<std::uint8_t>(out),
                    stream_of(stream));
}

void soft_argmax(Address maps, bool half, std::size_t count, int height, int width, float beta,
                 Address coords, Address scores, Address covariance, Address stream) {
  cuda::soft_argmax(maps_at(maps, half, count, height, width), beta, at<float>(coords), at<float>(scores),
                    at<float>(covariance), stream_of(stream));
}

void argmax_offset(Address maps, bool half, std::size_t count, int height, int width,
                   const std::optional<std::string>& refine, Address coords, Address scores, Address stream) {
  const Refine step = !refine ? Refine::none : *refine == "taylor" ? Refine::taylor : Refine::quarter;
  cuda::argmax_offset(maps_at(maps, half, count, height, width), step, at<float>(coords), at<float>(scores),
                      stream_of(stream));
}

void quarter_offset(Address maps, bool half, std::size_t count, int height, int width, Address coords,
                    Address out, Address stream) {
  cuda::quarter_offset(maps_at(maps, half, count, height, width), at<const float>(coords), at<float>(out),
                       stream_of(stream));
}

void flip_average(Address maps, Address flipped, bool half, std::size_t count, int height, int width,
                  Address order, std::size_t joints, bool shift, Address out, Address stream) {
  cuda::flip_average(maps_at(maps, half, count, height, width), at<const void>(flipped),
                     at<const std::int64_t>(order), joints, shift, at<float>(out), stream_of(stream));
}

void mirror_planes(Address images, std::size_t rows, int width, Address out, Address stream) {
  cuda::mirror_planes(at<const float>(images), rows, width, at<float>(out), stream_of(stream));
}

void mirror_pixels(Address images, std::size_t rows, int width, Address out, Address stream) {
  cuda::mirror_pixels(at<const std::uint8_t>(images), rows, width, at<std::uint8_t>(out), stream_of(stream));
}

}  // namespace
}  // namespace edgepose::bindings

PYBIND11_MODULE(EDGEPOSE_CUDA_MODULE, m) {
  namespace py = pybind11;
  using namespace edgepose::bindings;
  m.doc() = "The kernels in CUDA; edgepose.kernels.cuda is the module to use.";
  m.def("use_device", &use_device, py::arg("device"));
  m.def("allocate", &allocate, py::arg("bytes"));
  m.def("free", &release, py::arg("pointer"));
  m.def(
      "copy_in",
      [](Address to, Address from, std::size_t bytes, Address stream) {
        copy(to, from, bytes, cudaMemcpyHostToDevice, stream);
      },
      py::arg("to"), py::arg("source"), py::arg("bytes"), py::arg("stream"));
  m.def(
      "copy_out",
      [](Address to, Address from, std::size_t bytes, Address stream) {
        copy(to, from, bytes, cudaMemcpyDeviceToHost, stream);
      },
      py::arg("to"), py::arg("source"), py::arg("bytes"), py::arg("stream"));
  m.def(
      "copy_within",
      [](Address to, Address from, std::size_t bytes, Address stream) {
        copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
      },
      py::arg("to"), py::arg("source"), py::arg("bytes"), py::arg("stream"));
  m.def("create_stream", &create_stream);
  m.def("destroy_stream", &destroy_stream, py::arg("stream"));
  m.def("synchronize", &synchronize, py::arg("stream"));
  m.def("begin_capture", &begin_capture, py::arg("stream"));
  m.def("end_capture", &end_capture, py::arg("stream"));
  py::class_<Graph>(m, "Graph").def("launch", &Graph::launch, py::arg("stream")).def("close", &Graph::close);
  m.attr("LAYOUTS") = layouts();
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  m.def("crop_normalize", &crop_normalize, unlocked, py::arg("sources"), py::arg("count"), py::arg("height"),
        py::arg("width"), py::arg("mean"), py::arg("std"), py::arg("fill"), py::arg("swap_rb"),
        py::arg("out"), py::arg("stream"));
  m.def("crop_pixels", &crop_pixels, unlocked, py::arg("sources"), py::arg("count"), py::arg("height"),
        py::arg("width"), py::arg("rgb"), py::arg("out"), py::arg("stream"));
  m.def("soft_argmax", &soft_argmax, unlocked, py::arg("maps"), py::arg("half"), py::arg("count"),
        py::arg("height"), py::arg("width"), py::arg("beta"), py::arg("coords"), py::arg("scores"),
        py::arg("covariance"), py::arg("stream"));
  m.def("argmax_offset", &argmax_offset, unlocked, py::arg("maps"), py::arg("half"), py::arg("count"),
        py::arg("height"), py::arg("width"), py::arg("refine"), py::arg("coords"), py::arg("scores"),
        py::arg("stream"));
  m.def("quarter_offset", &quarter_offset, unlocked, py::arg("maps"), py::arg("half"), py::arg("count"),
        py::arg("height"), py::arg("width"), py::arg("coords"), py::arg("out"), py::arg("stream"));
  m.def("flip_average", &flip_average, unlocked, py::arg("maps"), py::arg("flipped"), py::arg("half"),
        py::arg("count"), py::arg("height"), py::arg("width"), py::arg("order"), py::arg("joints"),
        py::arg("shift"), py::arg("out"), py::arg("stream"));
  m.def("mirror_planes", &mirror_planes, unlocked, py::arg("images"), py::arg("rows"), py::arg("width"),
        py::arg("out"), py::arg("stream"));
  m.def("mirror_pixels", &mirror_pixels, unlocked, py::arg("images"), py::arg("rows"), py::arg("width"),
        py::arg("out"), py::arg("stream"));
  define_cuda_pose_maps(m);
#ifdef EDGEPOSE_EMULATION
  m.def(
      "submit",
      [](Address stream, py::function work) {
        // Kept until the graph goes, which may be after the interpreter: never destroyed without it.
        auto kept = std::shared_ptr<py::function>(new py::function(std::move(work)), [](py::function* item) {
          if (!Py_IsInitialized()) return;
          py::gil_scoped_acquire acquire;
          delete item;
        });
        emulation::submit(stream_of(stream), [kept] {
          py::gil_scoped_acquire acquire;
          (*kept)();
        });
      },
      py::arg("stream"), py::arg("work"));
#endif
}

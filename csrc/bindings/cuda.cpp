// Python module edgepose.kernels._cuda: the kernels on the device, by raw device pointers and streams.
//
// Pointers and streams are whole numbers, as pycuda, PyTorch and CuPy give them; edgepose/kernels/cuda.py is
// the module that checks shapes and types. Work is put on the stream; only `synchronize` waits.
#include <pybind11/pybind11.h>

#include <memory>

#include "../cuda/device_kernels.hpp"
#include "../cuda/launch.hpp"
#include "cuda_pose_maps.hpp"

namespace edgepose::bindings {
namespace {

namespace py = pybind11;

using Address = std::uintptr_t;

cudaStream_t stream_of(Address handle) { return reinterpret_cast<cudaStream_t>(handle); }

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

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
  cuda::check(cudaMalloc(&pointer, bytes), "device memory cannot be had");
  return reinterpret_cast<Address>(pointer);
}

void release(Address pointer) { cuda::check(cudaFree(at<void>(pointer)), "device memory cannot be freed"); }

void copy(Address to, Address from, std::size_t bytes, cudaMemcpyKind kind, Address stream) {
  cuda::check(cudaMemcpyAsync(at<void>(to), at<const void>(from), bytes, kind, stream_of(stream)),
              "memory cannot be copied");
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

void flip_average(Address maps, Address flipped, bool half, std::size_t count, int height, int width,
                  Address order, std::size_t joints, bool shift, Address out, Address stream) {
  cuda::flip_average(maps_at(maps, half, count, height, width), at<const void>(flipped),
                     at<const std::int64_t>(order), joints, shift, at<float>(out), stream_of(stream));
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
  m.def("synchronize", &synchronize, py::arg("stream"));
  m.def("begin_capture", &begin_capture, py::arg("stream"));
  m.def("end_capture", &end_capture, py::arg("stream"));
  py::class_<Graph>(m, "Graph").def("launch", &Graph::launch, py::arg("stream")).def("close", &Graph::close);
  m.def("flip_average", &flip_average, py::arg("maps"), py::arg("flipped"), py::arg("half"), py::arg("count"),
        py::arg("height"), py::arg("width"), py::arg("order"), py::arg("joints"), py::arg("shift"),
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

#include "../core/elementwise.hpp"
#include "device_kernels.hpp"
#include "launch.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kThreads = 256;

// A block averages rows of one map.
template <class T>
__global__ void __launch_bounds__(kThreads)
    average(const T* own, const T* flipped, const std::int64_t* order, int joints, int height, int width,
            bool shift, float* out) {
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(height) * width;
  const auto map = static_cast<std::ptrdiff_t>(blockIdx.y);
  const std::ptrdiff_t joint = map % joints;
  const T* other = flipped + (map - joint + order[joint]) * size;
  const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= size) return;
  const int x = static_cast<int>(pixel % width);
  const std::ptrdiff_t row = pixel - x;
  const int from = shift ? (x == 0 ? width - 1 : width - x) : width - 1 - x;
  out[map * size + pixel] = 0.5f * (widen(own[map * size + pixel]) + widen(other[row + from]));
}

}  // namespace

void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out, cudaStream_t stream) {
  const std::size_t size = static_cast<std::size_t>(maps.height) * static_cast<std::size_t>(maps.width);
  const dim3 blocks(ceiling(size, kThreads), static_cast<unsigned>(maps.count));
  const auto start = [&](auto kernel, auto own) {
    launch("flip_average", kernel, blocks, dim3(kThreads), 0, stream, own,
           static_cast<decltype(own)>(flipped), order, static_cast<int>(joints), maps.height, maps.width,
           shift, out);
  };
  if (maps.half) {
    start(average<Half>, static_cast<const Half*>(maps.data));
  } else {
    start(average<float>, static_cast<const float*>(maps.data));
  }
}

}  // namespace edgepose::cuda

#include "device_kernels.hpp"
#include "launch.hpp"
#include "strips.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kThreads = 256;

// A thread averages a strip of a row; a block has a part of each gridDim.y-th map.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    average(const T* maps, const T* flipped, const std::int64_t* order, int joints, int count, int height,
            int width, bool shift, float* out) {
  const int strips = width / kCount;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= static_cast<std::int64_t>(height) * strips) return;
  const int row = static_cast<int>(item) / strips, x = (static_cast<int>(item) - row * strips) * kCount;
  const std::int64_t size = static_cast<std::int64_t>(height) * width;
  const std::int64_t start = static_cast<std::int64_t>(row) * width;
  for (int map = static_cast<int>(blockIdx.y); map < count; map += static_cast<int>(gridDim.y)) {
    const int joint = map % joints;
    const T* other = flipped + (map - joint + order[joint]) * size + start;
    const std::int64_t at = map * size + start + x;
    const auto own = *reinterpret_cast<const Strip<T, kCount>*>(maps + at);
    Strip<T, kCount> back;
    if (shift) {
      for (int i = 0; i < kCount; ++i) back.values[i] = other[x + i == 0 ? width - 1 : width - x - i];
    } else {
      const auto turned = *reinterpret_cast<const Strip<T, kCount>*>(other + width - kCount - x);
      for (int i = 0; i < kCount; ++i) back.values[i] = turned.values[kCount - 1 - i];
    }
    Strip<float, kCount> result;
    for (int i = 0; i < kCount; ++i) {
      result.values[i] = 0.5f * (widen(own.values[i]) + widen(back.values[i]));
    }
    *reinterpret_cast<Strip<float, kCount>*>(out + at) = result;
  }
}

template <class T>
void start(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints, bool shift,
           float* out, cudaStream_t stream) {
  using Four = Strip<T, 4>;
  const bool by_four = maps.width % 4 == 0 && aligned_to<Four>(maps.data) && aligned_to<Four>(flipped) &&
                       aligned_to<Strip<float, 4>>(out);
  const std::size_t strips = static_cast<std::size_t>(by_four ? maps.width / 4 : maps.width);
  const dim3 blocks(ceiling(static_cast<std::size_t>(maps.height) * strips, kThreads), grid_rows(maps.count));
  launch("flip_average", by_four ? average<T, 4> : average<T, 1>, blocks, dim3(kThreads), 0, stream,
         static_cast<const T*>(maps.data), static_cast<const T*>(flipped), order, static_cast<int>(joints),
         static_cast<int>(maps.count), maps.height, maps.width, shift, out);
}

}  // namespace

void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out, cudaStream_t stream) {
  const auto run = maps.half ? start<Half> : start<float>;
  run(maps, flipped, order, joints, shift, out, stream);
}

}  // namespace edgepose::cuda

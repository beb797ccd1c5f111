#include "device_kernels.hpp"
#include "map_reading.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kThreads = 128;

// Floored logarithms around a peak, each of which a lane has computed.
struct Logs {
  const double* middle;
  EDGEPOSE_HD double operator()(int dx, int dy) const { return middle[5 * dy + dx]; }
};

template <class T>
__global__ void __launch_bounds__(kMaxMapThreads, kMapBlocks)
    decode(const T* maps, int height, int width, bool aligned, Refine refine, float* coords, float* scores) {
  __shared__ unsigned long long warp_keys[kMaxMapWarps];
  __shared__ double logs[25];
  const int thread = static_cast<int>(threadIdx.x), size = height * width;
  const auto number = static_cast<std::int64_t>(blockIdx.x);
  const MapReader<T> reader{maps + number * size, size, aligned};
  float largest[kHeld];
  gather_peaks(reader, largest, warp_keys);
  __syncthreads();
  if (thread >= kWarpSize) return;  // the rest is a warp's

  const auto [peak_at, peak] = block_peak(warp_keys);
  const int column = peak > 0 ? peak_at % width : 0, row = peak > 0 ? peak_at / width : 0;
  Point at{static_cast<double>(column), static_cast<double>(row)};
  if (peak_at < 0) {
    at = {kNaN, kNaN};
  } else if (refine == Refine::quarter && peak > 0) {
    const Point step = quarter_towards(reader.map, height, width, column, row);
    at = {at.x + step.x, at.y + step.y};
  } else if (refine == Refine::taylor && peak > 0 && has_taylor_step(height, width, column, row)) {
    if (thread < 25) {
      logs[thread] = floored_log(widen(reader.map[(row + thread / 5 - 2) * width + column + thread % 5 - 2]));
    }
    __syncwarp();
    const Point step = newton_step(Logs{logs + 12});
    at = {at.x + static_cast<float>(step.x), at.y + static_cast<float>(step.y)};
  }
  if (thread > 0) return;
  coords[2 * number] = static_cast<float>(at.x);
  coords[2 * number + 1] = static_cast<float>(at.y);
  scores[number] = peak;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    offset(const T* maps, std::int64_t count, int height, int width, const float* coords, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const T* map = maps + i * height * width;
  const Point at = quarter_step(map, height, width, coords[2 * i], coords[2 * i + 1]);
  out[2 * i] = static_cast<float>(at.x);
  out[2 * i + 1] = static_cast<float>(at.y);
}

template <class T>
void start_decode(const Maps& maps, Refine refine, float* coords, float* scores, cudaStream_t stream) {
  launch("argmax_offset", decode<T>, dim3(static_cast<unsigned>(maps.count)),
         map_threads(maps.height * maps.width), 0, stream, static_cast<const T*>(maps.data), maps.height,
         maps.width, by_groups<T>(maps.data, maps.height * maps.width), refine, coords, scores);
}

template <class T>
void start_offset(const Maps& maps, const float* coords, float* out, cudaStream_t stream) {
  launch("quarter_offset", offset<T>, dim3(ceiling(maps.count, kThreads)), dim3(kThreads), 0, stream,
         static_cast<const T*>(maps.data), static_cast<std::int64_t>(maps.count), maps.height, maps.width,
         coords, out);
}

}  // namespace

void argmax_offset(const Maps& maps, Refine refine, float* coords, float* scores, cudaStream_t stream) {
  const auto run = maps.half ? start_decode<Half> : start_decode<float>;
  run(maps, refine, coords, scores, stream);
}

void quarter_offset(const Maps& maps, const float* coords, float* out, cudaStream_t stream) {
  const auto run = maps.half ? start_offset<Half> : start_offset<float>;
  run(maps, coords, out, stream);
}

}  // namespace edgepose::cuda

#include "device_kernels.hpp"
#include "map_reading.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kSums = 6;  // total, x, y, xx, xy, yy

struct Shared {
  unsigned long long warp_keys[kMaxMapWarps];
  double sums[kMaxMapWarps][kSums];
  int column, row;
  bool again;
};

// 2 to a power from -73 to 0.
__device__ inline float power_of_two(float exponent) {
#ifdef __CUDA_ARCH__
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(exponent));
  return value;
#else
  return exp2f(exponent);
#endif
}

struct Weights {
  float peak, limit, scale;
  __device__ float of(float value) const {
    return value >= limit ? power_of_two((value - peak) * scale) : 0.0f;
  }
};

// Adds the weights of `count` pixels in a row, and their moments about a pixel that is (dx, dy) before the
// first.
__device__ inline void add_run(const float* weights, int count, float dx, float dy, float (&sums)[kSums]) {
  float total = 0, x = 0, xx = 0;
  for (int i = 0; i < count; ++i) {
    const float first = weights[i] * (dx + static_cast<float>(i));
    total += weights[i];
    x += first;
    xx += first * (dx + static_cast<float>(i));
  }
  sums[0] += total;
  sums[1] += x;
  sums[2] += total * dy;
  sums[3] += xx;
  sums[4] += x * dy;
  sums[5] += total * dy * dy;
}

template <class T>
__device__ void add_group(const Group<T>& group, int first, int width, const Weights& weigh, int column,
                          int row, float (&sums)[kSums]) {
  float weights[kGroup];
  for (int i = 0; i < kGroup; ++i) weights[i] = weigh.of(widen(group.values[i]));
  int y = first / width, x = first - y * width;
  if (x + kGroup <= width) {
    add_run(weights, kGroup, static_cast<float>(x - column), static_cast<float>(y - row), sums);
    return;
  }
  for (int i = 0; i < kGroup; ++i) {
    add_run(weights + i, 1, static_cast<float>(x - column), static_cast<float>(y - row), sums);
    if (++x == width) {
      x = 0;
      ++y;
    }
  }
}

// Which of the six sums a lane gets; kSums where none.
__device__ inline int sum_of_lane(int lane) {
  const int within = lane >> 2 & 3;
  return within < 3 ? 3 * (lane >> 4) + within : kSums;
}

// Sums over the warp, one for each lane: at each step a lane keeps half of what it has.
__device__ inline float warp_sum(const float (&sums)[kSums]) {
  const int lane = this_lane();
  const bool second = (lane & 16) != 0, third = (lane & 8) != 0, odd = (lane & 4) != 0;
  float three[3];
  for (int i = 0; i < 3; ++i) {
    const float other = __shfl_xor_sync(kWholeWarp, second ? sums[i] : sums[3 + i], 16);
    three[i] = (second ? sums[3 + i] : sums[i]) + other;
  }
  const float far = __shfl_xor_sync(kWholeWarp, third ? three[0] : three[2], 8);
  const float near = __shfl_xor_sync(kWholeWarp, third ? three[1] : 0.0f, 8);
  const float even_sum = (third ? three[2] : three[0]) + far;
  const float odd_sum = (third ? 0.0f : three[1]) + near;
  float sum = (odd ? odd_sum : even_sum) + __shfl_xor_sync(kWholeWarp, odd ? even_sum : odd_sum, 4);
  sum += __shfl_xor_sync(kWholeWarp, sum, 2);
  return sum + __shfl_xor_sync(kWholeWarp, sum, 1);
}

// The moments over their total out of the warps' sums, for each lane of a warp.
__device__ inline Means block_means(const Shared& shared) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize, q = this_lane() < kSums ? this_lane() : 0;
  double sum = 0;
  for (int i = 0; i < warps; ++i) sum += shared.sums[i][q];
  const double mean = sum / __shfl_sync(kWholeWarp, sum, 0);
  const auto of = [&](int lane) { return __shfl_sync(kWholeWarp, mean, lane); };
  const double x = of(1), y = of(2), xx = of(3), xy = of(4), yy = of(5);
  return {x, y, xx, xy, yy};
}

template <class T>
__global__ void __launch_bounds__(kMaxMapThreads, kMapBlocks)
    decode(const T* maps, int height, int width, bool aligned, float beta, float* coords, float* scores,
           float* covariance) {
  __shared__ Shared shared;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, size = height * width;
  const auto number = static_cast<std::int64_t>(blockIdx.x);
  const MapReader<T> reader{maps + number * size, size, aligned};

  float largest[kHeld];
  gather_peaks(reader, largest, shared.warp_keys);
  __syncthreads();
  const auto [peak_at, peak] = block_peak(shared.warp_keys);
  if (peak_at < 0 || peak == kInfinity) {
    if (thread > 0) return;
    coords[2 * number] = peak_at < 0 ? kNaN : static_cast<float>(peak_at % width);
    coords[2 * number + 1] = peak_at < 0 ? kNaN : static_cast<float>(peak_at / width);
    scores[number] = peak;
    for (int i = 0; i < 4; ++i) covariance[4 * number + i] = peak_at < 0 ? kNaN : 0;
    return;
  }

  constexpr float kLog2E = 1.44269504f;
  const Weights weigh{peak, peak - kWeightCutoff / beta, beta * kLog2E};
  const int role = sum_of_lane(this_lane());
  int row = peak_at / width, column = peak_at - row * width;
  for (int pass = 0;; ++pass) {
    double sum = 0;
    for (int part = 0; part < reader.groups(); part += part_size()) {
      if (reader.groups() > part_size()) read_part(reader, part + thread, largest);
      unsigned reaching = 0;  // nearly none on a peaked map: those are read once more
      for (int i = 0; i < kHeld; ++i) reaching |= (largest[i] >= weigh.limit ? 1u : 0u) << i;
      float sums[kSums] = {};
      for (; reaching != 0; reaching &= reaching - 1) {
        const int i = __ffs(static_cast<int>(reaching)) - 1;
        const int group = part + thread + i * static_cast<int>(blockDim.x);
        add_group<T>(reader.load(group), group * kGroup, width, weigh, column, row, sums);
      }
      if (__any_sync(kWholeWarp, sums[0] > 0)) sum += warp_sum(sums);
    }
    if (role < kSums && this_lane() % 4 == 0) shared.sums[warp][role] = sum;
    __syncthreads();
    if (warp == 0) {
      const Means means = block_means(shared);
      const auto at_x = static_cast<float>(column + means.x), at_y = static_cast<float>(row + means.y);
      const int x = nearest_pixel(at_x, width), y = nearest_pixel(at_y, height);
      const T nearest = reader.map[y * width + x];
      const Spread spread = central(means);
      const bool again = pass == 0 && !spread.accurate;
      if (thread == 0) {
        shared.again = again;
        if (again) {
          shared.column = column + static_cast<int>(rint(spread.x));
          shared.row = row + static_cast<int>(rint(spread.y));
        } else {
          coords[2 * number] = at_x;
          coords[2 * number + 1] = at_y;
          float* moments = covariance + 4 * number;
          moments[0] = static_cast<float>(spread.xx);
          moments[1] = moments[2] = static_cast<float>(spread.xy);
          moments[3] = static_cast<float>(spread.yy);
          scores[number] = widen(nearest);
        }
      }
    }
    __syncthreads();
    if (!shared.again) return;
    column = shared.column;
    row = shared.row;
  }
}

template <class T>
void start(const Maps& maps, float beta, float* coords, float* scores, float* covariance,
           cudaStream_t stream) {
  const int size = maps.height * maps.width;
  launch("soft_argmax", decode<T>, dim3(static_cast<unsigned>(maps.count)), map_threads(size), 0, stream,
         static_cast<const T*>(maps.data), maps.height, maps.width, by_groups<T>(maps.data, size), beta,
         coords, scores, covariance);
}

}  // namespace

void soft_argmax(const Maps& maps, float beta, float* coords, float* scores, float* covariance,
                 cudaStream_t stream) {
  const auto run = maps.half ? start<Half> : start<float>;
  run(maps, beta, coords, scores, covariance, stream);
}

}  // namespace edgepose::cuda

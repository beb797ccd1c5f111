#include "device_kernels.hpp"
#include "map_reading.hpp"

namespace edgepose::cuda {
namespace {

// Maps of up to so many bytes are kept in shared memory, and read from device memory once.
constexpr std::size_t kMaxStash = 40 << 10;
constexpr int kSums = 6;  // total, x, y, xx, xy, yy

// A sum in two floats, about as exact as in double, which most devices add at a 64th of the rate.
struct Pair {
  float high, low;

  __device__ void add(float value) {
    const float sum = high + value, part = sum - high;
    low += (high - (sum - part)) + (value - part);
    high = sum;
  }
  __device__ void add(Pair other) {
    add(other.high);
    low += other.low;
  }
};

struct Shared {
  unsigned long long warp_keys[kMapWarps];
  Pair parts[kSums][kMapThreads];
  double totals[kSums], means[kSums];
  int column, row;
  bool again;
};

// Adds a group's weights and their moments about a pixel. The short sums are of four pixels in either
// precision, so that both give the same.
template <class T>
__device__ void add_group(const Group<T>& group, int first, int width, float peak, float limit, float beta,
                          int column, int row, Pair (&sums)[kSums]) {
  constexpr int kShort = 4;
  for (int start = 0; start < kGroup<T>; start += kShort) {
    float values[kShort], largest = -kInfinity;
    for (int i = 0; i < kShort; ++i) {
      values[i] = widen(group.values[start + i]);
      largest = values[i] > largest ? values[i] : largest;
    }
    if (!(largest >= limit)) continue;  // nearly everywhere on a peaked map
    int y = (first + start) / width, x = first + start - y * width;
    float parts[kSums] = {};
    for (int i = 0; i < kShort; ++i) {
      const float weight = values[i] >= limit ? expf((values[i] - peak) * beta) : 0.0f;
      const auto dx = static_cast<float>(x - column), dy = static_cast<float>(y - row);
      const float weight_x = weight * dx, weight_y = weight * dy;
      parts[0] += weight;
      parts[1] += weight_x;
      parts[2] += weight_y;
      parts[3] += weight_x * dx;
      parts[4] += weight_x * dy;
      parts[5] += weight_y * dy;
      if (++x == width) {
        x = 0;
        ++y;
      }
    }
    for (int q = 0; q < kSums; ++q) sums[q].add(parts[q]);
  }
}

// Brings the threads' sums together; afterwards warp 0 has the means.
__device__ void reduce(const Pair (&sums)[kSums], Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  for (int q = 0; q < kSums; ++q) shared.parts[q][thread] = sums[q];
  __syncthreads();
  for (int q = thread / kWarpSize; q < kSums; q += kMapWarps) {
    Pair sum = shared.parts[q][lane];
    for (int i = 1; i < kMapWarps; ++i) sum.add(shared.parts[q][lane + i * kWarpSize]);
    for (int step = kWarpSize / 2; step; step /= 2) {
      Pair other;
      other.high = __shfl_xor_sync(kWholeWarp, sum.high, step);
      other.low = __shfl_xor_sync(kWholeWarp, sum.low, step);
      sum.add(other);
    }
    if (lane == 0) shared.totals[q] = static_cast<double>(sum.high) + sum.low;
  }
  __syncthreads();
  if (thread < kWarpSize) {
    if (lane < kSums) shared.means[lane] = shared.totals[lane] / shared.totals[0];
    __syncwarp();
  }
}

template <class T>
__global__ void __launch_bounds__(kMapThreads)
    decode(const T* maps, int height, int width, bool aligned, bool stashed, float beta, float* coords,
           float* scores, float* covariance) {
  EDGEPOSE_DYNAMIC_SHARED(Group<T>, room);
  __shared__ Shared shared;
  const int thread = static_cast<int>(threadIdx.x), size = height * width;
  const auto number = static_cast<std::int64_t>(blockIdx.x);
  const MapReader<T> reader{maps + number * size, size, aligned};
  coords += 2 * number;
  scores += number;
  covariance += 4 * number;

  Group<T>* stash = stashed ? room : nullptr;
  const int peak_at = find_peak(reader, stash, shared.warp_keys);
  const float peak = peak_at < 0 ? kNaN : widen(reader.map[peak_at]);
  if (peak_at < 0 || peak == kInfinity) {
    if (thread > 0) return;
    coords[0] = peak_at < 0 ? kNaN : static_cast<float>(peak_at % width);
    coords[1] = peak_at < 0 ? kNaN : static_cast<float>(peak_at / width);
    *scores = peak;
    for (int i = 0; i < 4; ++i) covariance[i] = peak_at < 0 ? kNaN : 0;
    return;
  }

  const float limit = peak - kWeightCutoff / beta;
  int column = peak_at % width, row = peak_at / width;
  for (int pass = 0;; ++pass) {
    Pair sums[kSums] = {};
    for (int group = thread; group < reader.groups(); group += kMapThreads) {
      const Group<T> found = stash ? stash[group] : reader.load(group);
      add_group<T>(found, group * kGroup<T>, width, peak, limit, beta, column, row, sums);
    }
    reduce(sums, shared);
    if (thread == 0) {
      const double* m = shared.means;
      const Spread spread = central(Means{m[1], m[2], m[3], m[4], m[5]});
      shared.again = pass == 0 && !spread.accurate;
      if (shared.again) {
        shared.column = column + static_cast<int>(rint(spread.x));
        shared.row = row + static_cast<int>(rint(spread.y));
      } else {
        coords[0] = static_cast<float>(column + spread.x);
        coords[1] = static_cast<float>(row + spread.y);
        covariance[0] = static_cast<float>(spread.xx);
        covariance[1] = covariance[2] = static_cast<float>(spread.xy);
        covariance[3] = static_cast<float>(spread.yy);
        const int x = nearest_pixel(coords[0], width), y = nearest_pixel(coords[1], height);
        *scores = widen(reader.map[y * width + x]);
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
  const std::size_t bytes = ceiling(static_cast<std::size_t>(size), kGroup<T>) * sizeof(Group<T>);
  const bool stashed = bytes <= kMaxStash;
  launch("soft_argmax", decode<T>, dim3(static_cast<unsigned>(maps.count)), dim3(kMapThreads),
         stashed ? bytes : 0, stream, static_cast<const T*>(maps.data), maps.height, maps.width,
         by_groups<T>(maps.data, size), stashed, beta, coords, scores, covariance);
}

}  // namespace

void soft_argmax(const Maps& maps, float beta, float* coords, float* scores, float* covariance,
                 cudaStream_t stream) {
  const auto run = maps.half ? start<Half> : start<float>;
  run(maps, beta, coords, scores, covariance, stream);
}

}  // namespace edgepose::cuda

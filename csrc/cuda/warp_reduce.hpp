// Largest and least values of a whole warp: each lane gets them.
#pragma once

#include <cstdint>

#include "../core/elementwise.hpp"
#include "launch.hpp"

namespace edgepose::cuda {

// Numbers in the order of floats: no NaN.
EDGEPOSE_HD inline std::int32_t ordered(float value) {
  std::int32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}
EDGEPOSE_HD inline float from_ordered(std::int32_t key) {
  return bits_to_float(static_cast<std::uint32_t>(key >= 0 ? key : key ^ 0x7fffffff));
}

// The same for doubles, as unsigned numbers.
EDGEPOSE_HD inline unsigned long long ordered(double value) {
  std::int64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return static_cast<unsigned long long>(bits) ^ (bits >= 0 ? 1ull << 63 : ~0ull);
}
EDGEPOSE_HD inline double from_ordered(unsigned long long key) {
  const unsigned long long bits = key ^ (key >> 63 ? 1ull << 63 : ~0ull);
  double value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

__device__ inline int this_lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }

__device__ inline unsigned warp_largest(unsigned value) {
#if defined(EDGEPOSE_EMULATION) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
  return __reduce_max_sync(kWholeWarp, value);
#else
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const unsigned other = __shfl_xor_sync(kWholeWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
#endif
}
__device__ inline int warp_largest(int value) {
  return static_cast<int>(warp_largest(static_cast<unsigned>(value) ^ 0x80000000u) ^ 0x80000000u);
}
__device__ inline unsigned long long warp_largest(unsigned long long value) {
  const auto high = static_cast<unsigned>(value >> 32);
  const unsigned most = warp_largest(high);
  const unsigned rest = warp_largest(high == most ? static_cast<unsigned>(value) : 0u);
  return static_cast<unsigned long long>(most) << 32 | rest;
}

__device__ inline int warp_least(int value) { return ~warp_largest(~value); }
__device__ inline unsigned long long warp_least(unsigned long long value) { return ~warp_largest(~value); }
__device__ inline double warp_least(double value) { return from_ordered(warp_least(ordered(value))); }

#endif

}  // namespace edgepose::cuda

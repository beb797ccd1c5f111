// One block reads one map, by groups of pixels, and finds its peak.
#pragma once

#include "../core/elementwise.hpp"
#include "launch.hpp"
#include "strips.hpp"
#include "warp_reduce.hpp"

namespace edgepose::cuda {

// Pixels that are loaded at once; as many in either precision, so that sums over a map are the same.
constexpr int kGroup = 4;
template <class T>
using Group = Strip<T, kGroup>;

// Groups that a thread loads at once; a block has as many threads as a map needs. So many blocks of the
// largest size share a processor, which limits the registers: a batch of 64 crops is under way whole.
constexpr int kHeld = 6;
constexpr int kMaxMapThreads = 384, kMaxMapWarps = kMaxMapThreads / kWarpSize;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kMapBlocks = 2;  // Turing has room for 1024 threads
#else
constexpr int kMapBlocks = 3;
#endif

template <class T>
__device__ T lowest();
template <>
__device__ inline float lowest<float>() {
  return -kInfinity;
}
template <>
__device__ inline Half lowest<Half>() {
  return {0xfc00};
}

template <class T>
struct MapReader {
  const T* map;
  int size;
  bool aligned;  // then the size is a whole number of groups, too

  __device__ int groups() const { return (size - 1) / kGroup + 1; }

  // Beyond the map stands -inf.
  __device__ Group<T> load(int group) const {
    const bool some = group < groups();
    const int first = some ? group * kGroup : 0;
    if (aligned && some) return *reinterpret_cast<const Group<T>*>(map + first);
    Group<T> made;
    for (int i = 0; i < kGroup; ++i) {
      made.values[i] = some && i < size - first ? map[first + i] : lowest<T>();
    }
    return made;
  }
};

// Orders pixels by value: the upper half of a key, whose lower half puts the first of equal ones first.
__device__ inline unsigned value_key(float value) {
  return static_cast<unsigned>(ordered(value + 0.0f)) ^ 0x80000000u;  // -0 as 0
}

// The largest pixel of each of a thread's groups, NaN where all are. Where a map has more groups than a block
// takes, it is read part by part; in each, a thread's groups lie blockDim.x apart.
template <class T>
__device__ void read_part(const MapReader<T>& reader, int first, float (&largest)[kHeld]) {
  const int step = static_cast<int>(blockDim.x);
  Group<T> groups[kHeld];
  if (reader.aligned && first + (kHeld - 1) * step < reader.groups()) {
    const auto* all = reinterpret_cast<const Group<T>*>(reader.map) + first;
    for (int i = 0; i < kHeld; ++i) groups[i] = all[i * step];
  } else {
    for (int i = 0; i < kHeld; ++i) groups[i] = reader.load(first + i * step);
  }
  for (int i = 0; i < kHeld; ++i) {
    float most = widen(groups[i].values[0]);
    for (int p = 1; p < kGroup; ++p) most = fmaxf(most, widen(groups[i].values[p]));
    largest[i] = most;
  }
}

__device__ inline int part_size() { return kHeld * static_cast<int>(blockDim.x); }

// Reads the map and brings each warp's peak to `warp_keys`; `largest` is left as the last part's.
template <class T>
__device__ void gather_peaks(const MapReader<T>& reader, float (&largest)[kHeld],
                             unsigned long long* warp_keys) {
  const int thread = static_cast<int>(threadIdx.x), groups = reader.groups();
  float best = -kInfinity;
  int best_group = 0;
  for (int part = 0; part < groups; part += part_size()) {
    read_part(reader, part + thread, largest);
    for (int i = 0; i < kHeld; ++i) {
      if (largest[i] > best) {
        best = largest[i];
        best_group = part + thread + i * static_cast<int>(blockDim.x);
      }
    }
  }
  const unsigned high = value_key(best), most = warp_largest(high);
  unsigned low = 0;
  if (high == most) {  // seldom more than a lane: its group is read once more, to find the pixel
    const Group<T> found = reader.load(best_group);
    int pixel = 0;
    for (int p = kGroup - 1; p >= 0; --p) pixel = widen(found.values[p]) == best ? p : pixel;
    low = ~static_cast<unsigned>(best_group * kGroup + pixel);
  }
  low = warp_largest(low);
  if (this_lane() == 0) warp_keys[thread / kWarpSize] = static_cast<unsigned long long>(most) << 32 | low;
}

struct MapPeak {
  int index;  // of the first largest pixel, or -1 where none is above -inf
  float value;
};

// The map's peak out of those of the warps, for each lane of a warp.
__device__ inline MapPeak block_peak(const unsigned long long* warp_keys) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const unsigned long long key = warp_largest(this_lane() < warps ? warp_keys[this_lane()] : 0ull);
  const auto high = static_cast<unsigned>(key >> 32);
  if (high == value_key(-kInfinity)) return {-1, kNaN};
  return {static_cast<int>(~static_cast<unsigned>(key)),
          from_ordered(static_cast<std::int32_t>(high ^ 0x80000000u))};
}

template <class T>
bool by_groups(const void* maps, int size) {
  return size % kGroup == 0 && aligned_to<Group<T>>(maps);
}

inline dim3 map_threads(int size) {
  const unsigned warps = ceiling(ceiling(static_cast<std::size_t>(size), kGroup), kHeld * kWarpSize);
  return dim3(kWarpSize * (warps < kMaxMapWarps ? warps : kMaxMapWarps));
}

}  // namespace edgepose::cuda

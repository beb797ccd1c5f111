// One block reads one map, by groups of 16 bytes, and finds its peak.
#pragma once

#include "../core/elementwise.hpp"
#include "launch.hpp"
#include "strips.hpp"

namespace edgepose::cuda {

constexpr int kMapThreads = 128, kMapWarps = kMapThreads / kWarpSize;
constexpr int kAtOnce = 3;  // groups that a thread loads before it looks at the first

// As many pixels as 16 bytes hold, as they lie in memory.
template <class T>
using Group = Strip<T, 16 / sizeof(T)>;

template <class T>
constexpr int kGroup = 16 / sizeof(T);

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

  __device__ int groups() const { return (size + kGroup<T> - 1) / kGroup<T>; }

  // Beyond the map stands -inf.
  __device__ Group<T> load(int group) const {
    const int first = group * kGroup<T>;
    if (aligned && first < size) return *reinterpret_cast<const Group<T>*>(map + first);
    Group<T> made;
    for (int i = 0; i < kGroup<T>; ++i) made.values[i] = first + i < size ? map[first + i] : lowest<T>();
    return made;
  }
};

// Orders pixels by value, and of equal ones the first before the others.
__device__ inline unsigned long long peak_key(float value, int index) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 as 0
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | ~static_cast<unsigned>(index);
}

// Index of the first largest pixel, or -1 where none is above -inf; the same for all threads. With a `stash`
// the groups are kept there: thread t has those whose number is t modulo kMapThreads.
template <class T>
__device__ int find_peak(const MapReader<T>& reader, Group<T>* stash, unsigned long long* warp_keys) {
  const int thread = static_cast<int>(threadIdx.x), groups = reader.groups();
  float best = -kInfinity;
  int at = 0;
  for (int first = thread; first < groups; first += kAtOnce * kMapThreads) {
    Group<T> found[kAtOnce];
    if (reader.aligned && first + (kAtOnce - 1) * kMapThreads < groups) {  // all loads under way at once
      const auto* all = reinterpret_cast<const Group<T>*>(reader.map);
      for (int i = 0; i < kAtOnce; ++i) found[i] = all[first + i * kMapThreads];
    } else {
      for (int i = 0; i < kAtOnce; ++i) found[i] = reader.load(first + i * kMapThreads);
    }
    for (int i = 0; i < kAtOnce; ++i) {
      const int group = first + i * kMapThreads;
      if (stash && group < groups) stash[group] = found[i];
      for (int p = 0; p < kGroup<T>; ++p) {
        const float value = widen(found[i].values[p]);
        if (value > best) {
          best = value;
          at = group * kGroup<T> + p;
        }
      }
    }
  }
  unsigned long long key = peak_key(best, at);
  for (int step = kWarpSize / 2; step; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kWholeWarp, key, step);
    key = other > key ? other : key;
  }
  if (thread % kWarpSize == 0) warp_keys[thread / kWarpSize] = key;
  __syncthreads();
  for (int i = 0; i < kMapWarps; ++i) key = warp_keys[i] > key ? warp_keys[i] : key;
  if (key >> 32 == peak_key(-kInfinity, 0) >> 32) return -1;
  return static_cast<int>(~static_cast<unsigned>(key));
}

template <class T>
bool by_groups(const void* maps, int size) {
  return size % kGroup<T> == 0 && aligned_to<Group<T>>(maps);
}

}  // namespace edgepose::cuda

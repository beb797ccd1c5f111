// Bilinear resizing as torch's interpolate does it with align_corners False.
#pragma once

#include <cstddef>

#include "arena.hpp"
#include "final_map.hpp"
#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {

// Up to this size the sources of a doubled axis are exact.
constexpr int kMaxDoubled = 1 << 20;

// The taps of a whole axis.
struct Axis {
  int from = 0, to = 0;
  bool whole = true;  // nothing is resized: each pixel is its own source
  bool doubled = false;
  int *first = nullptr, *second = nullptr;
  float *weight0 = nullptr, *weight1 = nullptr;

  // Of a resize that changes another axis only, this one is computed all the same.
  void build(int source, int target, bool unchanged, Arena& arena) {
    from = source;
    to = target;
    whole = unchanged;
    doubled = target == 2 * source && target <= kMaxDoubled;
    if (whole) return;
    const auto count = static_cast<std::size_t>(target);
    first = arena.take<int>(count);
    second = arena.take<int>(count);
    weight0 = arena.take<float>(count);
    weight1 = arena.take<float>(count);
    if (arena.counting()) return;
    for (int i = 0; i < target; ++i) {
      const Tap tap = tap_at(i, source, target);
      first[i] = tap.first;
      second[i] = tap.second;
      weight0[i] = tap.weight0;
      weight1[i] = tap.weight1;
    }
  }

  Tap tap(int i) const { return whole ? Tap{i, i, 1, 0} : Tap{first[i], second[i], weight0[i], weight1[i]}; }

  // The source pixels of targets begin to end - 1, as [lowest, highest].
  int lowest(int begin) const { return whole ? begin : first[begin]; }
  int highest(int end) const { return whole ? end - 1 : second[end - 1]; }
};

// out[x - begin] for the targets begin to end - 1 of a row.
inline void resize_row(const float* row, const Axis& axis, int begin, int end, float* __restrict out) {
  const auto one = [&](int x) {
    out[x - begin] = axis.weight0[x] * row[axis.first[x]] + axis.weight1[x] * row[axis.second[x]];
  };
  if (!axis.doubled) {
    for (int x = begin; x < end; ++x) one(x);
    return;
  }
  int x = begin;
  for (; x < end && (x == 0 || x % 2 == 0); ++x) one(x);
  const int limit = end < axis.to ? end : axis.to - 1;  // the last pixel has but one source
  const int pairs = (limit - x) > 0 ? (limit - x) / 2 : 0;
  const float* from = row + (x - 1) / 2;
  float* to = out + (x - begin);
  for (int i = 0; i < pairs; ++i) {
    const float a = from[i], b = from[i + 1];
    to[2 * i] = 0.75f * a + 0.25f * b;
    to[2 * i + 1] = 0.25f * a + 0.75f * b;
  }
  for (x += 2 * pairs; x < end; ++x) one(x);
}

inline void blend_rows(const float* a, const float* b, float weight0, float weight1, int count,
                       float* __restrict out) {
  for (int x = 0; x < count; ++x) out[x] = weight0 * a[x] + weight1 * b[x];
}

}  // namespace edgepose::EDGEPOSE_ISA

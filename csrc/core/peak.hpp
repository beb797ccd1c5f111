// The first largest pixel of a map.
#pragma once

#include <cstddef>

#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {

struct Peak {
  float value;           // -inf where no pixel is above it
  std::ptrdiff_t index;  // then without meaning
};

template <class T>
inline Peak find_peak(const T* map, std::ptrdiff_t size) {
  float best = -kInfinity;
  std::ptrdiff_t i = 0;
  if (size >= 4 * kLanes) {
    Floats a = broadcast(-kInfinity), b = a, c = a, d = a;
    for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
      a = larger(load(map + i), a);
      b = larger(load(map + i + kLanes), b);
      c = larger(load(map + i + 2 * kLanes), c);
      d = larger(load(map + i + 3 * kLanes), d);
    }
    a = larger(larger(a, b), larger(c, d));
    for (int lane = 0; lane < kLanes; ++lane) best = a[lane] > best ? a[lane] : best;
  }
  for (; i < size; ++i) {
    const float value = widen(map[i]);
    best = value > best ? value : best;
  }
  if (best == -kInfinity) return {best, 0};
  const Floats target = broadcast(best);
  const Floats lowest = broadcast(-kInfinity);
  for (i = 0; i + 4 * kLanes <= size; i += 4 * kLanes) {
    Floats block = larger(load(map + i), lowest);
    for (int part = 1; part < 4; ++part) block = larger(load(map + i + part * kLanes), block);
    if (any_reaches(block, target)) break;
  }
  while (!(widen(map[i]) >= best)) ++i;
  return {best, i};
}

}  // namespace edgepose::EDGEPOSE_ISA

#include "flip_average.hpp"

#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

// out[x] = (own[x] + last[-x]) / 2 for `count` pixels
template <class T>
void average(const T* own, const T* last, int count, float* out) {
  int x = 0;
  for (; x + kLanes <= count; x += kLanes) {
    store(out + x, (load(own + x) + reversed(load(last - x - (kLanes - 1)))) * 0.5f);
  }
  for (; x < count; ++x) out[x] = 0.5f * (widen(own[x]) + widen(last[-x]));
}

template <class T>
void average_all(const Maps& maps, const T* flipped, const std::int64_t* order, std::size_t joints,
                 bool shift, float* out) {
  const T* own = static_cast<const T*>(maps.data);
  const std::ptrdiff_t width = maps.width, size = maps.height * width;
  for (std::size_t i = 0; i < maps.count; ++i) {
    const std::size_t joint = i % joints;
    const T* other = flipped + static_cast<std::ptrdiff_t>(i - joint + order[joint]) * size;
    for (std::ptrdiff_t y = 0; y < maps.height; ++y, own += width, other += width, out += width) {
      const T* last = other + width - 1;
      if (shift) {
        out[0] = 0.5f * (widen(own[0]) + widen(*last));
        average(own + 1, last, maps.width - 1, out + 1);
      } else {
        average(own, last, maps.width, out);
      }
    }
  }
}

}  // namespace

void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out) {
  if (maps.half) {
    average_all(maps, static_cast<const Half*>(flipped), order, joints, shift, out);
  } else {
    average_all(maps, static_cast<const float*>(flipped), order, joints, shift, out);
  }
}

}  // namespace edgepose::EDGEPOSE_ISA

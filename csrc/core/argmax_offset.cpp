#include "argmax_offset.hpp"

#include "peak.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

template <class T>
void decode(const T* map, int height, int width, Refine refine, float* coords, float* score) {
  const Peak peak = find_peak(map, static_cast<std::ptrdiff_t>(height) * width);
  if (peak.value == -kInfinity) {
    coords[0] = coords[1] = *score = kNaN;
    return;
  }
  *score = peak.value;
  if (peak.value <= 0) {
    coords[0] = coords[1] = 0;
    return;
  }
  const int column = static_cast<int>(peak.index % width), row = static_cast<int>(peak.index / width);
  Point at{static_cast<double>(column), static_cast<double>(row)};
  if (refine == Refine::quarter) {
    at = quarter_step(map, height, width, at.x, at.y);
  } else if (refine == Refine::taylor) {
    const Point step = taylor_step(map, height, width, column, row);
    at = {at.x + static_cast<float>(step.x), at.y + static_cast<float>(step.y)};
  }
  coords[0] = static_cast<float>(at.x);
  coords[1] = static_cast<float>(at.y);
}

template <class T>
void decode_all(const Maps& maps, Refine refine, float* coords, float* scores) {
  const T* map = static_cast<const T*>(maps.data);
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(maps.height) * maps.width;
  for (std::size_t i = 0; i < maps.count; ++i, map += size) {
    decode(map, maps.height, maps.width, refine, coords + 2 * i, scores + i);
  }
}

template <class T>
void offset_all(const Maps& maps, const float* coords, float* out) {
  const T* map = static_cast<const T*>(maps.data);
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(maps.height) * maps.width;
  for (std::size_t i = 0; i < maps.count; ++i, map += size) {
    const Point at = quarter_step(map, maps.height, maps.width, coords[2 * i], coords[2 * i + 1]);
    out[2 * i] = static_cast<float>(at.x);
    out[2 * i + 1] = static_cast<float>(at.y);
  }
}

}  // namespace

void argmax_offset(const Maps& maps, Refine refine, float* coords, float* scores) {
  const auto run = maps.half ? decode_all<Half> : decode_all<float>;
  run(maps, refine, coords, scores);
}

void quarter_offset(const Maps& maps, const float* coords, float* out) {
  const auto run = maps.half ? offset_all<Half> : offset_all<float>;
  run(maps, coords, out);
}

}  // namespace edgepose::EDGEPOSE_ISA

// Single pixels of the final map of a bottom-up network, from its raw maps; the host and the device alike.
// Every rounding is one that edgepose/kernels/reference_bottomup.py states.
#pragma once

#include "elementwise.hpp"
#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

EDGEPOSE_HD inline int smaller_of(int a, int b) { return a < b ? a : b; }
EDGEPOSE_HD inline int larger_of(int a, int b) { return a > b ? a : b; }

// A bilinear mean exceeds its largest tap by a few roundings at most, which this covers.
EDGEPOSE_HD inline float raised(float bound) {
  const float with_rounding = bound + ((bound < 0 ? -bound : bound) * 2e-6f + 1e-37f);
  return with_rounding == with_rounding ? with_rounding : bound;
}

EDGEPOSE_HD inline float lowered(float bound) { return -raised(-bound); }

EDGEPOSE_HD inline float at(const Maps& maps, std::ptrdiff_t channel, int y, int x) {
  const std::ptrdiff_t i = (channel * maps.height + y) * maps.width + x;
  return maps.half ? widen(static_cast<const Half*>(maps.data)[i]) : static_cast<const float*>(maps.data)[i];
}

// The two source pixels that make one pixel of a resized axis, and their weights.
struct Tap {
  int first, second;
  float weight0, weight1;
};

EDGEPOSE_HD inline Tap tap_at(int i, int from, int to) {
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const float shifted = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
  const float source = shifted > 0 ? shifted : 0;
  const int whole = static_cast<int>(source);
  const int first = whole < from - 1 ? whole : from - 1;
  const float offset = source - static_cast<float>(first);
  const float weight = offset < 1 ? offset : 1;
  return {first, first < from - 1 ? first + 1 : first, 1 - weight, weight};
}

// `value(y, x)` between the taps of rows and of columns.
template <class Value>
EDGEPOSE_HD float bilinear(const Tap& v, const Tap& h, const Value& value) {
  const float above = h.weight0 * value(v.first, h.first) + h.weight1 * value(v.first, h.second);
  const float below = h.weight0 * value(v.second, h.first) + h.weight1 * value(v.second, h.second);
  return v.weight0 * above + v.weight1 * below;
}

// What one run says of its joints, heatmaps or one of the tags: the mean of parts that are resized to one
// size, mirrored where the run was flipped, and resized again to the final map.
struct PlaneSource {
  const Maps* parts;
  int count, height, width, final_height, final_width;
  bool flipped, same_size;  // as the final map

  EDGEPOSE_HD int channel_of(int joint, const std::int64_t* flip) const {
    if (parts[0].count == 1) return 0;
    return flipped ? static_cast<int>(flip[joint]) : joint;
  }

  EDGEPOSE_HD bool native_size(int i) const { return parts[i].height == height && parts[i].width == width; }

  // One pixel of the final map.
  EDGEPOSE_HD float sample(int channel, int y, int x) const {
    if (same_size) return pixel(channel, y, x);
    return bilinear(tap_at(y, height, final_height), tap_at(x, width, final_width),
                    [&](int row, int column) { return pixel(channel, row, column); });
  }

  // One pixel at the plane's own size.
  EDGEPOSE_HD float pixel(int channel, int y, int x) const {
    const int column = flipped ? width - 1 - x : x;
    float total = part(0, channel, y, column);
    for (int i = 1; i < count; ++i) total += part(i, channel, y, column);
    return count == 1 ? total : total / static_cast<float>(count);
  }

  EDGEPOSE_HD float part(int i, int channel, int y, int x) const {
    const Maps& maps = parts[i];
    if (native_size(i)) return at(maps, channel, y, x);
    return bilinear(tap_at(y, maps.height, height), tap_at(x, maps.width, width),
                    [&](int row, int column) { return at(maps, channel, row, column); });
  }
};

// Puts the runs' values together; `value(i)` is that of run i, `flipped(i)` whether it belongs to the run
// before it. Monotone in each.
template <class Flipped, class Value>
EDGEPOSE_HD float combine(int runs, int scales, const Flipped& flipped, const Value& value) {
  float total = 0;
  for (int i = 0; i < runs; ++i) {
    float of_scale = value(i);
    const bool pair = i + 1 < runs && flipped(i + 1);
    if (pair) of_scale = (of_scale + value(++i)) * 0.5f;
    total += of_scale;
  }
  return scales == 1 ? total : total / static_cast<float>(scales);
}

// A joint's pixel along an axis: its coordinate truncated and clamped; NaN is 0.
EDGEPOSE_HD inline int pixel_of(float coordinate, int length) {
  if (!(coordinate > 0)) return 0;
  return coordinate < static_cast<float>(length - 1) ? static_cast<int>(coordinate) : length - 1;
}

// Step along an axis towards the larger neighbour, as the published bottom-up code makes it.
EDGEPOSE_HD inline float quarter_towards(float before, float after) {
  return after > before ? 0.25f : -0.25f;
}

}  // namespace edgepose::EDGEPOSE_ISA

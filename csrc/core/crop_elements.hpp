// What crops compute per position and per pixel, on the host and on a device.
#pragma once

#include "elementwise.hpp"
#include "kernels.hpp"

namespace edgepose::EDGEPOSE_ISA {

// Position along one axis: the pixel before it and the share of the next.
template <class Share>
struct Tap {
  int index;
  Share along;
};

EDGEPOSE_HD inline double position(double slope, double start, int x) { return slope * x + start; }

// Everything from -1 or beyond the last pixel on is border, so nothing is lost by the clip.
EDGEPOSE_HD inline double clipped(double position, int length) {
  return position < -2 ? -2 : position > length + 1.0 ? length + 1.0 : position;
}

// --- crops in floating point ------------------------------------------------------------------

EDGEPOSE_HD inline float blend(float a, float b, float share) { return a + (b - a) * share; }

struct Normalization {
  float fill[3];
  // By channel of the result: where it comes from, and value * gain + offset.
  int source[3];
  float gain[3], offset[3];
};

inline Normalization normalization(const CropOptions& options) {
  Normalization made;
  for (int c = 0; c < 3; ++c) {
    made.fill[c] = static_cast<float>(options.fill[c]);
    made.source[c] = options.swap_rb ? 2 - c : c;
    made.gain[c] = static_cast<float>(1 / (255 * options.std[c]));
    made.offset[c] = static_cast<float>(-options.mean[c] / options.std[c]);
  }
  return made;
}

// --- crops in whole numbers, which every implementation rounds alike ----------------------------

constexpr int kBits = 8;  // positions are kept to 1/256 px
constexpr int kSteps = 1 << kBits;

// Of 0 to 255 levels: 128 times the value between two pixels.
EDGEPOSE_HD inline int across(int here, int next, int share) {
  return (here * kSteps + (next - here) * share) >> 1;
}

// The level between two results of `across`.
EDGEPOSE_HD inline int down(int upper, int lower, int share) {
  return (upper + (((lower - upper) * share + kSteps / 2) >> kBits) + 64) >> 7;
}

}  // namespace edgepose::EDGEPOSE_ISA

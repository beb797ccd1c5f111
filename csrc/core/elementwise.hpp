// Per-pixel and per-joint arithmetic: what a kernel computes, apart from how it walks over memory.
// Nothing here depends on the host, so device code compiles the same functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define EDGEPOSE_HD __host__ __device__
#else
#define EDGEPOSE_HD
#endif

// Each instruction set compiles its own copy: the linker must never hand code made for one processor
// to another.
namespace edgepose::EDGEPOSE_ISA {

// Pixels whose exponent lies this far below the peak's weigh nothing in a soft-argmax.
constexpr float kWeightCutoff = 50.0f;
// Soft coordinates are rounded to 1 / kRoundingSteps px before the nearest pixel is sought.
constexpr float kRoundingSteps = 16384.0f;
// Share of a second moment that may be due to the offset of the mean from the point it is taken about.
constexpr double kMaxOffsetShare = 15.0 / 16.0;
constexpr double kLogFloor = 1e-10;
constexpr double kMinCurvature = 1e-6;
constexpr double kMaxCondition = 1e-4;
constexpr double kMaxTaylorStep = 1.0;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Point {
  double x, y;
};

// IEEE half precision as raw bits.
struct Half {
  std::uint16_t bits;
};

EDGEPOSE_HD inline float bits_to_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

EDGEPOSE_HD inline float widen(float value) { return value; }

EDGEPOSE_HD inline float widen(Half value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t rest = (value.bits & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return bits_to_float(sign | 0x7f800000u | rest);  // inf, NaN
  return bits_to_float(sign | 0x3f800000u) * (bits_to_float(rest) * 0x1p112f);
#endif
}

// A pixel as it counts: NaN is -inf.
EDGEPOSE_HD inline float usable(float value) { return value == value ? value : -kInfinity; }

// Quarter step from a pixel towards its larger neighbours.
template <class T>
EDGEPOSE_HD Point quarter_towards(const T* map, int height, int width, int column, int row) {
  if (!(1 < column && column < width - 1 && 1 < row && row < height - 1)) return {0, 0};
  const T* at = map + static_cast<std::ptrdiff_t>(row) * width + column;
  const float right = usable(widen(at[1])), left = usable(widen(at[-1]));
  const float below = usable(widen(at[width])), above = usable(widen(at[-width]));
  return {0.25 * ((right > left) - (right < left)), 0.25 * ((below > above) - (below < above))};
}

// The same from the pixel nearest to (x, y).
template <class T>
EDGEPOSE_HD Point quarter_step(const T* map, int height, int width, double x, double y) {
  const double column = floor(x + 0.5), row = floor(y + 0.5);
  if (!(1 < column && column < width - 1 && 1 < row && row < height - 1)) return {x, y};
  const Point step = quarter_towards(map, height, width, static_cast<int>(column), static_cast<int>(row));
  return {x + step.x, y + step.y};
}

EDGEPOSE_HD inline double floored_log(float value) {
  return log(value > kLogFloor ? static_cast<double>(value) : kLogFloor);  // NaN is not above the floor
}

EDGEPOSE_HD inline double clipped_step(double step) {
  return step < -kMaxTaylorStep ? -kMaxTaylorStep : step > kMaxTaylorStep ? kMaxTaylorStep : step;
}

// Whether all pixels that a Newton step takes lie in the map.
EDGEPOSE_HD inline bool has_taylor_step(int height, int width, int column, int row) {
  return column >= 2 && column < width - 2 && row >= 2 && row < height - 2;
}

// One Newton step on the logarithm of the map, which is at(dx, dy) that far from the peak.
template <class At>
EDGEPOSE_HD Point newton_step(const At& at) {
  const double middle = at(0, 0);
  const double gx = 0.5 * (at(1, 0) - at(-1, 0)), gy = 0.5 * (at(0, 1) - at(0, -1));
  const double xx = 0.25 * (at(2, 0) - 2 * middle + at(-2, 0));
  const double yy = 0.25 * (at(0, 2) - 2 * middle + at(0, -2));
  const double xy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1));
  const double determinant = xx * yy - xy * xy;
  const bool peaked = xx < -kMinCurvature && yy < -kMinCurvature && determinant > kMaxCondition * (xx * yy);
  if (!peaked) return {0, 0};
  const double x = (xy * gy - yy * gx) / determinant, y = (xy * gx - xx * gy) / determinant;
  if (!(x - x == 0 && y - y == 0)) return {0, 0};  // not finite
  return {clipped_step(x), clipped_step(y)};
}

// The Newton step from the peak at (column, row).
template <class T>
EDGEPOSE_HD Point taylor_step(const T* map, int height, int width, int column, int row) {
  if (!has_taylor_step(height, width, column, row)) return {0, 0};
  const T* peak = map + static_cast<std::ptrdiff_t>(row) * width + column;
  return newton_step(
      [&](std::ptrdiff_t dx, std::ptrdiff_t dy) { return floored_log(widen(peak[dy * width + dx])); });
}

// Index of the pixel whose value is the score of a soft coordinate.
EDGEPOSE_HD inline int nearest_pixel(float coordinate, int length) {
  const float nearest = rintf(rintf(coordinate * kRoundingSteps) / kRoundingSteps);  // exact but for rint
  return nearest < 0 ? 0 : nearest >= static_cast<float>(length - 1) ? length - 1 : static_cast<int>(nearest);
}

// Sums of weights and of their first and second moments about a pixel.
struct Moments {
  double total = 0, x = 0, y = 0, xx = 0, xy = 0, yy = 0;
};

// Mean relative to that pixel, and central second moments.
struct Spread {
  double x, y, xx, xy, yy;
  bool accurate;  // false: take the moments again about the pixel nearest to the mean
};

// Moments over their total.
struct Means {
  double x, y, xx, xy, yy;
};

EDGEPOSE_HD inline Spread central(const Means& m) {
  const double x = m.x, y = m.y, xx = m.xx - x * x, yy = m.yy - y * y;
  const bool accurate =
      (x * x <= kMaxOffsetShare * m.xx && y * y <= kMaxOffsetShare * m.yy) || (rint(x) == 0 && rint(y) == 0);
  return {x, y, xx > 0 ? xx : 0, m.xy - x * y, yy > 0 ? yy : 0, accurate};
}

EDGEPOSE_HD inline Spread central(const Moments& m) {
  return central(Means{m.x / m.total, m.y / m.total, m.xx / m.total, m.xy / m.total, m.yy / m.total});
}

}  // namespace edgepose::EDGEPOSE_ISA

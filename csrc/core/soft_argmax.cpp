#include "soft_argmax.hpp"

#include "peak.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

// What one row adds to the moments, per lane; positions count from the reference column.
struct RowSums {
  Floats total{}, x{}, xx{};

  void add(Floats values, Floats limit, Floats peak, float beta, Floats dx) {
    const Floats weight = keep_reaching(values, limit, exp_negative((values - peak) * beta));
    const Floats first = weight * dx;
    total += weight;
    x += first;
    xx += first * dx;
  }
};

// Moments of the weights exp(beta (map - peak)) about a pixel. Weights fall off so fast that most
// rows of a peaked map hold none: one comparison skips them.
template <class T>
Moments moments(const T* map, int height, int width, float peak_value, float beta, int column, int row) {
  const Floats peak = broadcast(peak_value);
  const Floats limit = broadcast(peak_value - kWeightCutoff / beta);
  Floats lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<float>(i);
  const int whole = width - width % kLanes;
  Moments sums;
  for (int y = 0; y < height; ++y) {
    const T* values = map + static_cast<std::ptrdiff_t>(y) * width;
    Floats rest = broadcast(-kInfinity);
    for (int x = whole; x < width; ++x) rest[x - whole] = widen(values[x]);
    Floats largest = larger(rest, broadcast(-kInfinity));
    for (int x = 0; x < whole; x += kLanes) largest = larger(load(values + x), largest);
    if (!any_reaches(largest, limit)) continue;
    RowSums row_sums;
    for (int x = 0; x < whole; x += kLanes) {
      row_sums.add(load(values + x), limit, peak, beta, lane + static_cast<float>(x - column));
    }
    if (whole < width) row_sums.add(rest, limit, peak, beta, lane + static_cast<float>(whole - column));
    const double total = sum(row_sums.total), first = sum(row_sums.x), dy = y - row;
    sums.total += total;
    sums.x += first;
    sums.xx += sum(row_sums.xx);
    sums.y += total * dy;
    sums.xy += first * dy;
    sums.yy += total * dy * dy;
  }
  return sums;
}

template <class T>
void decode(const T* map, int height, int width, float beta, float* coords, float* score, float* covariance) {
  const Peak peak = find_peak(map, static_cast<std::ptrdiff_t>(height) * width);
  if (peak.value == -kInfinity) {
    coords[0] = coords[1] = *score = kNaN;
    for (int i = 0; i < 4; ++i) covariance[i] = kNaN;
    return;
  }
  int column = static_cast<int>(peak.index % width), row = static_cast<int>(peak.index / width);
  if (peak.value == kInfinity) {
    coords[0] = static_cast<float>(column);
    coords[1] = static_cast<float>(row);
    *score = peak.value;
    for (int i = 0; i < 4; ++i) covariance[i] = 0;
    return;
  }
  Spread spread = central(moments(map, height, width, peak.value, beta, column, row));
  if (!spread.accurate) {
    column += static_cast<int>(rint(spread.x));
    row += static_cast<int>(rint(spread.y));
    spread = central(moments(map, height, width, peak.value, beta, column, row));
  }
  coords[0] = static_cast<float>(column + spread.x);
  coords[1] = static_cast<float>(row + spread.y);
  covariance[0] = static_cast<float>(spread.xx);
  covariance[1] = covariance[2] = static_cast<float>(spread.xy);
  covariance[3] = static_cast<float>(spread.yy);
  const int x = nearest_pixel(coords[0], width), y = nearest_pixel(coords[1], height);
  *score = widen(map[static_cast<std::ptrdiff_t>(y) * width + x]);
}

template <class T>
void decode_all(const Maps& maps, float beta, float* coords, float* scores, float* covariance) {
  const T* map = static_cast<const T*>(maps.data);
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(maps.height) * maps.width;
  for (std::size_t i = 0; i < maps.count; ++i, map += size) {
    decode(map, maps.height, maps.width, beta, coords + 2 * i, scores + i, covariance + 4 * i);
  }
}

}  // namespace

void soft_argmax(const Maps& maps, float beta, float* coords, float* scores, float* covariance) {
  const auto run = maps.half ? decode_all<Half> : decode_all<float>;
  run(maps, beta, coords, scores, covariance);
}

}  // namespace edgepose::EDGEPOSE_ISA

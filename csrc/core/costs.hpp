// Costs of joining a peak to a person, as edgepose/kernels/reference_grouping.py specifies them; the host and
// the device alike.
#pragma once

#include "elementwise.hpp"

namespace edgepose::EDGEPOSE_ISA {

constexpr double kFixedPoint = 0x1p28;
constexpr double kMaxDistance = 65536, kMaxScore = 0x1p22;
constexpr double kUnrealCost = 1e10;
constexpr double kAllWhole = 0x1p52;

// A pair of costs, compared by the first, then by the second: first * 2^64 + second.
__extension__ typedef __int128 PairCost;

EDGEPOSE_HD inline PairCost pair_cost(std::int64_t first, std::int64_t second) {
  return static_cast<PairCost>(first) * (static_cast<PairCost>(1) << 64) + second;
}

// The nearest whole number, to even, for |value| < 2^51.
EDGEPOSE_HD inline double nearest_whole(double value) {
  const double magic = 1.5 * kAllWhole;
  return (value + magic) - magic;
}

// A score as it counts in costs.
EDGEPOSE_HD inline double usable_score(float score) {
  if (score != score) return 0;
  const double value = score;
  return value < -kMaxScore ? -kMaxScore : value > kMaxScore ? kMaxScore : value;
}

// A distance from the sum of squares.
EDGEPOSE_HD inline double usable_distance(double squares) {
  const double root = sqrt(squares);
  return root < kMaxDistance ? root : kMaxDistance;  // NaN is that far, too
}

}  // namespace edgepose::EDGEPOSE_ISA

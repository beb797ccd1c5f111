// The threshold of peaks.
#pragma once

#include "elementwise.hpp"

namespace edgepose::EDGEPOSE_ISA {

// The least float that is above the threshold; infinity also where there is none.
inline float least_above(double threshold) {
  const float nearest = static_cast<float>(threshold);
  return static_cast<double>(nearest) > threshold ? nearest : nextafterf(nearest, kInfinity);
}

}  // namespace edgepose::EDGEPOSE_ISA

// Neighbouring values that one thread loads and stores at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/elementwise.hpp"

namespace edgepose::cuda {

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Strip {
  T values[kCount];
};

template <class Strip>
bool aligned_to(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignof(Strip) == 0;
}

// As many rows as a grid may have along y; the others follow in steps of that.
constexpr std::size_t kMaxGridRows = 65535;

inline unsigned grid_rows(std::size_t count) {
  return static_cast<unsigned>(count < kMaxGridRows ? count : kMaxGridRows);
}

}  // namespace edgepose::cuda

// Working memory, cut to pieces.
#pragma once

#include <cstddef>

#include "elementwise.hpp"

namespace edgepose::EDGEPOSE_ISA {

// Memory handed out piece by piece; with a null base it only counts.
class Arena {
 public:
  EDGEPOSE_HD explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  EDGEPOSE_HD T* take(std::size_t count) {
    used_ = (used_ + 63) / 64 * 64;
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += count * sizeof(T);
    return piece;
  }

  EDGEPOSE_HD bool counting() const { return !base_; }
  EDGEPOSE_HD std::size_t used() const { return used_ + 64; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace edgepose::EDGEPOSE_ISA

// Which instruction sets this build has and this processor can run. Compiled for the baseline.
#include "kernels.hpp"

namespace edgepose {

namespace portable {
extern const KernelTable kernels;
}
#ifdef EDGEPOSE_HAS_X86_VARIANTS
namespace avx2 {
extern const KernelTable kernels;
}
namespace avx512 {
extern const KernelTable kernels;
}
#endif

const std::vector<Isa>& usable_isas() {
  static const std::vector<Isa> usable = [] {
    std::vector<Isa> found{{"portable", &portable::kernels}};
#ifdef EDGEPOSE_HAS_X86_VARIANTS
    __builtin_cpu_init();
    // Every processor with AVX2 also has the half-precision conversions (F16C).
    if (__builtin_cpu_supports("avx2")) {
      found.push_back({"avx2", &avx2::kernels});
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found.push_back({"avx512", &avx512::kernels});
      }
    }
#endif
    return found;
  }();
  return usable;
}

}  // namespace edgepose

// How kernels are started, the same for a GPU and for the emulation of one in tests.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

// Shared memory whose size the launch says, at the start of a kernel.
#ifdef __CUDACC__
#define EDGEPOSE_DYNAMIC_SHARED(Type, name)                        \
  extern __shared__ __align__(16) unsigned char edgepose_shared[]; \
  Type* const name = reinterpret_cast<Type*>(edgepose_shared)
#else
#define EDGEPOSE_DYNAMIC_SHARED(Type, name) Type* const name = static_cast<Type*>(emulation::dynamic_shared())
#endif

// Before a loop whose arrays are to be held in registers.
#ifdef __CUDACC__
#define EDGEPOSE_UNROLL _Pragma("unroll")
#else
#define EDGEPOSE_UNROLL
#endif

namespace edgepose::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else the next launch would find it once more
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

// Starts a kernel, which is named for the error.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
            std::size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
#ifdef __CUDACC__
  kernel<<<blocks, threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
#else
  emulation::submit(stream, [=] {
    emulation::run(blocks, threads, shared_bytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
  });
#endif
  check(cudaGetLastError(), name);
}

#endif

inline unsigned ceiling(std::size_t count, std::size_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace edgepose::cuda

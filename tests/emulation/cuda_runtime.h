// The CUDA runtime on the CPU, for tests: the .cu sources of csrc/cuda compile against this header as plain
// C++. The threads of a block run as fibers, one at a time, and change at barriers and warp functions; blocks
// run one after the other. Device memory is host memory, so that the sanitizers see every access.
//
// EMULATION_ORDER=forward (default), reverse or random says in which order threads run, so that a missing
// barrier shows in the results. Threads that wait for each other for ever, lanes that a mask names and that
// are elsewhere, and barriers that some threads of a block skip end the process with a message.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
// Blocks of one launch run one after the other, and launches hold a lock.
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaError_t = int;
using cudaStream_t = struct EmulatedStream*;
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = struct EmulatedGraph*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
                      cudaErrorStreamCaptureInvalidated = 901, cudaErrorIllegalState = 401;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

cudaError_t cudaSetDevice(int device);
cudaError_t cudaMalloc(void** pointer, std::size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t);
constexpr unsigned cudaStreamNonBlocking = 1;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace emulation {

// Takes no part in finding out T.
template <class T>
struct Identity {
  using type = T;
};
template <class T>
using Same = typename Identity<T>::type;

struct Place {
  dim3 thread, block, threads, blocks;
};
const Place& place();

// Runs work now, or records it where the stream is captured.
void submit(cudaStream_t stream, std::function<void()> work);
// Runs `body` once per thread.
void run(dim3 blocks, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body);
// As many bytes as the launch asked for, of this block; not zero at first.
void* dynamic_shared();

// Waits for all threads of the block that have not ended; returns how many gave a true value.
int block_barrier(const char* file, int line, bool value);
// Waits for the lanes of the mask; returns the values of all of them, by lane.
const std::uint64_t* warp_exchange(const char* file, int line, unsigned mask, std::uint64_t value);
int lane();

template <class T>
T shuffle(const char* file, int line, unsigned mask, T value, int source, int width, bool inside) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const int from = inside ? lane() / width * width + source % width : lane();
  const std::uint64_t found = warp_exchange(file, line, mask, bits)[from];
  std::memcpy(&value, &found, sizeof value);
  return value;
}

inline unsigned ballot(const char* file, int line, unsigned mask, bool value) {
  const std::uint64_t* values = warp_exchange(file, line, mask, value);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (mask >> i & 1u && values[i]) ? 1u << i : 0u;
  return bits;
}

inline unsigned reduce_max(const char* file, int line, unsigned mask, unsigned value) {
  const std::uint64_t* values = warp_exchange(file, line, mask, value);
  std::uint64_t most = 0;
  for (int i = 0; i < 32; ++i) most = (mask >> i & 1u) && values[i] > most ? values[i] : most;
  return static_cast<unsigned>(most);
}

// Lanes out of range keep their own value.
template <class T>
T shuffle_by(const char* file, int line, unsigned mask, T value, int step, int width) {
  const int inner = lane() % width + step;
  return shuffle(file, line, mask, value, inner, width, inner >= 0 && inner < width);
}

template <class T, class Change>
T change(T* at, const Change& changed) {
  const T before = *at;
  *at = changed(before);
  return before;
}

}  // namespace emulation

#define threadIdx (::emulation::place().thread)
#define blockIdx (::emulation::place().block)
#define blockDim (::emulation::place().threads)
#define gridDim (::emulation::place().blocks)
#define __syncthreads() ((void)::emulation::block_barrier(__FILE__, __LINE__, false))
#define __syncthreads_count(v) (::emulation::block_barrier(__FILE__, __LINE__, (v)))
#define __syncthreads_or(v) (::emulation::block_barrier(__FILE__, __LINE__, (v)) != 0)
#define __syncwarp(...) \
  ((void)::emulation::warp_exchange(__FILE__, __LINE__, ::emulation::whole(__VA_ARGS__), 0))
#define __shfl_sync(mask, value, ...) (::emulation::shfl(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_xor_sync(mask, value, ...) \
  (::emulation::shfl_xor(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_down_sync(mask, value, ...) \
  (::emulation::shfl_down(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_up_sync(mask, value, ...) (::emulation::shfl_up(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __ballot_sync(mask, value) (::emulation::ballot(__FILE__, __LINE__, mask, (value)))
#define __any_sync(mask, value) (::emulation::ballot(__FILE__, __LINE__, mask, (value)) != 0)
#define __reduce_max_sync(mask, value) (::emulation::reduce_max(__FILE__, __LINE__, mask, value))
#define __all_sync(mask, value) (::emulation::ballot(__FILE__, __LINE__, mask, (value)) == (mask))

namespace emulation {

inline unsigned whole(unsigned mask = 0xffffffffu) { return mask; }

template <class T>
T shfl(const char* file, int line, unsigned mask, T value, int source, int width = 32) {
  return shuffle(file, line, mask, value, source, width, true);
}
template <class T>
T shfl_xor(const char* file, int line, unsigned mask, T value, int bits, int width = 32) {
  const int inner = lane() % width ^ bits;
  return shuffle(file, line, mask, value, inner, width, inner < width);
}
template <class T>
T shfl_down(const char* file, int line, unsigned mask, T value, int step, int width = 32) {
  return shuffle_by(file, line, mask, value, step, width);
}
template <class T>
T shfl_up(const char* file, int line, unsigned mask, T value, int step, int width = 32) {
  return shuffle_by(file, line, mask, value, -step, width);
}

}  // namespace emulation

template <class T>
T atomicAdd(T* at, emulation::Same<T> value) {
  return emulation::change(at, [&](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMax(T* at, emulation::Same<T> value) {
  return emulation::change(at, [&](T before) { return before > value ? before : value; });
}
template <class T>
T atomicMin(T* at, emulation::Same<T> value) {
  return emulation::change(at, [&](T before) { return before < value ? before : value; });
}
template <class T>
T atomicExch(T* at, emulation::Same<T> value) {
  return emulation::change(at, [&](T) { return value; });
}
template <class T>
T atomicOr(T* at, emulation::Same<T> value) {
  return emulation::change(at, [&](T before) { return static_cast<T>(before | value); });
}
template <class T>
T atomicCAS(T* at, emulation::Same<T> expected, emulation::Same<T> value) {
  return emulation::change(at, [&](T before) { return before == expected ? value : before; });
}

inline void __threadfence() {}
template <class T>
T __ldg(const T* from) {
  return *from;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(__float_as_int(value)); }
inline float __uint_as_float(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }

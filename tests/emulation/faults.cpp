// Kernels with one fault each, and some without, for test_emulation.py: faults NAME.
#include <cstdio>
#include <cstring>
#include <string>

#include "../../csrc/cuda/launch.hpp"

namespace {

using edgepose::cuda::kWholeWarp;
using edgepose::cuda::launch;

constexpr int kThreads = 64;

int me() { return static_cast<int>(threadIdx.x); }

// Each thread takes what another one, `step` further on, has written.
template <bool kBarrier>
__global__ void neighbours(int step, int* out) {
  __shared__ int values[kThreads];
  values[me()] = -1;
  __syncthreads();
  values[me()] = me();
  if (kBarrier) __syncthreads();
  out[me()] = values[(me() + step) % kThreads];
}

__global__ void sum_of_warps(int* out) {
  int sum = me();
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  atomicAdd(out, me() % 32 == 0 ? sum : 0);
  const int odd = __syncthreads_count(me() % 2);
  if (me() == 0) out[1] = odd;
  const unsigned votes = __ballot_sync(kWholeWarp, me() % 32 < 4);
  if (me() == 0) out[2] = static_cast<int>(votes);
}

__global__ void divergent_barriers(int*) {
  if (me() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_against_shuffle(int* out) {
  if (me() < 8) {
    __syncthreads();
  } else {
    out[0] = __shfl_sync(kWholeWarp, me(), 0);
  }
}

__global__ void lane_out_of_its_mask(int* out) { out[0] = __shfl_sync(0xffu, me(), 0); }

__global__ void mask_of_an_ended_lane(int* out) {
  if (me() % 32 == 31) return;
  out[0] = __shfl_sync(kWholeWarp, me(), 0);
}

__global__ void lanes_at_different_shuffles(int* out) {
  if (me() % 32 < 16) {
    out[0] = __shfl_sync(kWholeWarp, me(), 0);
  } else {
    out[1] = __shfl_sync(kWholeWarp, me(), 1);
  }
}

__global__ void read_beyond_memory(int* out) { out[0] = out[kThreads + (me() == 5)]; }

__global__ void write_beyond_static_shared(int* out) {
  __shared__ int values[kThreads];
  values[me() + 1] = 1;
  out[0] = values[0];
}

__global__ void write_beyond_dynamic_shared(int* out) {
  EDGEPOSE_DYNAMIC_SHARED(int, values);
  values[me() + 1] = 1;
  out[0] = values[0];
}

struct alignas(16) Four {
  int values[4];
};

__global__ void read_out_of_line(int* out) {
  const Four found = *reinterpret_cast<const Four*>(out + me() % 2);
  out[0] = found.values[0] + found.values[3];
}

__global__ void leave_unwritten(int*) {}

}  // namespace

int main(int count, char** arguments) {
  const std::string name = count > 1 ? arguments[1] : "";
  void* memory = nullptr;
  if (cudaMalloc(&memory, kThreads * sizeof(int)) != cudaSuccess) return 3;
  int* out = static_cast<int*>(memory);
  if (name == "sum_of_warps") cudaMemsetAsync(out, 0, kThreads * sizeof(int), nullptr);
  const auto run = [&](auto kernel, auto... more) {
    launch("a test", kernel, dim3(1), dim3(kThreads), kThreads * sizeof(int), nullptr, more..., out);
  };
  if (name == "forward") {
    run(neighbours<true>, 1);
  } else if (name == "forward_without_barrier") {
    run(neighbours<false>, 1);
  } else if (name == "backward_without_barrier") {
    run(neighbours<false>, kThreads - 1);
#define CASE(kernel)          \
  }                           \
  else if (name == #kernel) { \
    run(kernel)
    CASE(sum_of_warps);
    CASE(divergent_barriers);
    CASE(barrier_against_shuffle);
    CASE(lane_out_of_its_mask);
    CASE(mask_of_an_ended_lane);
    CASE(lanes_at_different_shuffles);
    CASE(read_beyond_memory);
    CASE(write_beyond_static_shared);
    CASE(write_beyond_dynamic_shared);
    CASE(read_out_of_line);
    CASE(leave_unwritten);
  } else {
    return 2;
  }
  for (int i = 0; i < kThreads; ++i) std::printf("%d ", out[i]);
}

// Fibers, streams and graphs behind cuda_runtime.h.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr int kWarp = 32;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::abort();
}

struct Spot {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Spot& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

enum class State { ready, at_block_barrier, at_warp_exchange, ended };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;  // of the address sanitizer
  State state = State::ready;
  dim3 index;
  int number = 0;
  Spot spot;
  bool vote = false;
  unsigned mask = 0;
  std::uint64_t value = 0;
  std::uint64_t received[kWarp] = {};
};

class Block {
 public:
  void run(const Place& where, std::size_t shared_bytes, const std::function<void()>& body) {
    place_ = where;
    body_ = &body;
    const dim3 size = where.threads;
    const std::size_t count = std::size_t{size.x} * size.y * size.z;
    if (count == 0 || count > 1024) fail("a block of " + std::to_string(count) + " threads");
    if (shared_bytes > 227 << 10) fail("a block with " + std::to_string(shared_bytes) + " shared bytes");
    shared_.reset(static_cast<char*>(std::malloc(shared_bytes + (shared_bytes == 0))));
    std::memset(shared_.get(), 0xff, shared_bytes);
    while (fibers_.size() < count) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new char[kStackBytes]);
    }
    count_ = static_cast<int>(count);
    for (int i = 0; i < count_; ++i) {
      Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      const auto number = static_cast<unsigned>(i);
      fiber.number = i;
      fiber.index = dim3(number % size.x, number / size.x % size.y, number / size.x / size.y);
      fiber.state = State::ready;
      fiber.fake_stack = nullptr;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Block::entry, 0);
    }
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    const char* named = std::getenv("EMULATION_ORDER");
    const std::string kind = named ? named : "forward";
    if (kind == "reverse") std::reverse(order.begin(), order.end());
    while (true) {
      if (kind == "random") std::shuffle(order.begin(), order.end(), random_);
      bool ran = false, left = false;
      for (const int i : order) {
        Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
        if (fiber.state == State::ready) {
          enter(fiber);
          ran = true;
        }
        left |= fiber.state != State::ended;
      }
      if (!left) break;
      if (!ran) fail("threads wait for each other: " + waiting());
    }
    current_ = nullptr;
  }

  const Place& place() {
    place_.thread = current_->index;
    return place_;
  }
  void* shared() { return shared_.get(); }
  int lane() const { return current_->number % kWarp; }

  int block_barrier(Spot spot, bool vote) {
    Fiber& me = *current_;
    me.state = State::at_block_barrier;
    me.spot = spot;
    me.vote = vote;
    if (!release_block()) leave(me);
    return votes_;
  }

  const std::uint64_t* warp_exchange(Spot spot, unsigned mask, std::uint64_t value) {
    Fiber& me = *current_;
    if (!(mask >> lane() & 1u)) fail("a lane that its mask leaves out, at " + spot.text());
    me.state = State::at_warp_exchange;
    me.spot = spot;
    me.mask = mask;
    me.value = value;
    if (!release_warp(me)) leave(me);
    return me.received;
  }

 private:
  static Block* running_;
  static void entry() {
    Block& block = *running_;
    block.finish_switch(nullptr);
    (*block.body_)();
    Fiber& me = *block.current_;
    me.state = State::ended;
    block.release_block();  // others may have waited for this thread
    block.leave(me);
  }

  void enter(Fiber& fiber) {
    current_ = &fiber;
    running_ = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStackBytes);
    swapcontext(&scheduler_, &fiber.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&scheduler_, &fiber.context);
#endif
  }

  // Back to the scheduler.
  void leave(Fiber& me) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(me.state == State::ended ? nullptr : &me.fake_stack, main_stack_,
                                   main_stack_bytes_);
#endif
    swapcontext(&me.context, &scheduler_);
    finish_switch(me.fake_stack);
  }

  void finish_switch([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &main_stack_, &main_stack_bytes_);
#endif
  }

  // Whether all threads that have not ended stand at a block barrier; then they go on.
  bool release_block() {
    const Fiber* first = nullptr;
    int votes = 0;
    for (int i = 0; i < count_; ++i) {
      const Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      if (fiber.state == State::ended) continue;
      if (fiber.state != State::at_block_barrier) return false;
      if (!first) first = &fiber;
      if (!(fiber.spot == first->spot)) {
        fail("threads of a block stand at different barriers: " + fiber.spot.text() + " and " +
             first->spot.text());
      }
      votes += fiber.vote;
    }
    if (!first) return false;
    votes_ = votes;
    for (int i = 0; i < count_; ++i) {
      Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      if (fiber.state == State::at_block_barrier) fiber.state = State::ready;
    }
    return true;
  }

  // Whether all lanes that the mask names are here; then they get each other's values and go on.
  bool release_warp(const Fiber& me) {
    const int first = me.number / kWarp * kWarp;
    std::uint64_t values[kWarp] = {};
    for (int i = 0; i < kWarp; ++i) {
      if (!(me.mask >> i & 1u)) continue;
      if (first + i >= count_) {
        if (me.mask == 0xffffffffu) continue;  // a block may end within a warp
        fail("a mask names lanes that the block does not have, at " + me.spot.text());
      }
      const Fiber& other = *fibers_[static_cast<std::size_t>(first + i)];
      if (other.state == State::ended) fail("a mask names a thread that has ended, at " + me.spot.text());
      if (other.state != State::at_warp_exchange) return false;
      if (!(other.spot == me.spot) || other.mask != me.mask) {
        if (other.mask & 1u << me.number % kWarp) {
          fail("lanes of a mask stand at different places: " + other.spot.text() + " and " + me.spot.text());
        }
        return false;
      }
      values[i] = other.value;
    }
    for (int i = 0; i < kWarp && first + i < count_; ++i) {
      if (!(me.mask >> i & 1u)) continue;
      Fiber& other = *fibers_[static_cast<std::size_t>(first + i)];
      std::copy(values, values + kWarp, other.received);
      other.state = State::ready;
    }
    return true;
  }

  std::string waiting() const {
    std::string text;
    for (int i = 0; i < count_; ++i) {
      const Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      const std::string place = fiber.state == State::ended ? "ended" : fiber.spot.text();
      if (text.find(place) == std::string::npos) text += (text.empty() ? "" : ", ") + place;
    }
    return text;
  }

  struct Freed {
    void operator()(char* memory) const { std::free(memory); }
  };

  Place place_;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::unique_ptr<char, Freed> shared_;
  int count_ = 0, votes_ = 0;
  Fiber* current_ = nullptr;
  ucontext_t scheduler_{};
  const void* main_stack_ = nullptr;
  std::size_t main_stack_bytes_ = 0;
  std::mt19937 random_{0};
};

Block* Block::running_ = nullptr;

Block& block() {
  static Block* one = new Block;  // never ends: kernels may run while the process does
  return *one;
}

std::mutex& launch_lock() {
  static std::mutex* one = new std::mutex;
  return *one;
}

std::map<cudaStream_t, cudaGraph_t>& captures() {
  static auto* one = new std::map<cudaStream_t, cudaGraph_t>;
  return *one;
}

std::mutex& capture_lock() {
  static std::mutex* one = new std::mutex;
  return *one;
}

}  // namespace

const Place& place() { return block().place(); }
void* dynamic_shared() { return block().shared(); }
int lane() { return block().lane(); }

int block_barrier(const char* file, int line, bool value) {
  return block().block_barrier({file, line}, value);
}

const std::uint64_t* warp_exchange(const char* file, int line, unsigned mask, std::uint64_t value) {
  return block().warp_exchange({file, line}, mask, value);
}

void run(dim3 blocks, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> guard(launch_lock());
  for (unsigned z = 0; z < blocks.z; ++z) {
    for (unsigned y = 0; y < blocks.y; ++y) {
      for (unsigned x = 0; x < blocks.x; ++x) {
        block().run({dim3(), dim3(x, y, z), threads, blocks}, shared_bytes, body);
      }
    }
  }
}

}  // namespace emulation

struct EmulatedGraph {
  std::vector<std::function<void()>> steps;
};

namespace emulation {

void submit(cudaStream_t stream, std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> guard(capture_lock());
    const auto found = captures().find(stream);
    if (found != captures().end()) {
      found->second->steps.push_back(std::move(work));
      return;
    }
  }
  work();
}

}  // namespace emulation

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : 101; }

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  *pointer = std::malloc(bytes + (bytes == 0));
  if (!*pointer) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, bytes);  // NaN, and far out of range as an index
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (bytes) emulation::submit(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  emulation::submit(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

struct EmulatedStream {};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard<std::mutex> guard(emulation::capture_lock());
  return emulation::captures().count(stream) ? cudaErrorIllegalState : cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "an error of the emulation";
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream) return cudaErrorIllegalState;  // the default stream cannot be captured
  const std::lock_guard<std::mutex> guard(emulation::capture_lock());
  if (emulation::captures().count(stream)) return cudaErrorIllegalState;
  emulation::captures()[stream] = new EmulatedGraph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::mutex> guard(emulation::capture_lock());
  const auto found = emulation::captures().find(stream);
  if (found == emulation::captures().end()) return cudaErrorIllegalState;
  *graph = found->second;
  emulation::captures().erase(found);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  *ready = new EmulatedGraph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& step : graph->steps) emulation::submit(stream, step);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

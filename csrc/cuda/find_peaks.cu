// Peaks of the final heatmaps: a block per joint and tile whose bound is above the threshold finds a tile's
// best, then a block per joint picks among them.
#include <cmath>

#include "../core/peak_limit.hpp"
#include "final_tiles.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kSide = 32, kSmallSide = 16;  // of tiles: for windows up to kWideRadius; for larger ones
constexpr int kWideRadius = 8, kMostRadius = 31;
constexpr int kPickThreads = 256;
constexpr int kRankedAtOnce = 1024;

struct Windows {
  int side, radius;  // of a tile, and of the windows that it holds
  int whole_radius;  // of the windows
  int tiles_across;
  int room;  // floats for planes
  float limit;
  int top;
};

// Floats at the start of the shared memory of `find_in_tile`; what follows holds planes, then keys.
__host__ __device__ inline int tile_floats(const Windows& w) {
  const int stride = w.side + 2 * w.radius;
  return (stride * stride + 3) / 4 * 4;
}

__global__ void __launch_bounds__(kTileThreads)
    find_in_tile(FinalMaps maps, Windows w, Ranked* lists, std::size_t per_joint, unsigned* counts) {
  EDGEPOSE_DYNAMIC_SHARED(float, tile);
  __shared__ int found, start;
  const int thread = static_cast<int>(threadIdx.x);
  const int joint = static_cast<int>(blockIdx.y);
  const int row = static_cast<int>(blockIdx.x) / w.tiles_across;
  const int column = static_cast<int>(blockIdx.x) % w.tiles_across;
  const Rect own{row * w.side, smaller_of((row + 1) * w.side, maps.height), column * w.side,
                 smaller_of((column + 1) * w.side, maps.width)};
  const int stride = w.side + 2 * w.radius;
  float* const planes = tile + tile_floats(w);
  Held* const held = reinterpret_cast<Held*>(planes + w.room);
  auto* const largest = reinterpret_cast<std::int32_t*>(held + maps.runs);
  if (!(heat_bound(maps, joint, own, largest) >= w.limit)) return;

  if (thread == 0) found = 0;
  const Rect read{larger_of(own.top - w.radius, 0), smaller_of(own.bottom + w.radius, maps.height),
                  larger_of(own.left - w.radius, 0), smaller_of(own.right + w.radius, maps.width)};
  HeldPlanes heat(held, planes, w.room);
  for (int i = 0; i < maps.runs; ++i) {
    heat.hold(i, maps.heat[i], maps.heat[i].channel_of(joint, maps.flip), read);
  }
  __syncthreads();
  for (int p = thread; p < stride * stride; p += kTileThreads) {
    const int y = own.top - w.radius + p / stride, x = own.left - w.radius + p % stride;
    const bool inside = read.top <= y && y < read.bottom && read.left <= x && x < read.right;
    tile[p] = inside ? heat.heat(maps, joint, y, x) : -kInfinity;
  }
  __syncthreads();

  Ranked* const keys = reinterpret_cast<Ranked*>(planes);  // the planes are done with
  const int width = own.width();
  for (int p = thread; p < own.count(); p += kTileThreads) {
    const int y = p / width, x = p % width;
    const float* here = tile + (y + w.radius) * stride + x + w.radius;
    bool peak = *here >= w.limit;
    for (int dy = -w.radius; peak && dy <= w.radius; ++dy) {
      for (int dx = -w.radius; dx <= w.radius; ++dx) {
        if (here[dy * stride + dx] > *here) {
          peak = false;
          break;
        }
      }
    }
    if (!peak) continue;
    const auto index = static_cast<std::uint32_t>(own.top + y) * static_cast<std::uint32_t>(maps.width) +
                       static_cast<std::uint32_t>(own.left + x);
    keys[atomicAdd(&found, 1)] = ranked(*here, index);
  }
  __syncthreads();
  int count = found;

  // Windows that reach beyond the tile's surroundings: the rest of them, pixel by pixel.
  if (w.whole_radius > w.radius) {
    for (int i = 0; i < count; ++i) {
      const Ranked key = keys[i];
      const int y = static_cast<int>(index_of(key) / static_cast<std::uint32_t>(maps.width));
      const int x = static_cast<int>(index_of(key) % static_cast<std::uint32_t>(maps.width));
      const Rect window{larger_of(y - w.whole_radius, 0), smaller_of(y + w.whole_radius + 1, maps.height),
                        larger_of(x - w.whole_radius, 0), smaller_of(x + w.whole_radius + 1, maps.width)};
      bool higher = false;
      for (int p = thread; p < window.count() && !higher; p += kTileThreads) {
        const int other_y = window.top + p / window.width(), other_x = window.left + p % window.width();
        const int dy = other_y - y, dx = other_x - x;
        const bool seen = -w.radius <= dy && dy <= w.radius && -w.radius <= dx && dx <= w.radius;
        higher = !seen && sample_heat(maps, joint, other_y, other_x) > value_of(key);
      }
      if (__syncthreads_or(higher) && thread == 0) keys[i] = 0;
    }
    __syncthreads();
  }

  // Of more than `top`, or where some are no peaks after all, each finds out how many are better.
  const bool all = count <= w.top && w.whole_radius == w.radius;
  __syncthreads();
  if (!all) {
    if (thread == 0) found = 0;
    __syncthreads();
    for (int i = thread; i < count; i += kTileThreads) {
      if (keys[i]) atomicAdd(&found, 1);
    }
    __syncthreads();
  }
  const int kept = smaller_of(all ? count : found, w.top);
  if (kept == 0) return;
  if (thread == 0) start = static_cast<int>(atomicAdd(counts + joint, static_cast<unsigned>(kept)));
  __syncthreads();
  Ranked* const to = lists + static_cast<std::size_t>(joint) * per_joint + start;
  for (int i = thread; i < count; i += kTileThreads) {
    if (all) {
      to[i] = keys[i];
      continue;
    }
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += keys[j] > keys[i];
    if (keys[i] && rank < kept) to[rank] = keys[i];
  }
}

// Puts keys in order, the largest first, in either of two arrays; returns which. The whole block calls it.
__device__ Ranked* sorted(Ranked* from, Ranked* to, int count) {
  for (int run = 1; run < count; run *= 2) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kPickThreads) {
      const int left = i / (2 * run) * (2 * run);
      const int middle = smaller_of(left + run, count), right = smaller_of(left + 2 * run, count);
      const Ranked key = from[i];
      int low = i < middle ? middle : left;
      const int begin = low;
      int high = i < middle ? right : middle;
      while (low < high) {
        const int half = (low + high) / 2;
        if (from[half] > key) {
          low = half + 1;
        } else {
          high = half;
        }
      }
      to[(i < middle ? i : i - middle + left) + (low - begin)] = key;
    }
    __syncthreads();
    Ranked* const other = from;
    from = to;
    to = other;
  }
  return from;
}

__global__ void __launch_bounds__(kPickThreads) pick(FinalMaps maps, Peaks out, Ranked* lists, Ranked* spare,
                                                     std::size_t per_joint, const unsigned* counts) {
  __shared__ Ranked few[kRankedAtOnce], best[kRankedAtOnce];
  const int thread = static_cast<int>(threadIdx.x);
  const int joint = static_cast<int>(blockIdx.x);
  const int count = static_cast<int>(counts[joint]);
  const int kept = smaller_of(count, out.top);
  Ranked* const list = lists + static_cast<std::size_t>(joint) * per_joint;
  const Ranked* order = best;
  if (count <= kRankedAtOnce) {
    for (int i = thread; i < count; i += kPickThreads) few[i] = list[i];
    __syncthreads();
    for (int i = thread; i < count; i += kPickThreads) {
      int rank = 0;
      for (int j = 0; j < count; ++j) rank += few[j] > few[i];
      best[rank] = few[i];
    }
    __syncthreads();
  } else {
    order = sorted(list, spare + static_cast<std::size_t>(joint) * per_joint, count);
  }
  const auto width = static_cast<std::uint32_t>(maps.width);
  const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(joint) * out.top;
  for (int i = thread; i < out.top; i += kPickThreads) {
    const bool there = i < kept;
    const std::uint32_t index = there ? index_of(order[i]) : 0;
    const float score = there ? value_of(order[i]) : 0;
    const int x = static_cast<int>(index % width), y = static_cast<int>(index / width);
    out.xy[2 * (first + i)] = x;
    out.xy[2 * (first + i) + 1] = y;
    out.scores[first + i] = score;
  }
  for (long long p = thread; p < static_cast<long long>(out.top) * out.tag_count; p += kPickThreads) {
    const int i = static_cast<int>(p / out.tag_count), t = static_cast<int>(p % out.tag_count);
    float tag = 0;
    if (i < kept) {
      const std::uint32_t index = index_of(order[i]);
      tag = sample_tag(maps, t, joint, static_cast<int>(index / width), static_cast<int>(index % width));
    }
    out.tags[first * out.tag_count + p] = tag;
  }
  if (thread == 0) out.count[joint] = kept;
}

std::size_t rounded_up(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

PeakPlan plan_peaks(const FinalMaps& maps, const PeakOptions& options) {
  PeakPlan plan{};
  const int radius = smaller_of(options.window / 2, larger_of(maps.height, maps.width));
  plan.side = radius <= kWideRadius ? kSide : kSmallSide;
  plan.radius = smaller_of(radius, kMostRadius);
  plan.tiles_across = static_cast<int>(ceiling(static_cast<std::size_t>(maps.width), plan.side));
  plan.tiles =
      plan.tiles_across * static_cast<int>(ceiling(static_cast<std::size_t>(maps.height), plan.side));
  plan.per_tile = static_cast<std::size_t>(smaller_of(plan.side * plan.side, options.top));
  plan.per_joint = static_cast<std::size_t>(plan.tiles) * plan.per_tile;
  const auto joints = static_cast<std::size_t>(maps.joints);
  const std::size_t list = joints * plan.per_joint * sizeof(Ranked);
  plan.counts_at = 0;
  plan.lists_at = rounded_up(joints * sizeof(unsigned));
  plan.spare_at = plan.lists_at + rounded_up(list);
  plan.bytes = plan.spare_at + (plan.per_joint > kRankedAtOnce ? list : 0);
  return plan;
}

void find_peaks(const FinalMaps& maps, const PeakOptions& options, const Peaks& out, void* scratch,
                cudaStream_t stream) {
  const PeakPlan plan = plan_peaks(maps, options);
  auto* const base = static_cast<unsigned char*>(scratch);
  auto* const counts = reinterpret_cast<unsigned*>(base + plan.counts_at);
  auto* const lists = reinterpret_cast<Ranked*>(base + plan.lists_at);
  auto* const spare = reinterpret_cast<Ranked*>(base + plan.spare_at);
  const auto joints = static_cast<unsigned>(maps.joints);
  check(cudaMemsetAsync(counts, 0, joints * sizeof(unsigned), stream), "find_peaks");
  if (options.threshold < static_cast<double>(kInfinity)) {
    Windows windows{
        plan.side,         plan.radius, smaller_of(options.window / 2, larger_of(maps.height, maps.width)),
        plan.tiles_across, 0,           least_above(options.threshold),
        options.top};
    const std::size_t fixed = static_cast<std::size_t>(tile_floats(windows)) * sizeof(float) +
                              static_cast<std::size_t>(maps.runs) * sizeof(Held) +
                              static_cast<std::size_t>(maps.heat_parts) * sizeof(std::int32_t);
    const std::size_t keys = static_cast<std::size_t>(plan.side * plan.side) * sizeof(Ranked);
    const std::size_t most = fixed + keys < kSharedBytes ? (kSharedBytes - fixed) / sizeof(float) / 4 * 4 : 0;
    const int room = held_room(maps, plan.side + 2 * plan.radius, false, most);
    windows.room = (larger_of(room, static_cast<int>(keys / sizeof(float))) + 3) / 4 * 4;
    const std::size_t bytes = fixed + static_cast<std::size_t>(windows.room) * sizeof(float);
    launch("find_peaks", find_in_tile, dim3(static_cast<unsigned>(plan.tiles), joints), dim3(kTileThreads),
           bytes, stream, maps, windows, lists, plan.per_joint, counts);
  }
  launch("find_peaks", pick, dim3(joints), dim3(kPickThreads), 0, stream, maps, out, lists, spare,
         plan.per_joint, counts);
}

}  // namespace edgepose::cuda

// The quarter step of new persons, and their missing joints.
//
// A missing joint is the argmax over the final map of heat - rint(distance of the tags). A block per joint
// and tile bounds it for each person by the largest heat and the range of each tag, and evaluates the tile
// only where the bound reaches a person's best so far, which all blocks share.
#include "final_tiles.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kSide = 32;  // of a tile
constexpr int kPrepareThreads = 128, kFillThreads = 256;
constexpr std::size_t kTagsAtOnce = 2048;  // floats

// What the kernels leave for each other.
struct Search {
  float* means;  // rows x t
  int* known;    // rows: whether the mean is usable
  Ranked* best;  // rows x joints; 0: nothing yet
};

__device__ float* entry_of(const PersonsTask& task, int person, int joint) {
  return task.data + (static_cast<std::ptrdiff_t>(person) * task.joints + joint) * task.stride;
}

// How a place fits a person; NaN is -inf.
__device__ float fit_of(float heat, float squares) { return usable(heat - rintf(sqrtf(squares))); }

// The final heatmap at one of a pixel's neighbours: right, left, below, above; the pixel itself with another.
__device__ float neighbour(const FinalMaps& maps, int joint, int y, int x, int which) {
  if (which == 0) x = smaller_of(x + 1, maps.width - 1);
  if (which == 1) x = larger_of(x - 1, 0);
  if (which == 2) y = smaller_of(y + 1, maps.height - 1);
  if (which == 3) y = larger_of(y - 1, 0);
  return sample_heat(maps, joint, y, x);
}

// Four lanes a joint, one for each neighbour.
__device__ void adjust_person(const FinalMaps& maps, const PersonsTask& task, int person) {
  for (int base = 0; base < 4 * task.joints; base += kPrepareThreads) {
    const int i = base + static_cast<int>(threadIdx.x), joint = i / 4, which = i % 4;
    float* entry = nullptr;
    float value = 0;
    if (joint < task.joints && entry_of(task, person, joint)[2] > 0) {
      entry = entry_of(task, person, joint);
      const int x = pixel_of(entry[0], maps.width), y = pixel_of(entry[1], maps.height);
      value = neighbour(maps, joint, y, x, which);
    }
    const float other = __shfl_xor_sync(kWholeWarp, value, 1);
    if (entry && which % 2 == 0) entry[which / 2] = (entry[which / 2] + quarter_towards(other, value)) + 0.5f;
  }
}

// Mean tag of a person's joints, a thread each tag; whether it is usable. tags: shared, joints x t as far as
// `at_once` allows.
__device__ bool mean_tag(const FinalMaps& maps, const PersonsTask& task, int person, float* tags, int at_once,
                         float* mean) {
  const int t = maps.tag_count, thread = static_cast<int>(threadIdx.x);
  int found = 0;
  bool bad = false;
  for (int first = 0; first < task.joints; first += at_once) {
    const int count = smaller_of(at_once, task.joints - first);
    __syncthreads();
    for (int p = thread; p < count * t; p += kPrepareThreads) {
      const int joint = first + p / t;
      const float* entry = entry_of(task, person, joint);
      const bool there = entry[2] > 0;
      const int x = pixel_of(entry[0], maps.width), y = pixel_of(entry[1], maps.height);
      tags[p] = there ? sample_tag(maps, p % t, joint, y, x) : kNaN;
    }
    __syncthreads();
    for (int own = thread; own < t; own += kPrepareThreads) {
      int members = found;
      for (int joint = 0; joint < count; ++joint) {
        bool usable_tags = true;
        for (int i = 0; i < t; ++i) usable_tags &= tags[joint * t + i] == tags[joint * t + i];
        if (!usable_tags) continue;
        const float tag = tags[joint * t + own];
        mean[own] = members ? mean[own] + tag : tag;
        ++members;
      }
      if (own + kPrepareThreads >= t) found = members;
    }
  }
  for (int own = thread; own < t; own += kPrepareThreads) {
    if (found == 0) {
      bad = true;
    } else {
      mean[own] /= static_cast<float>(found);
      bad |= mean[own] != mean[own];
    }
  }
  return !__syncthreads_or(bad);
}

// The best of the peaks for a missing joint: a warp each joint.
__device__ void start_search(const FinalMaps& maps, const PersonsTask& task, const Search& search,
                             int person) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = this_lane();
  const float* mean = search.means + static_cast<std::ptrdiff_t>(person) * maps.tag_count;
  for (int joint = warp; joint < task.joints; joint += kPrepareThreads / kWarpSize) {
    Ranked best = 0;
    if (task.peaks.count && entry_of(task, person, joint)[2] == 0) {
      const Peaks& peaks = task.peaks;
      for (int i = lane; i < peaks.count[joint]; i += kWarpSize) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(joint) * peaks.top + i;
        float squares = 0;
        for (int t = 0; t < maps.tag_count; ++t) {
          const float away = peaks.tags[at * maps.tag_count + t] - mean[t];
          squares += away * away;
        }
        const float fit = fit_of(peaks.scores[at], squares);
        const auto index =
            static_cast<std::uint32_t>(peaks.xy[2 * at + 1]) * static_cast<std::uint32_t>(maps.width) +
            static_cast<std::uint32_t>(peaks.xy[2 * at]);
        const Ranked key = fit > -kInfinity ? ranked(fit, index) : 0;
        best = key > best ? key : best;
      }
    }
    best = warp_largest(best);
    if (lane == 0) search.best[static_cast<std::ptrdiff_t>(person) * task.joints + joint] = best;
  }
}

// A block a person.
__global__ void __launch_bounds__(kPrepareThreads)
    prepare(FinalMaps maps, PersonsTask task, Search search, int at_once) {
  EDGEPOSE_DYNAMIC_SHARED(float, tags);
  const int person = static_cast<int>(blockIdx.x);
  if (person >= *task.count) return;
  if (task.adjust) adjust_person(maps, task, person);
  if (!task.refine) return;
  float* mean = search.means + static_cast<std::ptrdiff_t>(person) * maps.tag_count;
  const bool known = mean_tag(maps, task, person, tags, at_once, mean);
  if (threadIdx.x == 0) search.known[person] = known;
  if (known) start_search(maps, task, search, person);
}

// The range of each tag over a rectangle, where all that is read of it is finite. ranges: shared, three per
// tag: largest, largest of the negative, and whether one is not finite. A barrier must have come before, and
// one must follow.
__device__ void scan_tags(const FinalMaps& maps, int joint, const Rect& rect, std::int32_t* ranges) {
  for (int t = 0; t < maps.tag_count; ++t) {
    const PlaneSource& plane = maps.tags[t];
    const int channel = plane.channel_of(joint, maps.flip);
    const Rect raw = read_from_part(plane, 0, read_from(plane, rect));
    const int width = raw.width();
    float high = -kInfinity, low = -kInfinity;
    bool hole = false;
    for (int p = static_cast<int>(threadIdx.x); p < raw.count(); p += kTileThreads) {
      const float tag = at(plane.parts[0], channel, raw.top + p / width, raw.left + p % width);
      hole |= !(tag - tag == 0);
      high = tag > high ? tag : high;
      low = -tag > low ? -tag : low;
    }
    const int most = warp_largest(ordered(high)), least = warp_largest(ordered(low));
    hole = __any_sync(kWholeWarp, hole);
    if (this_lane() != 0) continue;
    atomicMax(ranges + 3 * t, most);
    atomicMax(ranges + 3 * t + 1, least);
    if (hole) atomicMax(ranges + 3 * t + 2, 1);
  }
}

// The best that a rectangle may hold for a person.
__device__ float bound_of(const FinalMaps& maps, float heat, const std::int32_t* ranges, const float* mean) {
  float squares = 0;
  for (int t = 0; t < maps.tag_count; ++t) {
    const bool finite = ranges[3 * t + 2] == 0;
    const float high = finite ? raised(raised(from_ordered(ranges[3 * t]))) : kInfinity;
    const float low = finite ? -raised(raised(from_ordered(ranges[3 * t + 1]))) : -kInfinity;
    const float below = low - mean[t], above = mean[t] - high;
    const float away = below > 0 ? below : above > 0 ? above : 0;  // one of them at most is above 0
    squares += away * away;
  }
  return fit_of(heat, squares);
}

// A block a joint and tile.
__global__ void __launch_bounds__(kTileThreads)
    seek(FinalMaps maps, PersonsTask task, Search search, int tiles_across, int room) {
  EDGEPOSE_DYNAMIC_SHARED(float, planes);
  __shared__ float heat[kSide * kSide];
  __shared__ int who[kTileThreads];
  __shared__ int listed;
  const int thread = static_cast<int>(threadIdx.x);
  const int joint = static_cast<int>(blockIdx.y);
  const int persons = *task.count;
  const auto seeks = [&](int person) {
    return person < persons && search.known[person] && entry_of(task, person, joint)[2] == 0;
  };
  bool any = false;
  for (int person = thread; person < persons; person += kTileThreads) any |= seeks(person);
  if (!__syncthreads_or(any)) return;

  const int row = static_cast<int>(blockIdx.x) / tiles_across;
  const int column = static_cast<int>(blockIdx.x) % tiles_across;
  const Rect own{row * kSide, smaller_of((row + 1) * kSide, maps.height), column * kSide,
                 smaller_of((column + 1) * kSide, maps.width)};
  Held* const held = reinterpret_cast<Held*>(planes + room);
  auto* const ranges = reinterpret_cast<std::int32_t*>(held + maps.runs + maps.tag_count);
  for (int i = thread; i < 3 * maps.tag_count; i += kTileThreads)
    ranges[i] = i % 3 == 2 ? 0 : ordered(-kInfinity);
  const float most = usable(heat_bound(maps, joint, own, ranges + 3 * maps.tag_count));
  if (most == -kInfinity) return;
  scan_tags(maps, joint, own, ranges);

  HeldPlanes all(held, planes, room);
  bool evaluated = false;
  const int width = own.width();
  for (int base = 0; base < persons; base += kTileThreads) {
    if (thread == 0) listed = 0;
    __syncthreads();
    const int mine = base + thread;
    bool reach = false;
    if (seeks(mine)) {
      const float bound =
          bound_of(maps, most, ranges, search.means + static_cast<std::ptrdiff_t>(mine) * maps.tag_count);
      const Ranked best = *static_cast<volatile Ranked*>(
          search.best + static_cast<std::ptrdiff_t>(mine) * task.joints + joint);
      reach = bound > -kInfinity && (best == 0 || bound >= value_of(best));
    }
    if (reach) who[atomicAdd(&listed, 1)] = mine;
    if (!__syncthreads_or(reach)) continue;
    if (!evaluated) {
      for (int i = 0; i < maps.runs; ++i) {
        all.hold(i, maps.heat[i], maps.heat[i].channel_of(joint, maps.flip), own);
      }
      for (int t = 0; t < maps.tag_count; ++t) {
        all.hold(maps.runs + t, maps.tags[t], maps.tags[t].channel_of(joint, maps.flip), own);
      }
      __syncthreads();
      for (int p = thread; p < own.count(); p += kTileThreads) {
        heat[p] = all.heat(maps, joint, own.top + p / width, own.left + p % width);
      }
      evaluated = true;  // each thread reads its own pixels alone
    }
    for (int i = 0; i < listed; ++i) {
      const float* mean = search.means + static_cast<std::ptrdiff_t>(who[i]) * maps.tag_count;
      Ranked* const place = search.best + static_cast<std::ptrdiff_t>(who[i]) * task.joints + joint;
      const Ranked before = *static_cast<volatile Ranked*>(place);
      Ranked best = before;
      for (int p = thread; p < own.count(); p += kTileThreads) {
        if (heat[p] == -kInfinity || (best && heat[p] < value_of(best))) continue;
        const int y = own.top + p / width, x = own.left + p % width;
        float squares = 0;
        for (int t = 0; t < maps.tag_count; ++t) {
          const PlaneSource& plane = maps.tags[t];
          const float away =
              all.value(maps.runs + t, plane, plane.channel_of(joint, maps.flip), y, x) - mean[t];
          squares += away * away;
        }
        const float fit = fit_of(heat[p], squares);
        if (fit == -kInfinity) continue;
        const Ranked key =
            ranked(fit, static_cast<std::uint32_t>(y) * static_cast<std::uint32_t>(maps.width) +
                            static_cast<std::uint32_t>(x));
        best = key > best ? key : best;
      }
      best = warp_largest(best);
      if (this_lane() == 0 && best > before) atomicMax(place, best);
    }
    __syncthreads();
  }
}

// Puts joints where the search ended, if the final heatmap is above 0 there. A block a person, eight lanes a
// joint: its neighbours and itself.
__global__ void __launch_bounds__(kFillThreads) fill(FinalMaps maps, PersonsTask task, Search search) {
  const int person = static_cast<int>(blockIdx.x);
  if (person >= *task.count || !search.known[person]) return;
  for (int base = 0; base < 8 * task.joints; base += kFillThreads) {
    const int i = base + static_cast<int>(threadIdx.x), joint = i / 8, which = i % 8;
    const bool inside = joint < task.joints;
    float* const entry = entry_of(task, person, inside ? joint : 0);
    const Ranked best =
        inside && entry[2] == 0 ? search.best[static_cast<std::ptrdiff_t>(person) * task.joints + joint] : 0;
    const std::uint32_t index = index_of(best);
    const int x = static_cast<int>(index % static_cast<std::uint32_t>(maps.width));
    const int y = static_cast<int>(index / static_cast<std::uint32_t>(maps.width));
    const float value = best && which < 5 ? neighbour(maps, joint, y, x, which) : 0;
    const float other = __shfl_xor_sync(kWholeWarp, value, 1);
    const float middle = __shfl_sync(kWholeWarp, value, 4, 8);
    if (!best || !(middle > 0)) continue;
    if (which == 0) entry[0] = (static_cast<float>(x) + 0.5f) + quarter_towards(other, value);
    if (which == 2) entry[1] = (static_cast<float>(y) + 0.5f) + quarter_towards(other, value);
    if (which == 4) entry[2] = middle;
  }
}

Search search_in(void* scratch, const FinalMaps& maps, const PersonsTask& task, std::size_t* bytes) {
  Arena arena(scratch);
  const auto rows = static_cast<std::size_t>(task.rows);
  Search search{};
  search.means = arena.take<float>(rows * static_cast<std::size_t>(maps.tag_count));
  search.known = arena.take<int>(rows);
  search.best = arena.take<Ranked>(rows * static_cast<std::size_t>(task.joints));
  *bytes = arena.used();
  return search;
}

}  // namespace

std::size_t settle_scratch(const FinalMaps& maps, const PersonsTask& task) {
  std::size_t bytes = 0;
  search_in(nullptr, maps, task, &bytes);
  return task.refine ? bytes : 0;
}

void settle(const FinalMaps& maps, const PersonsTask& task, void* scratch, cudaStream_t stream) {
  std::size_t bytes = 0;
  const Search search = search_in(task.refine ? scratch : nullptr, maps, task, &bytes);
  const auto rows = static_cast<unsigned>(task.rows);
  const auto tags = static_cast<std::size_t>(larger_of(maps.tag_count, 1));
  const std::size_t at_once = tags < kTagsAtOnce ? kTagsAtOnce / tags : 1;
  const std::size_t joints =
      static_cast<std::size_t>(task.joints) < at_once ? static_cast<std::size_t>(task.joints) : at_once;
  launch("settle", prepare, dim3(rows), dim3(kPrepareThreads),
         task.refine ? joints * tags * sizeof(float) : 0, stream, maps, task, search,
         static_cast<int>(joints));
  if (!task.refine) return;
  const std::size_t fixed =
      static_cast<std::size_t>(maps.runs + maps.tag_count) * sizeof(Held) +
      static_cast<std::size_t>(maps.heat_parts + 3 * maps.tag_count) * sizeof(std::int32_t) +
      (kSide * kSide + kTileThreads) * sizeof(float);
  const std::size_t most = fixed < kSharedBytes ? (kSharedBytes - fixed) / sizeof(float) / 4 * 4 : 0;
  const int room = (held_room(maps, kSide, true, most) + 3) / 4 * 4;
  const unsigned across = ceiling(static_cast<std::size_t>(maps.width), kSide);
  const unsigned down = ceiling(static_cast<std::size_t>(maps.height), kSide);
  launch(
      "settle", seek, dim3(across * down, static_cast<unsigned>(task.joints)), dim3(kTileThreads),
      fixed - (kSide * kSide + kTileThreads) * sizeof(float) + static_cast<std::size_t>(room) * sizeof(float),
      stream, maps, task, search, static_cast<int>(across), room);
  launch("settle", fill, dim3(rows), dim3(kFillThreads), 0, stream, maps, task, search);
}

}  // namespace edgepose::cuda

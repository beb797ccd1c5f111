// The quarter step of new persons, and their missing joints.
//
// A missing joint is the argmax over the final map of heat - rint(distance of the tags). A survey finds each
// tile's largest heat, the tags there, and the range of each tag. Then a block per person and joint takes the
// best of the tiles' largest, and evaluates only the tiles whose bound reaches it.
#include "final_tiles.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kSide = 16;                                      // of a tile
constexpr int kPixels = kSide * kSide / kWarpSize;             // of a tile for each lane
constexpr int kRowStep = kWarpSize / kSide;                    // from one of a lane's pixels to the next
constexpr int kAcross = 2, kTiles = kTileThreads / kWarpSize;  // of a block of the survey: a warp each
constexpr int kBlockSide = kAcross * kSide;
constexpr int kPrepareThreads = kTileThreads, kSeekThreads = 256;
constexpr int kSeekWarps = kSeekThreads / kWarpSize;
constexpr int kListed = 1024;
constexpr std::size_t kTagsAtOnce = 2048;  // floats
constexpr int kMostSlots = 32;

static_assert(kTiles == kAcross * kAcross, "square blocks");

// What the kernels leave for each other.
struct Search {
  float* means;            // rows x t
  int* known;              // rows: whether the mean is usable
  Ranked* largest;         // joints x tiles: the largest heat; 0: none
  float *at, *low, *high;  // t x joints x tiles: tags of that pixel; range of the tags
  int across, tiles;
  int slots, room;  // of the survey's planes
  int seek_room;    // of a warp

  __device__ Rect tile(const FinalMaps& maps, int i) const {
    const int top = i / across * kSide, left = i % across * kSide;
    return {top, smaller_of(top + kSide, maps.height), left, smaller_of(left + kSide, maps.width)};
  }
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

// A block a person.
__device__ void prepare(const FinalMaps& maps, const PersonsTask& task, const Search& search, int person,
                        float* tags, int at_once) {
  if (task.adjust) adjust_person(maps, task, person);
  if (!task.refine) return;
  float* mean = search.means + static_cast<std::ptrdiff_t>(person) * maps.tag_count;
  const bool known = mean_tag(maps, task, person, tags, at_once, mean);
  if (threadIdx.x == 0) search.known[person] = known;
}

// What a block finds out about its tiles of a joint.
__device__ void survey(const FinalMaps& maps, const PersonsTask& task, const Search& search, int persons,
                       int joint, int block, float* planes) {
  const int thread = static_cast<int>(threadIdx.x), lane = this_lane();
  bool any = false;
  for (int person = thread; person < persons; person += kTileThreads) {
    any |= entry_of(task, person, joint)[2] == 0;
  }
  if (!__syncthreads_or(any)) return;
  const int blocks_across = (search.across + kAcross - 1) / kAcross;
  const int block_row = block / blocks_across, block_column = block % blocks_across;
  const int top = block_row * kBlockSide, left = block_column * kBlockSide;
  const Rect whole{top, smaller_of(top + kBlockSide, maps.height), left,
                   smaller_of(left + kBlockSide, maps.width)};
  HeldPlanes all(reinterpret_cast<Held*>(planes + search.room), search.slots, planes, search.room, thread,
                 kTileThreads);
  for (int i = 0; i < maps.runs; ++i) all.hold(i, maps.heat[i], maps, joint, whole);
  for (int t = 0; t < maps.tag_count; ++t) all.hold(maps.runs + t, maps.tags[t], maps, joint, whole);
  __syncthreads();

  const int warp = thread / kWarpSize;
  const int row = block_row * kAcross + warp / kAcross, column = block_column * kAcross + warp % kAcross;
  if (column >= search.across || row * kSide >= maps.height) return;
  const int tile = row * search.across + column;
  const Rect own = search.tile(maps, tile);
  const int x = own.left + lane % kSide, y = own.top + lane / kSide;
  float heat[kPixels], most = -kInfinity;
  int most_y = 0;
  all.heat_column(maps, joint, y, kRowStep, own.bottom - 1, smaller_of(x, own.right - 1), heat);
  EDGEPOSE_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    if (x < own.right && y + i * kRowStep < own.bottom && heat[i] > most) {
      most = heat[i];
      most_y = y + i * kRowStep;
    }
  }
  const auto index = static_cast<std::uint32_t>(most_y) * static_cast<std::uint32_t>(maps.width) +
                     static_cast<std::uint32_t>(x);
  const Ranked best = warp_largest(most > -kInfinity ? ranked(most, index) : Ranked{0});
  const std::ptrdiff_t slot = static_cast<std::ptrdiff_t>(joint) * search.tiles + tile;
  if (lane == 0) search.largest[slot] = best;
  const int at_y = static_cast<int>(index_of(best) / static_cast<std::uint32_t>(maps.width));
  const int at_x = static_cast<int>(index_of(best) % static_cast<std::uint32_t>(maps.width));
  const std::ptrdiff_t each = static_cast<std::ptrdiff_t>(maps.joints) * search.tiles;
  for (int t = 0; t < maps.tag_count; ++t) {
    float low, high;
    all.range(maps.runs + t, maps.tags[t], own, &low, &high);
    if (lane == 0) {
      search.at[t * each + slot] = best ? all.value(maps.runs + t, maps.tags[t], maps, joint, at_y, at_x) : 0;
      search.low[t * each + slot] = low;
      search.high[t * each + slot] = high;
    }
  }
}

// A block a person, then a block for each joint and four tiles.
__global__ void __launch_bounds__(kTileThreads)
    look(FinalMaps maps, PersonsTask task, Search search, int at_once, int blocks_per_joint) {
  EDGEPOSE_DYNAMIC_SHARED(float, shared);
  const int persons = *task.count, block = static_cast<int>(blockIdx.x) - task.rows;
  if (block >= 0) {
    survey(maps, task, search, persons, block / blocks_per_joint, block % blocks_per_joint, shared);
  } else if (static_cast<int>(blockIdx.x) < persons) {
    prepare(maps, task, search, static_cast<int>(blockIdx.x), shared, at_once);
  }
}

// The search of a person for a joint, by a block.
class Seeker {
 public:
  __device__ Seeker(const FinalMaps& maps, const Search& search, int person, int joint, float* planes,
                    Ranked* best)
      : maps_(maps),
        search_(search),
        mean_(search.means + static_cast<std::ptrdiff_t>(person) * maps.tag_count),
        joint_(joint),
        pool_(planes + thread() / kWarpSize * search.seek_room),
        held_(reinterpret_cast<Held*>(planes + kSeekWarps * search.seek_room) +
              thread() / kWarpSize * search.slots),
        best_(best) {}

  // Of the tiles' largest, those which are this thread's.
  __device__ Ranked best_of_largest() const {
    Ranked best = 0;
    for (int base = 0; base < search_.tiles; base += kListed) {
      const Own own = own_tiles(base);
      float squares[kTilesAtOnce] = {};
      for (int t = 0; t < maps_.tag_count; ++t) {
        EDGEPOSE_UNROLL
        for (int k = 0; k < kTilesAtOnce; ++k) {
          const float away = search_.at[t * each() + own.slot[k]] - mean_[t];
          squares[k] += away * away;
        }
      }
      EDGEPOSE_UNROLL
      for (int k = 0; k < kTilesAtOnce; ++k) {
        if (!own.largest[k]) continue;
        const Ranked key = key_of(value_of(own.largest[k]), squares[k], index_of(own.largest[k]));
        best = key > best ? key : best;
      }
    }
    return best;
  }

  // Calls to(tile) for those of the thread's tiles from `base` on which may hold a pixel that comes before
  // the best.
  template <class To>
  __device__ void for_reaching(int base, Ranked best, const To& to) const {
    const Own own = own_tiles(base);
    float squares[kTilesAtOnce] = {};
    for (int t = 0; t < maps_.tag_count; ++t) {
      EDGEPOSE_UNROLL
      for (int k = 0; k < kTilesAtOnce; ++k) squares[k] += square_from_range(t, own.slot[k]);
    }
    EDGEPOSE_UNROLL
    for (int k = 0; k < kTilesAtOnce; ++k) {
      const int tile = base + thread() + k * kSeekThreads;
      if (tile < search_.tiles && reaches(tile, own.largest[k], squares[k], best)) to(tile);
    }
  }

  // Looks at all pixels of a tile; a warp calls it.
  __device__ void evaluate(int tile) {
    const Ranked before = __shfl_sync(kWholeWarp, *static_cast<volatile Ranked*>(best_), 0);
    float least_squares = 0;
    for (int t = 0; t < maps_.tag_count; ++t) least_squares += square_from_range(t, slot(tile));
    if (!reaches(tile, search_.largest[slot(tile)], least_squares, before)) return;
    const Rect own = search_.tile(maps_, tile);
    HeldPlanes all(held_, search_.slots, pool_, search_.seek_room, this_lane(), kWarpSize);
    for (int i = 0; i < maps_.runs; ++i) all.hold(i, maps_.heat[i], maps_, joint_, own);
    __syncwarp();
    const int x = own.left + this_lane() % kSide, top = own.top + this_lane() / kSide;
    float heat[kPixels];
    bool any = false;
    all.heat_column(maps_, joint_, top, kRowStep, own.bottom - 1, smaller_of(x, own.right - 1), heat);
    EDGEPOSE_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if (x >= own.right || top + i * kRowStep >= own.bottom) heat[i] = -kInfinity;
      any |= heat[i] > -kInfinity && !(before && heat[i] < value_of(before));
    }
    Ranked best = before;
    if (__any_sync(kWholeWarp, any)) {
      for (int t = 0; t < maps_.tag_count; ++t) {
        all.hold(maps_.runs + t, maps_.tags[t], maps_, joint_, own);
      }
      __syncwarp();
      EDGEPOSE_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        if (heat[i] == -kInfinity || (best && heat[i] < value_of(best))) continue;
        const int y = top + i * kRowStep;
        const auto index = static_cast<std::uint32_t>(y) * static_cast<std::uint32_t>(maps_.width) +
                           static_cast<std::uint32_t>(x);
        float squares = 0;
        for (int t = 0; t < maps_.tag_count; ++t) {
          const float away = all.value(maps_.runs + t, maps_.tags[t], maps_, joint_, y, x) - mean_[t];
          squares += away * away;
        }
        const Ranked key = key_of(heat[i], squares, index);
        best = key > best ? key : best;
      }
      best = warp_largest(best);
      if (this_lane() == 0 && best > before) atomicMax(best_, best);
    }
    __syncwarp();  // before the planes make room for others
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ std::ptrdiff_t each() const { return static_cast<std::ptrdiff_t>(maps_.joints) * search_.tiles; }
  __device__ std::ptrdiff_t slot(int tile) const {
    return static_cast<std::ptrdiff_t>(joint_) * search_.tiles + tile;
  }

  // The tiles of a thread, as many as are loaded at once; beyond the last one stands the last one again.
  static constexpr int kTilesAtOnce = kListed / kSeekThreads;
  struct Own {
    std::ptrdiff_t slot[kTilesAtOnce];
    Ranked largest[kTilesAtOnce];
  };

  __device__ Own own_tiles(int base) const {
    Own own;
    EDGEPOSE_UNROLL
    for (int k = 0; k < kTilesAtOnce; ++k) {
      own.slot[k] = slot(smaller_of(base + thread() + k * kSeekThreads, search_.tiles - 1));
      own.largest[k] = search_.largest[own.slot[k]];
    }
    return own;
  }

  // The square by which a tag of a tile is away from the mean, or less.
  __device__ float square_from_range(int t, std::ptrdiff_t at) const {
    const float below = search_.low[t * each() + at] - mean_[t];
    const float above = mean_[t] - search_.high[t * each() + at];
    const float away = below > 0 ? below : above > 0 ? above : 0;  // one of them at most is above 0
    return away * away;
  }

  // Whether a tile may hold a pixel that comes before the best.
  __device__ bool reaches(int tile, Ranked largest, float squares, Ranked best) const {
    const float bound = largest ? fit_of(value_of(largest), squares) : -kInfinity;
    if (bound == -kInfinity) return false;
    const Rect own = search_.tile(maps_, tile);
    const auto first = static_cast<std::uint32_t>(own.top) * static_cast<std::uint32_t>(maps_.width) +
                       static_cast<std::uint32_t>(own.left);
    return ranked(bound, first) > best;
  }

  // 0: no fit.
  __device__ static Ranked key_of(float heat, float squares, std::uint32_t index) {
    const float fit = fit_of(heat, squares);
    return fit > -kInfinity ? ranked(fit, index) : 0;
  }

  const FinalMaps& maps_;
  const Search& search_;
  const float* mean_;
  int joint_;
  float* pool_;
  Held* held_;
  Ranked* best_;
};

// Puts a joint where the search ended, if the final heatmap is above 0 there. A warp calls it, a lane for
// each of the neighbours and the pixel itself.
__device__ void fill(const FinalMaps& maps, int joint, Ranked best, float* entry) {
  const int which = this_lane();
  const std::uint32_t index = index_of(best);
  const int x = static_cast<int>(index % static_cast<std::uint32_t>(maps.width));
  const int y = static_cast<int>(index / static_cast<std::uint32_t>(maps.width));
  const float value = which < 5 ? neighbour(maps, joint, y, x, which) : 0;
  const float other = __shfl_xor_sync(kWholeWarp, value, 1);
  const float middle = __shfl_sync(kWholeWarp, value, 4);
  if (!(middle > 0)) return;
  if (which == 0) entry[0] = (static_cast<float>(x) + 0.5f) + quarter_towards(other, value);
  if (which == 2) entry[1] = (static_cast<float>(y) + 0.5f) + quarter_towards(other, value);
  if (which == 4) entry[2] = middle;
}

// A block a person and joint.
__global__ void __launch_bounds__(kSeekThreads) seek(FinalMaps maps, PersonsTask task, Search search) {
  EDGEPOSE_DYNAMIC_SHARED(float, planes);
  __shared__ Ranked best;
  __shared__ int list[kListed];
  __shared__ int listed;
  const int thread = static_cast<int>(threadIdx.x);
  const int person = static_cast<int>(blockIdx.x) / task.joints;
  const int joint = static_cast<int>(blockIdx.x) % task.joints;
  if (person >= *task.count) return;
  float* const entry = entry_of(task, person, joint);
  const float score = entry[2];
  if (!search.known[person] || score != 0) return;
  if (thread == 0) {
    best = 0;
    listed = 0;
  }
  Seeker seeker(maps, search, person, joint, planes, &best);
  const Ranked start = warp_largest(seeker.best_of_largest());
  __syncthreads();
  if (this_lane() == 0 && start) atomicMax(&best, start);
  for (int base = 0; base < search.tiles; base += kListed) {
    __syncthreads();
    const Ranked reached = best;
    seeker.for_reaching(base, reached, [&](int tile) { list[atomicAdd(&listed, 1)] = tile; });
    __syncthreads();
    const int count = listed;
    for (int i = thread / kWarpSize; i < count; i += kSeekWarps) seeker.evaluate(list[i]);
    __syncthreads();
    if (thread == 0) listed = 0;
  }
  if (thread < kWarpSize && best) fill(maps, joint, best, entry);
}

Search search_in(void* scratch, const FinalMaps& maps, const PersonsTask& task, std::size_t* bytes) {
  Arena arena(scratch);
  const auto rows = static_cast<std::size_t>(task.rows), t = static_cast<std::size_t>(maps.tag_count);
  const auto joints = static_cast<std::size_t>(task.joints);
  Search search{};
  search.across = static_cast<int>(ceiling(static_cast<std::size_t>(maps.width), kSide));
  search.tiles = search.across * static_cast<int>(ceiling(static_cast<std::size_t>(maps.height), kSide));
  const std::size_t tiles = joints * static_cast<std::size_t>(search.tiles);
  search.means = arena.take<float>(rows * t);
  search.known = arena.take<int>(rows);
  search.largest = arena.take<Ranked>(tiles);
  search.at = arena.take<float>(tiles * t);
  search.low = arena.take<float>(tiles * t);
  search.high = arena.take<float>(tiles * t);
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
  Search search = search_in(task.refine ? scratch : nullptr, maps, task, &bytes);
  const auto rows = static_cast<unsigned>(task.rows), joints = static_cast<unsigned>(task.joints);
  if (!task.refine) {
    launch("settle", look, dim3(rows), dim3(kTileThreads), 0, stream, maps, task, search, 1, 1);
    return;
  }
  const auto tags = static_cast<std::size_t>(larger_of(maps.tag_count, 1));
  const std::size_t most_at_once = tags < kTagsAtOnce ? kTagsAtOnce / tags : 1;
  const std::size_t at_once = joints < most_at_once ? joints : most_at_once;
  search.slots = smaller_of(maps.runs + maps.tag_count, kMostSlots);
  const auto rounded_room = [&](int side, std::size_t warps) {
    const std::size_t held = static_cast<std::size_t>(search.slots) * sizeof(Held);
    const std::size_t own = kListed * sizeof(int) + 64;  // what `seek` has besides
    return held_room(maps, side, true, ((kSharedBytes - own) / warps - held) / sizeof(float) / 4 * 4 - 4) /
               4 * 4 +
           4;
  };
  search.room = rounded_room(kBlockSide, 1);
  search.seek_room = rounded_room(kSide, kSeekWarps);
  const auto shared = [&](int room) {
    return static_cast<std::size_t>(room) * sizeof(float) +
           static_cast<std::size_t>(search.slots) * sizeof(Held);
  };
  const unsigned blocks_per_joint = ceiling(static_cast<std::size_t>(maps.width), kBlockSide) *
                                    ceiling(static_cast<std::size_t>(maps.height), kBlockSide);
  const std::size_t for_tags = at_once * tags * sizeof(float), for_planes = shared(search.room);
  launch("settle", look, dim3(rows + joints * blocks_per_joint), dim3(kTileThreads),
         for_tags < for_planes ? for_planes : for_tags, stream, maps, task, search, static_cast<int>(at_once),
         static_cast<int>(blocks_per_joint));
  launch("settle", seek, dim3(rows * joints), dim3(kSeekThreads), kSeekWarps * shared(search.seek_room),
         stream, maps, task, search);
}

}  // namespace edgepose::cuda

// Peaks put together to persons: one block visits the joints in order, and nothing leaves it in between.
#include "group_by_warp.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kThreads = kGroupThreads;
constexpr int kWarps = kThreads / kWarpSize;

// What a cost is made of: the rounded distance, if it counts, and the distance in fixed point.
using Cost = unsigned long long;
constexpr int kFixedBits = 45;  // the largest distance takes 2^44
constexpr Cost kFixedMask = (Cost{1} << kFixedBits) - 1;

// The block's memory, shared or not.
struct Work {
  float *sums, *means;     // persons x t: tag vectors added up, and their means
  int* members;            // persons x t: how many these are, each for the thread that needs it
  float* keys;             // official: the first tag that made the person
  int* joined;             // person of each candidate, or -1
  int* order;              // of the joints
  int* counts;             // candidates of each joint
  long long* values;       // scores in fixed point
  Cost* costs;             // rows x columns
  int *column_of, *taken;  // of each row; how often each column
  float *scores, *tags;    // joints x limit of the peaks, where there is room
  WarpPaths paths;
  WarpMunkres munkres;

  EDGEPOSE_HD static std::size_t one_if(bool condition, std::size_t count) { return condition ? count : 0; }

  EDGEPOSE_HD Work(const GroupTask& task, bool staged, Arena& arena)
      : Work(task, static_cast<std::size_t>(task.peaks.joints),
             static_cast<std::size_t>(task.peaks.tag_count), static_cast<std::size_t>(task.limit),
             static_cast<std::size_t>(task.rows), staged, arena) {}

 private:
  EDGEPOSE_HD Work(const GroupTask& task, std::size_t joints, std::size_t t, std::size_t candidates,
                   std::size_t persons, bool staged, Arena& arena)
      : Work(task, joints, t, candidates, persons, references(task, persons), staged, arena) {}

  EDGEPOSE_HD static std::size_t references(const GroupTask& task, std::size_t persons) {
    const auto most = static_cast<std::size_t>(task.options.max_persons);
    return persons < most ? persons : most;
  }

  EDGEPOSE_HD Work(const GroupTask& task, std::size_t joints, std::size_t t, std::size_t candidates,
                   std::size_t persons, std::size_t references, bool staged, Arena& arena)
      : sums(arena.take<float>(persons * t)),
        means(arena.take<float>(persons * t)),
        members(arena.take<int>(persons * t)),
        keys(arena.take<float>(one_if(task.options.official, persons))),
        joined(arena.take<int>(candidates)),
        order(arena.take<int>(joints)),
        counts(arena.take<int>(joints)),
        values(arena.take<long long>(one_if(!task.options.official, candidates))),
        costs(arena.take<Cost>(one_if(!task.options.official, candidates * references))),
        column_of(arena.take<int>(larger(candidates, references))),
        taken(arena.take<int>(larger(candidates, references))),
        scores(arena.take<float>(one_if(staged, joints * candidates))),
        tags(arena.take<float>(one_if(staged, joints * candidates * t))),
        paths(one_if(!task.options.official, smaller(candidates, references)),
              one_if(!task.options.official, larger(candidates, references)), arena),
        munkres(one_if(task.options.official, larger(candidates, references)), arena) {}

  EDGEPOSE_HD static std::size_t larger(std::size_t a, std::size_t b) { return a > b ? a : b; }
  EDGEPOSE_HD static std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }
};

// The peaks of one joint.
struct Candidates {
  const float *scores, *tags;
  const std::int32_t* xy;
  int count;
};

class Grouping {
 public:
  __device__ Grouping(const GroupTask& task, const Work& work, int* shared)
      : task_(task), work_(work), shared_(shared), tags_(task.peaks.tag_count), stride_(3 + tags_) {}

  __device__ void run(bool staged) {
    const Peaks& peaks = task_.peaks;
    const long long all = static_cast<long long>(task_.rows) * peaks.joints * stride_;
    for (long long i = thread(); i < all; i += kThreads) task_.persons[i] = 0;
    bool left_out = false;
    for (int joint = thread(); joint < peaks.joints; joint += kThreads) {
      const int count = peaks.count[joint];
      work_.order[joint] = static_cast<int>(task_.options.joint_order[joint]);
      work_.counts[joint] = smaller_of(count, task_.limit);
      left_out |= task_.left_out_from > 0 && count >= task_.left_out_from;
    }
    if (staged) {
      const int limit = task_.limit, each = limit * tags_;
      for (int i = thread(); i < peaks.joints * limit; i += kThreads) {
        work_.scores[i] = peaks.scores[i / limit * peaks.top + i % limit];
      }
      for (int i = thread(); i < peaks.joints * each; i += kThreads) {
        work_.tags[i] = peaks.tags[i / each * (peaks.top * tags_) + i % each];
      }
    }
    left_out = __syncthreads_or(left_out);
    for (int i = 0; i < peaks.joints; ++i) place(work_.order[i], staged);
    if (task_.scores) {
      for (int row = thread(); row < task_.rows; row += kThreads)
        task_.scores[row] = mean_of_scores(peaks.joints, [&](int joint) { return *entry(row, joint, 2); });
    }
    if (thread() == 0) *task_.counts = {persons_, truncated_, left_out, 0};
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  __device__ void place(int joint, bool staged) {
    const Peaks& peaks = task_.peaks;
    const GroupOptions& options = task_.options;
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(joint) * (staged ? task_.limit : peaks.top);
    const Candidates candidates{
        (staged ? work_.scores : peaks.scores) + first, (staged ? work_.tags : peaks.tags) + first * tags_,
        peaks.xy + static_cast<std::ptrdiff_t>(joint) * peaks.top * 2, work_.counts[joint]};
    const int references = smaller_of(persons_, options.max_persons);
    if (candidates.count == 0) return;
    if (options.ignore_too_much && references == options.max_persons) return;
    if (thread() == 0) *shared_ = 0;
    for (int i = thread(); i < candidates.count; i += kThreads) work_.joined[i] = -1;
    if (options.official) {
      if (references > 0) assign_official(candidates, references);
      __syncthreads();
      if (thread() < kWarpSize) join_in_turn(joint, candidates);
      __syncthreads();
      persons_ = *shared_;
      __syncthreads();
    } else {
      if (references > 0) assign(candidates, references);
      __syncthreads();
      join(joint, candidates);
      __syncthreads();
    }
  }

  // --- the default assignment ---

  __device__ PairCost cost_of(Cost cost, long long value) const {
    const auto second = static_cast<long long>(cost & kFixedMask);
    if (!task_.options.use_detection_val) return pair_cost(second, second);
    const auto whole = static_cast<long long>(cost >> kFixedBits);
    return pair_cost((whole * 100 << 28) - value, second);
  }

  // Rows are the candidates or the persons, whichever are fewer.
  __device__ void assign(const Candidates& candidates, int references) {
    const bool wide = candidates.count <= references;
    const int rows = wide ? candidates.count : references, columns = wide ? references : candidates.count;
    const bool by_value = task_.options.use_detection_val;
    const auto value_at = [&](int i) {
      return static_cast<long long>(nearest_whole(usable_score(candidates.scores[i]) * kFixedPoint));
    };
    for (int i = thread(); i < candidates.count; i += kThreads) work_.values[i] = value_at(i);
    for (int i = thread(); i < columns; i += kThreads) work_.taken[i] = 0;
    __syncthreads();
    bool conflict = false;
    for (int row = thread() / kWarpSize; row < rows; row += kWarps) {
      Nearest mine{0, kNoColumn};
      for (int column = this_lane(); column < columns; column += kWarpSize) {
        const int i = wide ? row : column, j = wide ? column : row;
        const double distance = distance_at(candidates, i, j);
        const double whole = by_value ? nearest_whole(distance) : 0;
        const Cost cost =
            static_cast<Cost>(whole) << kFixedBits | static_cast<Cost>(nearest_whole(distance * kFixedPoint));
        work_.costs[static_cast<std::ptrdiff_t>(row) * columns + column] = cost;
        const PairCost pair = cost_of(cost, work_.values[i]);
        if (mine.column == kNoColumn || pair < mine.cost) mine = {pair, column};
      }
      const Nearest best = nearest_of_warp(mine);
      if (this_lane() == 0) {
        work_.column_of[row] = best.column;
        conflict |= atomicAdd(work_.taken + best.column, 1) > 0;
      }
    }
    // Where each row has the first of its nearest columns to itself, no search would go on to a second
    // column.
    if (__syncthreads_or(conflict)) {
      if (thread() < kWarpSize) {
        work_.paths.solve(
            rows, columns,
            [&](int row, int column) {
              return cost_of(work_.costs[static_cast<std::ptrdiff_t>(row) * columns + column],
                             work_.values[wide ? row : column]);
            },
            work_.column_of);
      }
      __syncthreads();
    }
    for (int row = thread(); row < rows; row += kThreads) {
      const int i = wide ? row : work_.column_of[row], j = wide ? work_.column_of[row] : row;
      if (!(distance_at(candidates, i, j) < task_.options.tag_threshold)) continue;
      work_.joined[i] = j;
      atomicAdd(shared_, 1);
    }
  }

  __device__ double distance_at(const Candidates& candidates, int i, int j) const {
    return distance_of(candidates.tags + static_cast<std::ptrdiff_t>(i) * tags_,
                       work_.means + static_cast<std::ptrdiff_t>(j) * tags_, tags_);
  }

  // Writes the candidates into their persons or new ones, a thread each number.
  __device__ void join(int joint, const Candidates& candidates) {
    const int most = task_.options.max_persons;
    for (int p = thread(); p < candidates.count * stride_; p += kThreads) {
      const int i = p / stride_, field = p % stride_;
      int person = work_.joined[i];
      const bool fresh = person < 0;
      if (fresh) {
        person = persons_;
        for (int other = 0; other < i; ++other) person += work_.joined[other] < 0;
        if (person >= most) continue;
      }
      *entry(person, joint, field) = number(candidates, i, field);
      if (field >= 3) add_tag(person, field - 3, number(candidates, i, field), fresh);
    }
    const int wanted = persons_ + candidates.count - *shared_;
    if (wanted > most) truncated_ = 1;
    persons_ = smaller_of(wanted, most);
  }

  __device__ void add_tag(int person, int t, float tag, bool fresh) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(person) * tags_ + t;
    const float sum = fresh ? tag : work_.sums[at] + tag;
    const int members = fresh ? 1 : work_.members[at] + 1;
    work_.sums[at] = sum;
    work_.members[at] = members;
    work_.means[at] = sum / static_cast<float>(members);
  }

  // --- the official assignment ---

  __device__ void assign_official(const Candidates& candidates, int references) {
    const int size = larger_of(candidates.count, references);
    const bool by_value = task_.options.use_detection_val;
    double* const costs = work_.munkres.costs();
    for (int p = thread(); p < size * size; p += kThreads) {
      const int i = p / size, j = p % size;
      double cost = 0;
      if (i < candidates.count) {
        cost = kUnrealCost;
        if (j < references) {
          const double distance = distance_at(candidates, i, j);
          cost = by_value ? nearest_whole(distance) * 100 - usable_score(candidates.scores[i]) : distance;
        }
      }
      costs[p] = cost;
    }
    __syncthreads();
    if (thread() >= kWarpSize) return;
    const int* column_of = work_.munkres.solve(size);
    for (int i = this_lane(); i < candidates.count; i += kWarpSize) {
      const int j = column_of[i];
      if (j < references && distance_at(candidates, i, j) < task_.options.tag_threshold) work_.joined[i] = j;
    }
  }

  // Writes the candidates in order; a new person may be one that is there. The number of persons goes to
  // shared memory.
  __device__ void join_in_turn(int joint, const Candidates& candidates) {
    int persons = persons_;
    for (int i = 0; i < candidates.count; ++i) {
      int person = work_.joined[i];
      const bool fresh = person < 0;
      if (fresh) {
        const float key = candidates.tags[static_cast<std::ptrdiff_t>(i) * tags_];
        for (int from = 0; from < persons && person < 0; from += kWarpSize) {
          const int other = from + this_lane();
          const unsigned same = __ballot_sync(kWholeWarp, other < persons && work_.keys[other] == key);
          if (same) person = from + __ffs(static_cast<int>(same)) - 1;
        }
        if (person < 0) {
          person = persons++;
          if (this_lane() == 0) work_.keys[person] = key;
        }
      }
      for (int field = this_lane(); field < stride_; field += kWarpSize) {
        *entry(person, joint, field) = number(candidates, i, field);
        if (field >= 3) add_tag(person, field - 3, number(candidates, i, field), fresh);
      }
      __syncwarp();
    }
    if (this_lane() == 0) *shared_ = persons;
  }

  // --- both ---

  __device__ float* entry(int person, int joint, int field) const {
    return task_.persons + (static_cast<std::ptrdiff_t>(person) * task_.peaks.joints + joint) * stride_ +
           field;
  }

  __device__ float number(const Candidates& candidates, int i, int field) const {
    if (field < 2) return static_cast<float>(candidates.xy[2 * i + field]);
    return field == 2 ? candidates.scores[i]
                      : candidates.tags[static_cast<std::ptrdiff_t>(i) * tags_ + field - 3];
  }

  const GroupTask& task_;
  Work work_;
  int* shared_;  // candidates that joined; official: persons
  int tags_, stride_;
  int persons_ = 0, truncated_ = 0;
};

// scratch: null where shared memory suffices.
__global__ void __launch_bounds__(kThreads) group_all(GroupTask task, bool staged, void* scratch) {
  EDGEPOSE_DYNAMIC_SHARED(unsigned char, shared);
  __shared__ int number;
  Arena arena(scratch ? scratch : shared);
  Grouping(task, Work(task, staged, arena), &number).run(staged);
}

__global__ void __launch_bounds__(kGroupThreads) group_few(GroupTask task) {
  EDGEPOSE_DYNAMIC_SHARED(unsigned char, shared);
  Arena arena(shared);
  WarpGrouping(task, WarpGroups(task, arena)).run();
}

std::size_t bytes_of(const GroupTask& task, bool staged) {
  Arena arena(nullptr);
  Work(task, staged, arena);
  return arena.used();
}

}  // namespace

std::size_t group_scratch(const GroupTask& task) {
  const std::size_t bytes = bytes_of(task, false);
  return warp_groups_bytes(task) || bytes <= kSharedBytes ? 0 : bytes;
}

void group(const GroupTask& task, void* scratch, cudaStream_t stream) {
  if (const std::size_t few = warp_groups_bytes(task)) {
    launch("group", group_few, dim3(1), dim3(kGroupThreads), few, stream, task);
    return;
  }
  const std::size_t all = bytes_of(task, true), needed = bytes_of(task, false);
  const bool staged = all <= kSharedBytes;
  const bool fits = needed <= kSharedBytes;
  launch("group", group_all, dim3(1), dim3(kThreads),
         staged ? all
         : fits ? needed
                : 0,
         stream, task, staged, fits ? nullptr : scratch);
}

}  // namespace edgepose::cuda

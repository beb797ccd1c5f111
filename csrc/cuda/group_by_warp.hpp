// Grouping by the default assignment where neither candidates nor persons are more than a warp has lanes: one
// warp visits the joints, with nothing but shared memory and shuffles; the block loads and writes for it.
#pragma once

#include "assignment.hpp"
#include "final_tiles.hpp"

namespace edgepose::cuda {

constexpr int kGroupThreads = 256;

// What that warp works on.
struct WarpGroups {
  PairCost* of_row;      // potentials
  long long* values;     // joints x limit: scores in fixed point
  float *scores, *tags;  // joints x limit of the peaks
  float *sums, *means;   // persons x t: tag vectors added up, and their means
  int* members;          // of each person
  int *order, *counts;   // of the joints
  int* rows_at;          // of each column
  unsigned char* cells;  // persons x joints: a candidate's number from 1 on, or 0

  EDGEPOSE_HD WarpGroups(const GroupTask& task, Arena& arena)
      : WarpGroups(static_cast<std::size_t>(task.peaks.joints),
                   static_cast<std::size_t>(task.peaks.tag_count), static_cast<std::size_t>(task.limit),
                   static_cast<std::size_t>(task.rows), arena) {}

 private:
  EDGEPOSE_HD WarpGroups(std::size_t joints, std::size_t t, std::size_t limit, std::size_t persons,
                         Arena& arena)
      : of_row(arena.take<PairCost>(kWarpSize)),
        values(arena.take<long long>(joints * limit)),
        scores(arena.take<float>(joints * limit)),
        tags(arena.take<float>(joints * limit * t)),
        sums(arena.take<float>(persons * t)),
        means(arena.take<float>(persons * t)),
        members(arena.take<int>(persons)),
        order(arena.take<int>(joints)),
        counts(arena.take<int>(joints)),
        rows_at(arena.take<int>(kWarpSize)),
        cells(arena.take<unsigned char>(persons * joints)) {}
};

// Shared memory that it takes; 0: the task is none for a warp.
inline std::size_t warp_groups_bytes(const GroupTask& task) {
  if (task.options.official || task.limit > kWarpSize || task.rows > kWarpSize) return 0;
  Arena arena(nullptr);
  WarpGroups(task, arena);
  return arena.used() <= kSharedBytes ? arena.used() : 0;
}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

__device__ inline double distance_of(const float* tag, const float* mean, int tags) {
  if (tags == 1) {  // the root of a square is exact
    const double apart = fabs(static_cast<double>(*tag) - static_cast<double>(*mean));
    return apart < kMaxDistance ? apart : kMaxDistance;
  }
  double squares = 0;
  for (int t = 0; t < tags; ++t) {
    const double apart = static_cast<double>(tag[t]) - static_cast<double>(mean[t]);
    squares += apart * apart;
  }
  return usable_distance(squares);
}

// The mean of joint scores, added up in numpy's order.
template <class Score>
__device__ float mean_of_scores(int joints, const Score& score) {
  const int whole = joints / 8 * 8;
  float total = 0;
  if (whole) {
    float lanes[8];
    EDGEPOSE_UNROLL
    for (int j = 0; j < 8; ++j) lanes[j] = score(j);
    for (int i = 8; i < whole; i += 8) {
      EDGEPOSE_UNROLL
      for (int j = 0; j < 8; ++j) lanes[j] += score(i + j);
    }
    total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  }
  for (int i = whole; i < joints; ++i) total += score(i);
  return total / static_cast<float>(joints);
}

class WarpGrouping {
 public:
  __device__ WarpGrouping(const GroupTask& task, const WarpGroups& work)
      : task_(task), work_(work), tags_(task.peaks.tag_count) {}

  // The whole block calls it.
  __device__ void run() {
    const bool left_out = load();
    if (thread() < kWarpSize) {
      for (int i = 0; i < task_.peaks.joints; ++i) place(work_.order[i]);
      if (thread() == 0) *task_.counts = {persons_, truncated_, left_out, 0};
    }
    __syncthreads();
    write();
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  // Whether peaks are left out.
  __device__ bool load() {
    const Peaks& peaks = task_.peaks;
    const int joints = peaks.joints, limit = task_.limit;
    bool left_out = false;
    for (int joint = thread(); joint < joints; joint += kGroupThreads) {
      const int count = peaks.count[joint];
      work_.order[joint] = static_cast<int>(task_.options.joint_order[joint]);
      work_.counts[joint] = smaller_of(count, limit);
      left_out |= task_.left_out_from > 0 && count >= task_.left_out_from;
    }
    for (int i = thread(); i < joints * limit; i += kGroupThreads) {
      const int joint = i / limit;
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(joint) * peaks.top + i - joint * limit;
      const float score = peaks.scores[at];
      for (int t = 0; t < tags_; ++t) work_.tags[i * tags_ + t] = peaks.tags[at * tags_ + t];
      work_.scores[i] = score;
      work_.values[i] = static_cast<long long>(nearest_whole(usable_score(score) * kFixedPoint));
    }
    for (int i = thread(); i < task_.rows * joints; i += kGroupThreads) work_.cells[i] = 0;
    return __syncthreads_or(left_out);
  }

  __device__ void write() const {
    const Peaks& peaks = task_.peaks;
    const int stride = 3 + tags_;
    for (int i = thread(); i < task_.rows * peaks.joints; i += kGroupThreads) {
      const int cell = work_.cells[i], joint = i % peaks.joints;
      const int from = joint * task_.limit + cell - 1;
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(joint) * peaks.top + cell - 1;
      float* const to = task_.persons + static_cast<std::ptrdiff_t>(i) * stride;
      to[0] = cell ? static_cast<float>(peaks.xy[2 * at]) : 0;
      to[1] = cell ? static_cast<float>(peaks.xy[2 * at + 1]) : 0;
      to[2] = cell ? work_.scores[from] : 0;
      for (int t = 0; t < tags_; ++t) to[3 + t] = cell ? work_.tags[from * tags_ + t] : 0;
    }
    if (!task_.scores) return;
    for (int row = thread(); row < task_.rows; row += kGroupThreads) {
      task_.scores[row] = mean_of_scores(peaks.joints, [&](int joint) {
        const int cell = work_.cells[row * peaks.joints + joint];
        return cell ? work_.scores[joint * task_.limit + cell - 1] : 0.0f;
      });
    }
  }

  // --- by the warp ---

  // A joint's candidates are the lanes'.
  __device__ void place(int joint) {
    const int count = work_.counts[joint], most = task_.options.max_persons, lane = this_lane();
    if (count == 0 || (task_.options.ignore_too_much && persons_ == most)) return;
    first_ = joint * task_.limit;
    const int partner = persons_ > 0 ? partner_of_lane(count) : -1;
    const bool there = lane < count;
    const bool joins = there && partner >= 0 && distance_at(lane, partner) < task_.options.tag_threshold;
    const unsigned fresh = __ballot_sync(kWholeWarp, there && !joins);
    const int person = joins ? partner : persons_ + __popc(fresh & ((1u << lane) - 1));
    if (there && person < most) {
      const int members = joins ? work_.members[person] + 1 : 1;
      for (int t = 0; t < tags_; ++t) {
        const float tag = work_.tags[(first_ + lane) * tags_ + t];
        const float sum = joins ? work_.sums[person * tags_ + t] + tag : tag;
        work_.sums[person * tags_ + t] = sum;
        work_.means[person * tags_ + t] = sum / static_cast<float>(members);
      }
      work_.members[person] = members;
      work_.cells[person * task_.peaks.joints + joint] = static_cast<unsigned char>(lane + 1);
    }
    const int wanted = persons_ + __popc(fresh);
    if (wanted > most) truncated_ = 1;
    persons_ = smaller_of(wanted, most);
    __syncwarp();
  }

  __device__ double distance_at(int i, int j) const {
    return distance_of(work_.tags + (first_ + i) * tags_, work_.means + j * tags_, tags_);
  }

  __device__ PairCost cost_at(int i, int j) const {
    const double distance = distance_at(i, j);
    const auto second = static_cast<long long>(nearest_whole(distance * kFixedPoint));
    if (!task_.options.use_detection_val) return pair_cost(second, second);
    const auto whole = static_cast<long long>(nearest_whole(distance));
    return pair_cost((whole * 100 << 28) - work_.values[first_ + i], second);
  }

  // The person to whom the lane's candidate is assigned, or -1.
  __device__ int partner_of_lane(int count) {
    // Rows are the candidates or the persons, whichever are fewer.
    const bool wide = count <= persons_;
    const int rows = wide ? count : persons_, columns = wide ? persons_ : count, lane = this_lane();
    const auto cost = [&](int row, int column) { return wide ? cost_at(row, column) : cost_at(column, row); };
    // Some lanes look for a row's nearest column, as many as there are for each.
    int each = kWarpSize;
    while (each * rows > kWarpSize) each /= 2;
    const int row = lane / each;
    Nearest mine{0, kNoColumn};
    if (row < rows) {
      for (int column = lane % each; column < columns; column += each) {
        const PairCost here = cost(row, column);
        if (mine.column == kNoColumn || here < mine.cost) mine = {here, column};
      }
    }
    for (int step = each / 2; step > 0; step /= 2) {
      const Nearest other{shuffled(mine.cost, lane ^ step),
                          __shfl_sync(kWholeWarp, mine.column, lane ^ step)};
      const bool there = other.column != kNoColumn, none = mine.column == kNoColumn;
      if (there &&
          (none || other.cost < mine.cost || (other.cost == mine.cost && other.column < mine.column))) {
        mine = other;
      }
    }
    work_.rows_at[lane] = kNoColumn;
    __syncwarp();
    const bool first_lane = row < rows && lane % each == 0;
    if (first_lane) atomicMin(work_.rows_at + mine.column, row);
    __syncwarp();
    const unsigned conflict = __ballot_sync(kWholeWarp, first_lane && work_.rows_at[mine.column] != row);
    int row_at = work_.rows_at[lane];  // of the lane's column
    if (!conflict) {
      // Where each row has the first of its nearest columns to itself, no search would go on to a second one.
      const int column = __shfl_sync(kWholeWarp, mine.column, lane * each % kWarpSize);
      if (wide) return lane < rows ? column : -1;
      return row_at != kNoColumn ? row_at : -1;
    }
    // Nor does it for the rows before the first that has not.
    const int settled = (__ffs(static_cast<int>(conflict)) - 1) / each;
    if (first_lane) work_.of_row[row] = mine.cost;
    row_at = row_at < settled ? row_at : -1;
    __syncwarp();
    row_at = assign_by_lanes(settled, rows, columns, row_at, work_.of_row, cost);
    if (!wide) return row_at;
    work_.rows_at[lane] = -1;
    __syncwarp();
    if (row_at >= 0) work_.rows_at[row_at] = lane;
    __syncwarp();
    return work_.rows_at[lane];
  }

  const GroupTask& task_;
  const WarpGroups work_;
  int tags_;
  int first_ = 0;  // of the joint's candidates
  int persons_ = 0, truncated_ = 0;
};

#endif

}  // namespace edgepose::cuda

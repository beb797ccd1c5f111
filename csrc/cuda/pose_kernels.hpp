// The bottom-up kernels on the device, as the bindings see them. All pointers are device pointers, all work
// is put on the stream; nothing waits or allocates. `edgepose/kernels/reference_bottomup.py` and
// `reference_grouping.py` specify what each kernel returns.
#pragma once

#include <cuda_runtime.h>

#include "../core/final_map.hpp"

namespace edgepose::cuda {

// All that a network says about one picture. The arrays lie in device memory, `Maps` and `PlaneSource` as in
// edgepose/kernels/cuda_bottomup.py; what is a number here is fixed for a shape.
struct FinalMaps {
  const PlaneSource *heat, *tags;  // of each run; of each tag map
  const PlaneSource* on_host;      // the same, heat before tags; read while work is put on the stream
  const std::int64_t* flip;
  int runs, scales, tag_count;
  int height, width;  // of the final map, less than 2^31 pixels
  int joints;
  int heat_parts;  // of all runs
};

// Counts for one call of `find_peaks`; the layout of the memory that it works in follows from them.
struct PeakPlan {
  int side, radius;  // of a tile; of windows as far as a tile holds them
  int tiles_across, tiles;
  std::size_t per_tile, per_joint;  // most peaks that are kept
  std::size_t counts_at, lists_at, spare_at, bytes;
};

PeakPlan plan_peaks(const FinalMaps& maps, const PeakOptions& options);
void find_peaks(const FinalMaps& maps, const PeakOptions& options, const Peaks& out, void* scratch,
                cudaStream_t stream);

// What `group` says apart from the persons.
struct GroupCounts {
  std::int32_t persons, truncated, left_out, reserved;
};

struct GroupTask {
  Peaks peaks;
  int limit;                   // peaks taken per joint; left_out: a joint has more
  std::int32_t left_out_from;  // as many peaks of a joint mean that some may be left out; 0: never
  GroupOptions options;        // joint_order on the device
  float* persons;              // rows x joints x (3 + t); rows from `count` on are zero
  float* scores;               // rows: the means of the persons' joint scores; null: not wanted
  int rows;                    // at least max_persons or all peaks, whichever is less; official: all peaks
  GroupCounts* counts;
};

std::size_t group_scratch(const GroupTask& task);
void group(const GroupTask& task, void* scratch, cudaStream_t stream);

// Persons whose number stands on the device.
struct PersonsTask {
  float* data;  // rows x joints x stride
  int rows, joints, stride;
  const std::int32_t* count;
  bool adjust, refine;
  // Peaks of the same maps, or none: they make `refine` faster, and change nothing.
  Peaks peaks;
};

std::size_t settle_scratch(const FinalMaps& maps, const PersonsTask& task);
// `adjust`, then `refine`, in place.
void settle(const FinalMaps& maps, const PersonsTask& task, void* scratch, cudaStream_t stream);

}  // namespace edgepose::cuda

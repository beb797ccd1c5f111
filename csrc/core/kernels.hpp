// The kernels as the bindings see them. All arrays are packed unless a stride says otherwise, and
// live with the caller; nothing is allocated and nothing is checked here. `edgepose/kernels/
// reference.py` specifies what each kernel returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgepose {

// A stack of `count` maps, row by row.
struct Maps {
  const void* data;
  bool half;  // IEEE half precision, else single
  std::size_t count;
  int height, width;
};

struct Image {
  const std::uint8_t* data;  // three bytes a pixel, packed within a row
  std::ptrdiff_t row_stride;
  int height, width;
};

struct CropOptions {
  int height, width;
  double mean[3], std[3];  // by channel of the result
  double fill[3];          // by channel of the image
  bool swap_rb;
};

enum class Refine { none, quarter, taylor };

// One run of a bottom-up network: `heatmaps` of `joints` maps each, the largest last, and tag maps, each of
// `joints` or of one.
struct PoseRun {
  const Maps* heatmaps;
  int heatmap_count;
  const Maps* tags;
  int tag_count;
  bool flipped;  // then it belongs to the same scale as the run before it
};

struct PoseMaps {
  const PoseRun* runs;
  int run_count, scale_count, tag_count;  // tag maps of all runs
  int height, width;                      // of the final map
  int joints;
  const std::int64_t* flip;
};

struct PeakOptions {
  int window, top;
  double threshold;
};

// Peaks of each joint, top entries each, of which the first `count` are there.
struct Peaks {
  int joints, top, tag_count;
  std::int32_t* xy;
  float *scores, *tags;
  std::int32_t* count;
};

struct GroupOptions {
  const std::int64_t* joint_order;
  double tag_threshold;
  bool use_detection_val, ignore_too_much;
  int max_persons;
  bool official;
};

// Persons: count x joints x stride, an entry being x, y, score and tags.
struct Persons {
  float* data;
  std::size_t count;
  int joints, stride;
};

struct KernelTable {
  // affine: count times 2 x 3, output to image pixels; out: count x 3 x height x width
  void (*crop_normalize)(const Image&, const double* affine, std::size_t count, const CropOptions&,
                         float* out);
  // out: count x height x width x 3
  void (*crop_pixels)(const Image&, const double* affine, std::size_t count, int height, int width, bool rgb,
                      std::uint8_t* out);
  // coords: count x 2; scores: count; covariance: count x 2 x 2
  void (*soft_argmax)(const Maps&, float beta, float* coords, float* scores, float* covariance);
  void (*argmax_offset)(const Maps&, Refine, float* coords, float* scores);
  // coords and out: count x 2, may be the same
  void (*quarter_offset)(const Maps&, const float* coords, float* out);
  // order: joints indices; flipped has the layout of maps, whose count is a multiple of joints;
  // out: like the maps, single precision, may be the maps themselves
  void (*flip_average)(const Maps&, const void* flipped, const std::int64_t* order, std::size_t joints,
                       bool shift, float* out);
  // Each of the following works in `scratch`, and with none returns the bytes that it takes.
  std::size_t (*aggregate_nms_topk)(const PoseMaps&, const PeakOptions&, const Peaks& out, void* scratch);
  // persons: room for as many as there are peaks, or max_persons where not official; count and truncated
  // are set
  std::size_t (*group)(const Peaks&, const GroupOptions&, Persons& out, bool* truncated, void* scratch);
  // in place
  std::size_t (*adjust)(const PoseMaps&, const Persons&, void* scratch);
  std::size_t (*refine)(const PoseMaps&, const Persons&, void* scratch);
};

// An instruction set that this build and this processor both have.
struct Isa {
  const char* name;
  const KernelTable* kernels;
};

// The usable ones, the best last.
const std::vector<Isa>& usable_isas();

}  // namespace edgepose

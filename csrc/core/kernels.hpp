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

struct KernelTable {
  // affine: count times 2 x 3, output to image pixels; out: count x 3 x height x width
  void (*crop_normalize)(const Image&, const double* affine, std::size_t count, const CropOptions&,
                         float* out);
  // coords: count x 2; scores: count; covariance: count x 2 x 2
  void (*soft_argmax)(const Maps&, float beta, float* coords, float* scores, float* covariance);
  void (*argmax_offset)(const Maps&, Refine, float* coords, float* scores);
  // coords and out: count x 2, may be the same
  void (*quarter_offset)(const Maps&, const float* coords, float* out);
  // order: joints indices; flipped has the layout of maps, whose count is a multiple of joints;
  // out: like the maps, single precision, may be the maps themselves
  void (*flip_average)(const Maps&, const void* flipped, const std::int64_t* order, std::size_t joints,
                       bool shift, float* out);
};

// An instruction set that this build and this processor both have.
struct Isa {
  const char* name;
  const KernelTable* kernels;
};

// The usable ones, the best last.
const std::vector<Isa>& usable_isas();

}  // namespace edgepose

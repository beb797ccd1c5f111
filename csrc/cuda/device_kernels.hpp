// The kernels on the device, as the bindings see them. All pointers are device pointers to packed arrays, and
// all work is put on the stream: nothing waits, allocates or is checked here. `edgepose/kernels/reference.py`
// specifies what each kernel returns. A map has less than 2^31 pixels.
#pragma once

#include <cuda_runtime.h>

#include "../core/kernels.hpp"

namespace edgepose::cuda {

// Where a crop comes from; `CROP_SOURCE` of edgepose/kernels/cuda.py is the same in Python.
struct CropSource {
  const std::uint8_t* pixels;  // packed BGR; the luma plane where there is chroma
  const std::uint8_t* chroma;  // null, or the plane of U and V in turn, half as high (NV12; even sides)
  std::int64_t stride, chroma_stride;
  std::int32_t height, width;
  double affine[6];  // from output to picture pixels
};

// out: count x 3 x height x width
void crop_normalize(const CropSource* sources, std::size_t count, const CropOptions& options, float* out,
                    cudaStream_t stream);

// out: count x height x width x 3
void crop_pixels(const CropSource* sources, std::size_t count, int height, int width, bool rgb,
                 std::uint8_t* out, cudaStream_t stream);

// coords: count x 2; scores: count; covariance: count x 2 x 2
void soft_argmax(const Maps& maps, float beta, float* coords, float* scores, float* covariance,
                 cudaStream_t stream);

void argmax_offset(const Maps& maps, Refine refine, float* coords, float* scores, cudaStream_t stream);

// coords and out: count x 2, may be the same
void quarter_offset(const Maps& maps, const float* coords, float* out, cudaStream_t stream);

// order: joints indices; flipped has the layout of maps, whose count is a multiple of joints;
// out: like the maps, single precision, may be the maps themselves.
void flip_average(const Maps& maps, const void* flipped, const std::int64_t* order, std::size_t joints,
                  bool shift, float* out, cudaStream_t stream);

// Rows turned around, pixel by pixel: of one value, and of three bytes. `out` is not `images`.
void mirror_planes(const float* images, std::size_t rows, int width, float* out, cudaStream_t stream);
void mirror_pixels(const std::uint8_t* images, std::size_t rows, int width, std::uint8_t* out,
                   cudaStream_t stream);

}  // namespace edgepose::cuda

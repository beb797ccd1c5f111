// Crops out of pictures in device memory. Positions are computed in double, as everywhere; as most devices
// are slow at that, a block computes what depends on the row alone once, and for upright crops the columns
// too.
#include "../core/crop_elements.hpp"
#include "device_kernels.hpp"
#include "launch.hpp"
#include "strips.hpp"

namespace edgepose::cuda {
namespace {

// A block makes a tile of a crop, a warp every kWarps-th row of it.
constexpr int kTileWidth = kWarpSize, kTileHeight = 16, kWarps = 4, kThreads = kWarps * kWarpSize;

__device__ inline std::int64_t bits_of(double value) {
  std::int64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

__device__ inline std::int64_t whole_below(double value) {
#ifdef __CUDA_ARCH__
  return __double2ll_rd(value);
#else
  return static_cast<std::int64_t>(floor(value));
#endif
}

// --- pictures -----------------------------------------------------------------------------------

struct Bgr {
  const CropSource& source;
  __device__ void levels(int y, int x, int* bgr) const {
    const std::uint8_t* pixel = source.pixels + y * source.stride + 3 * static_cast<std::int64_t>(x);
    for (int c = 0; c < 3; ++c) bgr[c] = pixel[c];
  }
};

// ITU-R BT.601, limited range, in 2^20ths.
struct Nv12 {
  const CropSource& source;
  __device__ void levels(int y, int x, int* bgr) const {
    const int luma = source.pixels[y * source.stride + x] - 16;
    const std::uint8_t* pair = source.chroma + (y / 2) * source.chroma_stride + x / 2 * 2;
    const int u = pair[0] - 128, v = pair[1] - 128, base = (luma > 0 ? luma : 0) * 1220542 + (1 << 19);
    bgr[0] = to_level(base + 2116026 * u);
    bgr[1] = to_level(base - 852492 * v - 409993 * u);
    bgr[2] = to_level(base + 1673527 * v);
  }
  __device__ static int to_level(int scaled) {
    const int level = scaled >> 20;
    return level < 0 ? 0 : level > 255 ? 255 : level;
  }
};

// --- targets: how positions are kept, and what becomes of the four pixels around one ---------------

struct Normalized {
  using Share = float;
  using Level = float;
  static constexpr double kScale = 1;
  Normalization how;
  float* out;

  // Positions are kept to 2^-26 px: adding this leaves them in the low bits of a double.
  static __device__ Tap<float> tap(double position, int) {
    constexpr int kFraction = 26;
    constexpr double kShift = 1.5 * (1 << kFraction);
    const auto exponent = static_cast<int>(bits_of(position) >> 52 & 0x7ff) - 1023;
    if (exponent >= kFraction - 1) return {-2, 0};  // far outside
    const std::int64_t at = bits_of(position + kShift) - bits_of(kShift);
    const auto rest = static_cast<int>(at & ((1 << kFraction) - 1));
    return {static_cast<int>(at >> kFraction), static_cast<float>(rest) * (1.0f / (1 << kFraction))};
  }

  __device__ float border(int c) const { return how.fill[c]; }

  __device__ void write(const float (&around)[4][3], float along_x, float along_y, std::int64_t crop,
                        int height, int width, int y, int x) const {
    const std::int64_t plane = static_cast<std::int64_t>(height) * width;
    float* at = out + crop * 3 * plane + static_cast<std::int64_t>(y) * width + x;
    float mixed[3];
    for (int c = 0; c < 3; ++c) {
      mixed[c] = blend(blend(around[0][c], around[1][c], along_x), blend(around[2][c], around[3][c], along_x),
                       along_y);
    }
    const bool swap = how.source[0] != 0;
    for (int c = 0; c < 3; ++c) {
      at[c * plane] = (swap ? mixed[2 - c] : mixed[c]) * how.gain[c] + how.offset[c];
    }
  }
};

struct Bytes {
  using Share = int;
  using Level = int;
  static constexpr double kScale = kSteps;  // of positions; exact
  bool rgb;
  std::uint8_t* out;

  static __device__ Tap<int> tap(double scaled, int length) {
    const std::int64_t at = whole_below(scaled + 0.5), index = at >> kBits;
    const int near = index < -2 ? -2 : index > length ? length : static_cast<int>(index);
    return {near, static_cast<int>(at & (kSteps - 1))};
  }

  __device__ int border(int) const { return 0; }

  __device__ void write(const int (&around)[4][3], int along_x, int along_y, std::int64_t crop, int height,
                        int width, int y, int x) const {
    std::uint8_t* at = out + 3 * ((crop * height + y) * width + x);
    int mixed[3];
    for (int c = 0; c < 3; ++c) {
      mixed[c] = down(across(around[0][c], around[1][c], along_x),
                      across(around[2][c], around[3][c], along_x), along_y);
    }
    for (int c = 0; c < 3; ++c) at[c] = static_cast<std::uint8_t>(rgb ? mixed[2 - c] : mixed[c]);
  }
};

// --- the kernel -----------------------------------------------------------------------------------

template <class Target, class Picture>
__device__ void sample(const Target& target, const Picture& picture, const CropSource& source,
                       Tap<typename Target::Share> across, Tap<typename Target::Share> down,
                       std::int64_t crop, int height, int width, int y, int x) {
  typename Target::Level around[4][3];
  for (int i = 0; i < 4; ++i) {
    const int row = down.index + i / 2, column = across.index + i % 2;
    if (row >= 0 && row < source.height && column >= 0 && column < source.width) {
      int bgr[3];
      picture.levels(row, column, bgr);
      for (int c = 0; c < 3; ++c) around[i][c] = static_cast<typename Target::Level>(bgr[c]);
    } else {
      for (int c = 0; c < 3; ++c) around[i][c] = target.border(c);
    }
  }
  target.write(around, across.along, down.along, crop, height, width, y, x);
}

template <class Target>
__global__ void __launch_bounds__(kThreads)
    crop_tiles(const CropSource* sources, int count, int height, int width, int tiles_across, Target target) {
  using Share = typename Target::Share;
  __shared__ Tap<Share> columns[kTileWidth], rows[kTileHeight];
  __shared__ double starts[kTileHeight][2];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  const int tile = static_cast<int>(blockIdx.x);
  const int top = tile / tiles_across * kTileHeight, left = tile % tiles_across * kTileWidth;
  const int x = left + lane, bottom = top + kTileHeight < height ? top + kTileHeight : height;
  for (int crop = static_cast<int>(blockIdx.y); crop < count; crop += static_cast<int>(gridDim.y)) {
    const CropSource source = sources[crop];
    double m[6];
    for (int i = 0; i < 6; ++i) m[i] = source.affine[i] * Target::kScale;
    const bool upright = m[1] == 0 && m[3] == 0;
    if (upright && warp == 0) columns[lane] = Target::tap(position(m[0], m[2], x), source.width);
    if (warp == kWarps - 1 && lane < kTileHeight) {
      if (upright) {
        rows[lane] = Target::tap(position(m[4], m[5], top + lane), source.height);
      } else {
        starts[lane][0] = position(m[1], m[2], top + lane);
        starts[lane][1] = position(m[4], m[5], top + lane);
      }
    }
    __syncthreads();
    if (x < width) {
      const double first_x = upright ? 0 : m[0] * x, first_y = upright ? 0 : m[3] * x;
      for (int y = top + warp; y < bottom; y += kWarps) {
        Tap<Share> across, down;
        if (upright) {
          across = columns[lane];
          down = rows[y - top];
        } else {
          across = Target::tap(first_x + starts[y - top][0], source.width);
          down = Target::tap(first_y + starts[y - top][1], source.height);
        }
        if (source.chroma) {
          sample(target, Nv12{source}, source, across, down, crop, height, width, y, x);
        } else {
          sample(target, Bgr{source}, source, across, down, crop, height, width, y, x);
        }
      }
    }
    __syncthreads();  // before the next crop takes the shared memory
  }
}

template <class Target>
void start(const char* name, const CropSource* sources, std::size_t count, int height, int width,
           const Target& target, cudaStream_t stream) {
  const unsigned across = ceiling(static_cast<std::size_t>(width), kTileWidth);
  const dim3 blocks(across * ceiling(static_cast<std::size_t>(height), kTileHeight), grid_rows(count));
  launch(name, crop_tiles<Target>, blocks, dim3(kThreads), 0, stream, sources, static_cast<int>(count),
         height, width, static_cast<int>(across), target);
}

}  // namespace

void crop_normalize(const CropSource* sources, std::size_t count, const CropOptions& options, float* out,
                    cudaStream_t stream) {
  const Normalized target{normalization(options), out};
  start("crop_normalize", sources, count, options.height, options.width, target, stream);
}

void crop_pixels(const CropSource* sources, std::size_t count, int height, int width, bool rgb,
                 std::uint8_t* out, cudaStream_t stream) {
  start("crop_pixels", sources, count, height, width, Bytes{rgb, out}, stream);
}

}  // namespace edgepose::cuda

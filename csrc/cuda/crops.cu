// Crops out of pictures in device memory. Positions are computed in double, as everywhere; as most devices
// are slow at that, a block computes what depends on the row alone once, and for upright crops the columns
// too. Pictures are read by aligned words, those of several pixels of the crop under way at once.
#include "../core/crop_elements.hpp"
#include "device_kernels.hpp"
#include "launch.hpp"
#include "strips.hpp"
#include "warp_reduce.hpp"

namespace edgepose::cuda {
namespace {

// A block makes a tile of a crop. Of an upright crop a warp makes every kWarps-th row of it; of a turned one
// a column of patches, which lie closer together in the picture.
constexpr int kTileWidth = kWarpSize, kTileHeight = 16, kWarps = 4, kThreads = kWarps * kWarpSize;
constexpr int kPatchWidth = kTileWidth / kWarps, kPatchHeight = kWarpSize / kPatchWidth;
constexpr int kBlocks = 7;  // on a processor, at least

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

// Bytes of a row of a picture, as the aligned words in which they lie: until they are looked at, nothing
// waits for them.
template <class Word>
struct Words {
  Word low, high;
  int skip;  // bytes before the first; negative where nothing was read

  // Bytes [at, at + count) of a row of `length`, where `wanted` and where the words lie in the row too.
  __device__ void load(const std::uint8_t* row, std::int64_t at, int count, std::int64_t length,
                       bool wanted) {
    constexpr int kBytes = static_cast<int>(sizeof(Word));
    const auto address = reinterpret_cast<std::uintptr_t>(row) + static_cast<std::uintptr_t>(at);
    const int before = static_cast<int>(address % kBytes);
    const bool two = before + count > kBytes;
    const bool read = wanted && before <= at && at - before + (two ? 2 * kBytes : kBytes) <= length;
    const auto* words = reinterpret_cast<const Word*>(address - static_cast<unsigned>(before));
    skip = read ? before : -1;
    low = high = 0;
    if (read) low = __ldg(words);
    if (read && two) high = __ldg(words + 1);
  }

  __device__ bool read() const { return skip >= 0; }
  // The first lowest, and above them what follows.
  __device__ Word bytes() const {
    constexpr int kLast = 8 * static_cast<int>(sizeof(Word)) - 1;
    return low >> 8 * skip | high << 1 << (kLast - 8 * skip);
  }
};

template <class Word>
__device__ int byte_of(Word bytes, int i) {
  return static_cast<int>(bytes >> 8 * i & 0xff);
}

// Which two neighbours along an axis lie in the picture.
struct Inside {
  bool first, second;
  __device__ Inside(int index, int length)
      : first(index >= 0 && index < length), second(index >= -1 && index < length - 1) {}
};

// The four pixels around a position as they lie in the picture, (x, y) being the first: `load` asks for them,
// `settle` waits, and `levels` has them where they lie inside.
struct Bgr {
  static constexpr int kAtOnce = 2;  // pixels that a thread asks for before it looks at the first
  Words<unsigned long long> words[2];
  unsigned long long rows[2];

  __device__ void load(const CropSource& source, int y, int x, Inside down, Inside across) {
    EDGEPOSE_UNROLL
    for (int i = 0; i < 2; ++i) {
      words[i].load(source.pixels + (y + i) * source.stride, 3 * static_cast<std::int64_t>(x), 6,
                    3 * static_cast<std::int64_t>(source.width),
                    (i ? down.second : down.first) && across.first && across.second);
    }
  }

  __device__ void settle(const CropSource& source, int y, int x, Inside down, Inside across) {
    EDGEPOSE_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (words[i].read()) {
        rows[i] = words[i].bytes();
        continue;
      }
      rows[i] = 0;
      if (!(i ? down.second : down.first)) continue;
      const std::uint8_t* at = source.pixels + (y + i) * source.stride + 3 * static_cast<std::int64_t>(x);
      for (int b = 0; b < 6; ++b) {
        if (b < 3 ? across.first : across.second) {
          rows[i] |= static_cast<unsigned long long>(__ldg(at + b)) << 8 * b;
        }
      }
    }
  }

  __device__ void levels(int i, int (&bgr)[3]) const {
    for (int c = 0; c < 3; ++c) bgr[c] = byte_of(rows[i / 2], 3 * (i % 2) + c);
  }
};

// ITU-R BT.601, limited range, in 2^20ths.
struct Nv12 {
  static constexpr int kAtOnce = 1;
  Words<unsigned> luma[2], chroma[2];
  unsigned lumas[2], pairs[2];  // a pair for each of the two columns

  __device__ void load(const CropSource& source, int y, int x, Inside down, Inside across) {
    EDGEPOSE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const bool wanted = (i ? down.second : down.first) && across.first && across.second;
      luma[i].load(source.pixels + (y + i) * source.stride, x, 2, source.width, wanted);
      chroma[i].load(source.chroma + ((y + i) >> 1) * source.chroma_stride, x & ~1, x % 2 ? 4 : 2,
                     source.width, wanted);
    }
  }

  __device__ void settle(const CropSource& source, int y, int x, Inside down, Inside across) {
    EDGEPOSE_UNROLL
    for (int i = 0; i < 2; ++i) {
      lumas[i] = pairs[i] = 0;
      const bool inside = i ? down.second : down.first;
      if (luma[i].read()) {
        lumas[i] = luma[i].bytes();
      } else if (inside) {
        const std::uint8_t* at = source.pixels + (y + i) * source.stride + x;
        if (across.first) lumas[i] = __ldg(at);
        if (across.second) lumas[i] |= static_cast<unsigned>(__ldg(at + 1)) << 8;
      }
      if (chroma[i].read()) {
        const unsigned found = chroma[i].bytes();
        pairs[i] = x % 2 ? found : (found & 0xffff) * 0x10001u;
      } else if (inside) {
        const std::uint8_t* row = source.chroma + ((y + i) >> 1) * source.chroma_stride;
        for (int b = 0; b < 4; ++b) {
          const int column = x + b / 2;
          if (b < 2 ? across.first : across.second) {
            pairs[i] |= static_cast<unsigned>(__ldg(row + (column & ~1) + b % 2)) << 8 * b;
          }
        }
      }
    }
  }

  __device__ void levels(int i, int (&bgr)[3]) const {
    const int y = byte_of(lumas[i / 2], i % 2) - 16, base = (y > 0 ? y : 0) * 1220542 + (1 << 19);
    const unsigned pair = pairs[i / 2] >> 16 * (i % 2);
    const int u = byte_of(pair, 0) - 128, v = byte_of(pair, 1) - 128;
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
  // A byte as the low bits of a float: most devices convert at a fraction of the rate of sums.
  static __device__ float level(int byte) {
    return bits_to_float(0x4b000000u | static_cast<unsigned>(byte)) - 8388608.0f;
  }

  __device__ void write(const float (&around)[4][3], float along_x, float along_y, std::int64_t crop,
                        int height, int width, int y, int x, bool inside) const {
    if (!inside) return;
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
  bool rgb, by_four;  // then a row of a crop is a whole number of words, for each four pixels three
  std::uint8_t* out;

  static __device__ Tap<int> tap(double scaled, int length) {
    const std::int64_t at = whole_below(scaled + 0.5), index = at >> kBits;
    const int near = index < -2 ? -2 : index > length ? length : static_cast<int>(index);
    return {near, static_cast<int>(at & (kSteps - 1))};
  }

  __device__ int border(int) const { return 0; }
  static __device__ int level(int byte) { return byte; }

  // Called by whole warps, of which four lanes in turn have neighbouring pixels, or none of them inside
  // where `by_four`.
  __device__ void write(const int (&around)[4][3], int along_x, int along_y, std::int64_t crop, int height,
                        int width, int y, int x, bool inside) const {
    int mixed[3];
    for (int c = 0; c < 3; ++c) {
      mixed[c] = down(across(around[0][c], around[1][c], along_x),
                      across(around[2][c], around[3][c], along_x), along_y);
    }
    const int first = rgb ? mixed[2] : mixed[0], last = rgb ? mixed[0] : mixed[2];
    std::uint8_t* at = out + 3 * ((crop * height + y) * width + x);
    if (by_four) {
      const int part = this_lane() % 4;
      const auto pixel = static_cast<unsigned>(first | mixed[1] << 8 | last << 16);
      const unsigned next = __shfl_down_sync(kWholeWarp, pixel, 1);
      if (inside && part < 3) {
        *reinterpret_cast<unsigned*>(at + part) = pixel >> 8 * part | next << (24 - 8 * part);
      }
    } else if (inside) {
      at[0] = static_cast<std::uint8_t>(first);
      at[1] = static_cast<std::uint8_t>(mixed[1]);
      at[2] = static_cast<std::uint8_t>(last);
    }
  }
};

// --- the kernel -----------------------------------------------------------------------------------

// A pixel of the crop, and what it is made of.
template <class Share, class Picture>
struct Sample {
  Tap<Share> across, down;
  int x, y;
  bool inside;  // of the crop
  Picture picture;
};

template <class Target, class Picture>
__device__ void put(const Target& target, const CropSource& source,
                    Sample<typename Target::Share, Picture>& sample, std::int64_t crop, int height,
                    int width) {
  const Inside across(sample.across.index, source.width), down(sample.down.index, source.height);
  sample.picture.settle(source, sample.down.index, sample.across.index, down, across);
  typename Target::Level around[4][3];
  EDGEPOSE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const bool inside = (i / 2 ? down.second : down.first) && (i % 2 ? across.second : across.first);
    int bgr[3];
    sample.picture.levels(i, bgr);
    for (int c = 0; c < 3; ++c) around[i][c] = inside ? Target::level(bgr[c]) : target.border(c);
  }
  target.write(around, sample.across.along, sample.down.along, crop, height, width, sample.y, sample.x,
               sample.inside);
}

// What a block knows of a tile before it looks at pixels.
template <class Share>
struct Tile {
  Tap<Share> columns[kTileWidth], rows[kTileHeight];  // of an upright crop
  double starts[kTileHeight][2];                      // of another one
};

template <class Picture, class Target>
__device__ void fill_tile(const Tile<typename Target::Share>& tile, const CropSource& source, bool upright,
                          double slope_x, double slope_y, const Target& target, std::int64_t crop, int height,
                          int width, int top, int left) {
  const int lane = this_lane(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int column = upright ? lane : warp * kPatchWidth + lane % kPatchWidth, x = left + column;
  const int first = upright ? warp : lane / kPatchWidth, step = upright ? kWarps : kPatchHeight;
  const double first_x = slope_x * x, first_y = slope_y * x;
  constexpr int kAtOnce = Picture::kAtOnce;
  for (int row = first; row - first < kTileHeight && top + row - first < height; row += kAtOnce * step) {
    Sample<typename Target::Share, Picture> samples[kAtOnce];
    EDGEPOSE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      auto& sample = samples[i];
      const int at = row + i * step;
      sample.x = x;
      sample.y = top + at;
      sample.inside = x < width && sample.y < height;
      if (upright) {
        sample.across = tile.columns[column];
        sample.down = tile.rows[at];
      } else {
        sample.across = Target::tap(first_x + tile.starts[at][0], source.width);
        sample.down = Target::tap(first_y + tile.starts[at][1], source.height);
      }
      if (!sample.inside) sample.across.index = sample.down.index = -2;  // nothing is read
      sample.picture.load(source, sample.down.index, sample.across.index,
                          Inside(sample.down.index, source.height),
                          Inside(sample.across.index, source.width));
    }
    EDGEPOSE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) put(target, source, samples[i], crop, height, width);
  }
}

template <class Target>
__global__ void __launch_bounds__(kThreads, kBlocks)
    crop_tiles(const CropSource* sources, int count, int height, int width, int tiles_across, Target target) {
  __shared__ Tile<typename Target::Share> tile;
  const int lane = this_lane(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int number = static_cast<int>(blockIdx.x);
  const int top = number / tiles_across * kTileHeight, left = number % tiles_across * kTileWidth;
  for (int crop = static_cast<int>(blockIdx.y); crop < count; crop += static_cast<int>(gridDim.y)) {
    const CropSource source = sources[crop];
    double m[6];
    for (int i = 0; i < 6; ++i) m[i] = source.affine[i] * Target::kScale;
    const bool upright = m[1] == 0 && m[3] == 0;
    if (upright && warp == 0)
      tile.columns[lane] = Target::tap(position(m[0], m[2], left + lane), source.width);
    if (warp == kWarps - 1 && lane < kTileHeight) {
      if (upright) {
        tile.rows[lane] = Target::tap(position(m[4], m[5], top + lane), source.height);
      } else {
        tile.starts[lane][0] = position(m[1], m[2], top + lane);
        tile.starts[lane][1] = position(m[4], m[5], top + lane);
      }
    }
    __syncthreads();
    if (source.chroma) {
      fill_tile<Nv12>(tile, source, upright, m[0], m[3], target, crop, height, width, top, left);
    } else {
      fill_tile<Bgr>(tile, source, upright, m[0], m[3], target, crop, height, width, top, left);
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
  const bool by_four = width % 4 == 0 && aligned_to<unsigned>(out);
  start("crop_pixels", sources, count, height, width, Bytes{rgb, by_four, out}, stream);
}

}  // namespace edgepose::cuda

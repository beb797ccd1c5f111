#include "device_kernels.hpp"
#include "launch.hpp"
#include "strips.hpp"

namespace edgepose::cuda {
namespace {

constexpr int kThreads = 256;

struct Pixel {
  std::uint8_t levels[3];
};

struct OnePixel {
  Pixel values[1];
};

// Four pixels of three bytes, of which only words are aligned.
struct alignas(4) FourPixels {
  Pixel values[4];
};

// A thread turns a `Block` of kCount values around and puts it to the other end of its row.
template <class Block, class T, int kCount>
__global__ void __launch_bounds__(kThreads) mirror(const T* images, std::int64_t rows, int width, T* out) {
  const int blocks = width / kCount;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= rows * blocks) return;
  // Division of 32 bits is much faster than of 64.
  const std::int64_t row = item >> 31 ? item / blocks : static_cast<int>(item) / blocks;
  const int x = static_cast<int>(item - row * blocks) * kCount;
  const Block found = *reinterpret_cast<const Block*>(images + row * width + x);
  Block turned;
  for (int i = 0; i < kCount; ++i) turned.values[i] = found.values[kCount - 1 - i];
  *reinterpret_cast<Block*>(out + row * width + width - kCount - x) = turned;
}

template <class Block, int kCount, class T>
void start(const T* images, std::size_t rows, int width, T* out, cudaStream_t stream) {
  const std::size_t items = rows * static_cast<std::size_t>(width / kCount);
  launch("mirror", mirror<Block, T, kCount>, dim3(ceiling(items, kThreads)), dim3(kThreads), 0, stream,
         images, static_cast<std::int64_t>(rows), width, out);
}

template <class Block>
bool fits(const void* images, int width, const void* out) {
  return width % 4 == 0 && aligned_to<Block>(images) && aligned_to<Block>(out);
}

}  // namespace

void mirror_planes(const float* images, std::size_t rows, int width, float* out, cudaStream_t stream) {
  if (fits<Strip<float, 4>>(images, width, out)) {
    start<Strip<float, 4>, 4>(images, rows, width, out, stream);
  } else {
    start<Strip<float, 1>, 1>(images, rows, width, out, stream);
  }
}

void mirror_pixels(const std::uint8_t* images, std::size_t rows, int width, std::uint8_t* out,
                   cudaStream_t stream) {
  const auto* from = reinterpret_cast<const Pixel*>(images);
  auto* to = reinterpret_cast<Pixel*>(out);
  if (fits<FourPixels>(images, width, out)) {
    start<FourPixels, 4>(from, rows, width, to, stream);
  } else {
    start<OnePixel, 1>(from, rows, width, to, stream);
  }
}

}  // namespace edgepose::cuda

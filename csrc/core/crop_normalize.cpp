#include "crop_normalize.hpp"

#include "sampling.hpp"

namespace edgepose::EDGEPOSE_ISA {

inline Floats blend(Floats a, Floats b, Floats share) { return a + (b - a) * share; }

namespace {

constexpr double kNoRotation = 1e-9;  // px of drift over a crop below which it counts as upright

// Channel `c` of the pixels gathered at their first byte, and of those two bytes further on, which
// hold the last byte of a pixel and the whole next one: no load passes the end of the row.
inline Floats channel_here(UInts bytes, int c) { return to_floats((Ints)((bytes >> (8 * c)) & 255u)); }
inline Floats channel_next(UInts bytes, int c) { return to_floats((Ints)((bytes >> (8 * c + 8)) & 255u)); }

// A `Target` of sampling.hpp: planes of float, normalised.
struct Normalized : Normalization {
  using Share = float;
  static constexpr int kMostInside = 1 << 25;  // any
  struct Row {
    float planes[3][kTile];
  };

  std::ptrdiff_t plane;
  float* out;

  static Tap<float> tap(double position, int length) {
    const double at = clipped(position, length), whole = floor(at);
    return {static_cast<int>(whole), static_cast<float>(at - whole)};
  }

  static Tap<float> tap_inside(double position) {
    const auto index = static_cast<int>(position);
    return {index, static_cast<float>(position - index)};
  }

  static bool inside(double position, int length) { return position >= 0 && position < length - 1; }

  float pixel(const std::uint8_t* row, int x, int width, int channel) const {
    return row && x >= 0 && x < width ? row[3 * static_cast<std::ptrdiff_t>(x) + channel] : fill[channel];
  }

  float blend_pixels(const std::uint8_t* row, int width, Tap<float> at, int c) const {
    return blend(pixel(row, at.index, width, c), pixel(row, at.index + 1, width, c), at.along);
  }

  void blend_row(const std::uint8_t* row, int width, Tap<float> at, int x, Row& to) const {
    for (int c = 0; c < 3; ++c) to.planes[c][x] = blend_pixels(row, width, at, c);
  }

  void blend_row(const std::uint8_t* row, const std::int32_t* offsets, const float* along, int x,
                 Row& to) const {
    const Ints at = load(offsets);
    const UInts here = gather_bytes(row, at), next = gather_bytes(row + 2, at);
    for (int c = 0; c < 3; ++c) {
      store(to.planes[c] + x, blend(channel_here(here, c), channel_next(next, c), load(along)));
    }
  }

  void blend_rows(const Row& uppers, const Row& lowers, float along, int count, std::ptrdiff_t at) const {
    const Floats share = broadcast(along);
    for (int c = 0; c < 3; ++c) {
      const float *upper = uppers.planes[source[c]], *lower = lowers.planes[source[c]];
      const Floats gains = broadcast(gain[c]), offsets = broadcast(offset[c]);
      float* to = out + c * plane + at;
      const Range rest = for_vectors({0, count}, [&](int x) {
        store(to + x, blend(load(upper + x), load(lower + x), share) * gains + offsets);
      });
      for (int x = rest.begin; x < rest.end; ++x) {
        to[x] = blend(upper[x], lower[x], along) * gain[c] + offset[c];
      }
    }
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, int width, Tap<float> across,
              Tap<float> down, std::ptrdiff_t at) const {
    for (int c = 0; c < 3; ++c) {
      const float upper = blend_pixels(above, width, across, source[c]);
      const float lower = blend_pixels(below, width, across, source[c]);
      out[c * plane + at] = blend(upper, lower, down.along) * gain[c] + offset[c];
    }
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, const std::int32_t* offsets,
              const float* along_x, const float* along_y, std::ptrdiff_t at) const {
    const Ints first = load(offsets);
    const Floats share_x = load(along_x), share_y = load(along_y);
    const UInts here = gather_bytes(above, first), next = gather_bytes(above + 2, first);
    const UInts under = gather_bytes(below, first), last = gather_bytes(below + 2, first);
    for (int c = 0; c < 3; ++c) {
      const int from = source[c];
      const Floats upper = blend(channel_here(here, from), channel_next(next, from), share_x);
      const Floats lower = blend(channel_here(under, from), channel_next(last, from), share_x);
      store(out + c * plane + at, blend(upper, lower, share_y) * gain[c] + offset[c]);
    }
  }
};

}  // namespace

void crop_normalize(const Image& image, const double* affine, std::size_t count, const CropOptions& options,
                    float* out) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(options.height) * options.width;
  Normalized target{normalization(options), plane, out};
  for (std::size_t i = 0; i < count; ++i) {
    const double* m = affine + 6 * i;
    target.out = out + static_cast<std::ptrdiff_t>(i) * 3 * target.plane;
    const bool upright = fabs(m[1]) * options.height + fabs(m[3]) * options.width < kNoRotation;
    const auto crop = upright ? crop_upright<Normalized> : crop_general<Normalized>;
    crop(image, m, options.height, options.width, target);
  }
}

}  // namespace edgepose::EDGEPOSE_ISA

// All arithmetic is on whole numbers, 16 bits a channel, so that every implementation rounds alike.
#include "crop_pixels.hpp"

#include "sampling.hpp"

namespace edgepose::EDGEPOSE_ISA {

// The functions of crop_elements.hpp, for vectors.
inline UShorts across(UShorts here, UShorts next, UShorts share) {
  return ((here << kBits) + (next - here) * share) >> 1;
}
inline UShorts down(UShorts upper, UShorts lower, UShorts share) {
  const Shorts step = multiply_rounded((Shorts)(lower - upper), (Shorts)(share << 7));
  return (upper + (UShorts)step + 64) >> 7;
}

namespace {

// A `Target` of sampling.hpp: the pixels of a picture, each of which takes four places in vectors.
struct Pixels {
  using Share = std::uint64_t;  // four times the same
  static constexpr int kMostInside = 1 << 22;
  static constexpr int kHalf = kLanes / 2;  // pixels of a vector
  struct Row {
    std::uint64_t pixels[kTile];
  };

  bool rgb;
  std::uint8_t* out;

  static Share four_times(std::int64_t share) {
    const auto two = static_cast<Share>(share | share << 16);
    return two | two << 32;
  }

  static Tap<Share> tap(double position, int length) {
    const auto at = static_cast<std::int64_t>(floor(clipped(position, length) * kSteps + 0.5));
    return {static_cast<int>(at >> kBits), four_times(at & (kSteps - 1))};
  }

  static Tap<Share> tap_inside(double position) {
    const auto at = static_cast<std::int32_t>(position * kSteps + 0.5);
    return {at >> kBits, four_times(at & (kSteps - 1))};
  }

  // Not of the first pixel, for the sake of the two bytes before it.
  static bool inside(double position, int length) {
    const double at = position * kSteps + 0.5;
    return at >= kSteps && at < static_cast<double>(kSteps) * (length - 1);
  }

  static int level(const std::uint8_t* row, int x, int width, int channel) {
    return row && x >= 0 && x < width ? row[3 * static_cast<std::ptrdiff_t>(x) + channel] : 0;
  }

  static int blend_levels(const std::uint8_t* row, int width, Tap<Share> at, int channel) {
    return across(level(row, at.index, width, channel), level(row, at.index + 1, width, channel),
                  static_cast<int>(at.along & 0xffff));
  }

  void blend_row(const std::uint8_t* row, int width, Tap<Share> at, int x, Row& to) const {
    to.pixels[x] = 0;
    for (int c = 0; c < 3; ++c) {
      to.pixels[x] |= static_cast<std::uint64_t>(blend_levels(row, width, at, c)) << (16 * c);
    }
  }

  // Half as many pixels as there are lanes, blended with the next ones. Eight bytes hold both, after two of
  // the pixel before, so that no load passes the end of the row.
  static UShorts blend_pixels(const std::uint8_t* row, const std::int32_t* offset, const Share* along) {
    const Quads bytes = load_eights(row - 2, offset);
    return across(widened_bytes<2>(bytes), widened_bytes<5>(bytes), (UShorts)load(along));
  }

  void blend_row(const std::uint8_t* row, const std::int32_t* offset, const Share* along, int x,
                 Row& to) const {
    store(to.pixels + x, (Quads)blend_pixels(row, offset, along));
    store(to.pixels + x + kHalf, (Quads)blend_pixels(row, offset + kHalf, along + kHalf));
  }

  void blend_rows(const Row& upper, const Row& lower, Share along, int count, std::ptrdiff_t at) const {
    const auto share = (UShorts)(Quads{} + along);
    const auto half = [&](int x) {
      return down((UShorts)load(upper.pixels + x), (UShorts)load(lower.pixels + x), share);
    };
    const Range rest = for_vectors(
        {0, count}, [&](int x) { store_pixels(out + 3 * (at + x), half(x), half(x + kHalf), rgb); });
    for (int x = rest.begin; x < rest.end; ++x) {
      for (int c = 0; c < 3; ++c) {
        const auto of = [&](const Row& row) { return static_cast<int>(row.pixels[x] >> (16 * c) & 0xffff); };
        write(down(of(upper), of(lower), static_cast<int>(along & 0xffff)), at + x, c);
      }
    }
  }

  void write(int level, std::ptrdiff_t at, int channel) const {
    out[3 * at + (rgb ? 2 - channel : channel)] = static_cast<std::uint8_t>(level);
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, int width, Tap<Share> column,
              Tap<Share> row, std::ptrdiff_t at) const {
    for (int c = 0; c < 3; ++c) {
      const int upper = blend_levels(above, width, column, c), lower = blend_levels(below, width, column, c);
      write(down(upper, lower, static_cast<int>(row.along & 0xffff)), at, c);
    }
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, const std::int32_t* offset,
              const Share* along_x, const Share* along_y, std::ptrdiff_t at) const {
    const auto half = [&](int x) {
      return down(blend_pixels(above, offset + x, along_x + x), blend_pixels(below, offset + x, along_x + x),
                  (UShorts)load(along_y + x));
    };
    store_pixels(out + 3 * at, half(0), half(kHalf), rgb);
  }
};

}  // namespace

void crop_pixels(const Image& image, const double* affine, std::size_t count, int height, int width, bool rgb,
                 std::uint8_t* out) {
  Pixels target{rgb, out};
  for (std::size_t i = 0; i < count; ++i) {
    const double* m = affine + 6 * i;
    // Exactly upright: the least drift could move a position to the next of 256 steps.
    const auto crop = m[1] == 0 && m[3] == 0 ? crop_upright<Pixels> : crop_general<Pixels>;
    crop(image, m, height, width, target);
    target.out += std::ptrdiff_t{3} * height * width;
  }
}

}  // namespace edgepose::EDGEPOSE_ISA

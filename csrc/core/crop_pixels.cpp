// All arithmetic is on whole numbers, 16 bits a channel, so that every implementation rounds alike. A pixel
// takes one 32-bit lane of each of two vectors: channels 0 and 2 as its halves, and channel 1.
#include "crop_pixels.hpp"

#include "sampling.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

constexpr int kBits = 8;  // positions are kept to 1/256 px
constexpr int kSteps = 1 << kBits;
constexpr std::int32_t kHalves = 0x10001;  // times a share: in both halves of a lane

// Of 0 to 255 levels: 128 times the value between two pixels.
inline int across(int here, int next, int share) { return (here * kSteps + (next - here) * share) >> 1; }
inline UShorts across(UShorts here, UShorts next, UShorts share) {
  return ((here << kBits) + (next - here) * share) >> 1;
}

// The level between two results of `across`.
inline int down(int upper, int lower, int share) {
  return (upper + (((lower - upper) * share + kSteps / 2) >> kBits) + 64) >> 7;
}
inline UShorts down(UShorts upper, UShorts lower, UShorts share) {
  const Shorts step = multiply_rounded((Shorts)(lower - upper), (Shorts)(share << 7));
  return (upper + (UShorts)step + 64) >> 7;
}

// A `Target` of sampling.hpp: the pixels of a picture.
struct Pixels {
  using Share = std::int32_t;
  struct Row {
    std::int32_t even[kTile], odd[kTile];
  };
  struct Pair {
    UShorts even, odd;
  };

  bool rgb;
  std::uint8_t* out;

  static Tap<Share> tap(double position, int length) {
    return split(static_cast<std::int64_t>(floor(clipped(position, length) * kSteps + 0.5)));
  }

  static Tap<Share> tap_inside(double position) {
    return split(static_cast<std::int64_t>(position * kSteps + 0.5));
  }

  static Tap<Share> split(std::int64_t at) {
    return {static_cast<int>(at >> kBits), static_cast<Share>(at & (kSteps - 1)) * kHalves};
  }

  static bool inside(double position, int length) {
    const double at = position * kSteps + 0.5;
    return at >= 0 && at < static_cast<double>(kSteps) * (length - 1);
  }

  static int level(const std::uint8_t* row, int x, int width, int channel) {
    return row && x >= 0 && x < width ? row[3 * static_cast<std::ptrdiff_t>(x) + channel] : 0;
  }

  static int blend_levels(const std::uint8_t* row, int width, Tap<Share> at, int channel) {
    return across(level(row, at.index, width, channel), level(row, at.index + 1, width, channel),
                  at.along & (kSteps - 1));
  }

  void blend_row(const std::uint8_t* row, int width, Tap<Share> at, int x, Row& to) const {
    to.even[x] = blend_levels(row, width, at, 0) | blend_levels(row, width, at, 2) << 16;
    to.odd[x] = blend_levels(row, width, at, 1);
  }

  // The pixels at the offsets blended with the next ones; no load passes the end of the row.
  static Pair blend_pixels(const std::uint8_t* row, Ints offset, Ints along) {
    const UInts here = gather_bytes(row, offset), next = gather_bytes(row + 2, offset) >> 8;
    const UInts mask = UInts{} + 0x00ff00ffu;
    const auto share = (UShorts)along;
    return {across((UShorts)(here & mask), (UShorts)(next & mask), share),
            across((UShorts)((here >> 8) & mask), (UShorts)((next >> 8) & mask), share)};
  }

  void blend_row(const std::uint8_t* row, Ints offset, Ints along, int x, Row& to) const {
    const Pair pair = blend_pixels(row, offset, along);
    store(to.even + x, (Ints)pair.even);
    store(to.odd + x, (Ints)pair.odd);
  }

  void write(Pair upper, Pair lower, UShorts share, std::ptrdiff_t at) const {
    auto even = (UInts)down(upper.even, lower.even, share);
    const auto odd = (UInts)down(upper.odd, lower.odd, share);
    if (rgb) even = even >> 16 | even << 16;
    store_pixels(out + 3 * at, even | odd << 8);
  }

  void write(const int (&levels)[3], std::ptrdiff_t at) const {
    for (int c = 0; c < 3; ++c) out[3 * at + (rgb ? 2 - c : c)] = static_cast<std::uint8_t>(levels[c]);
  }

  void blend_rows(const Row& upper, const Row& lower, Share along, int count, std::ptrdiff_t at) const {
    const auto share = (UShorts)(Ints{} + along);
    const auto pair = [](const Row& row, int x) {
      return Pair{(UShorts)load(row.even + x), (UShorts)load(row.odd + x)};
    };
    const Range rest =
        for_vectors({0, count}, [&](int x) { write(pair(upper, x), pair(lower, x), share, at + x); });
    const int last = along & (kSteps - 1);
    for (int x = rest.begin; x < rest.end; ++x) {
      write({down(upper.even[x] & 0xffff, lower.even[x] & 0xffff, last),
             down(upper.odd[x] & 0xffff, lower.odd[x] & 0xffff, last),
             down(upper.even[x] >> 16, lower.even[x] >> 16, last)},
            at + x);
    }
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, int width, Tap<Share> column,
              Tap<Share> row, std::ptrdiff_t at) const {
    int levels[3];
    for (int c = 0; c < 3; ++c) {
      levels[c] = down(blend_levels(above, width, column, c), blend_levels(below, width, column, c),
                       row.along & (kSteps - 1));
    }
    write(levels, at);
  }

  void sample(const std::uint8_t* above, const std::uint8_t* below, Ints offset, Ints along_x, Ints along_y,
              std::ptrdiff_t at) const {
    write(blend_pixels(above, offset, along_x), blend_pixels(below, offset, along_x), (UShorts)along_y, at);
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

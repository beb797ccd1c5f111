// Bilinear crops, whatever is made of the sampled pixels.
//
// Crops are made tile by tile (a tile is a span of columns), so that all working memory fits on the stack.
// Columns whose four neighbours all lie in the image take the vector path; the few others are sampled one by
// one. A `Target` says how exactly positions are kept and what becomes of the samples; it has
//
//   Share                                  how much of the next pixel counts
//   Row                                    the pixels of one image row at the columns of a tile
//   tap(position, length)                  the pixel before a position and its share
//   kMostInside                              larger pictures do without the vector path
//   tap_inside(position)                   the same of a position inside
//   inside(position, length)               whether the vector path takes a position: both pixels lie in the
//   image blend_row(row, width, at, x, to)       one pixel of a Row; `row` is null outside of the image
//   blend_row(row, offset, along, x, to)   kLanes of them, all inside; offset and along are arrays
//   blend_rows(upper, lower, along, count, at)
//                                          out of two Rows `count` pixels of the crop from pixel `at` on
//   sample(above, below, width, across, down, at)
//                                          one pixel of the crop
//   sample(above, below, offset, along_x, along_y, at)
//                                          kLanes of them, all inside
#pragma once

#include "crop_elements.hpp"
#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {

constexpr int kTile = 256;
constexpr int kAhead = 4;       // rows of a crop that are made while memory is fetched for the next
constexpr int kCacheLine = 64;  // bytes

struct Range {
  int begin, end;
};

// The x in [0, count) for which position(slope, start, first + x) lies inside.
template <class Target>
Range columns_inside(double slope, double start, int first, int count, int length) {
  const auto inside = [&](int x) { return Target::inside(position(slope, start, first + x), length); };
  if (slope == 0) return {0, inside(0) ? count : 0};
  const double at_zero = -start / slope - first, at_last = (length - 1 - start) / slope - first;
  const auto bounded = [&](double x) { return x < 0 ? 0 : x > count ? count : static_cast<int>(x); };
  int begin = bounded(slope > 0 ? at_zero : at_last), end = bounded(slope > 0 ? at_last : at_zero);
  // Division and multiplication round differently: settle the ends by the exact test.
  while (begin > 0 && inside(begin - 1)) --begin;
  while (begin < count && begin <= end && !inside(begin)) ++begin;
  if (end < begin) return {0, 0};
  while (end < count && inside(end)) ++end;
  while (end > begin && !inside(end - 1)) --end;
  return {begin, end};
}

inline const std::uint8_t* row_of(const Image& image, int y) {
  return y >= 0 && y < image.height ? image.data + y * image.row_stride : nullptr;
}

// Calls body(x) for steps of kLanes that cover [begin, end), the last one overlapping; returns what
// is left over because the range is shorter than one step.
template <class Body>
inline Range for_vectors(Range range, Body body) {
  if (range.end - range.begin < kLanes) return range;
  for (int x = range.begin; x < range.end; x += kLanes) {
    if (x + kLanes > range.end) x = range.end - kLanes;
    body(x);
  }
  return {range.end, range.end};
}

// --- upright crops: columns and rows separate -------------------------------------------------

template <class Share>
struct Columns {
  Range inside;
  int count;
  int index[kTile];
  std::int32_t offset[kTile];
  Share along[kTile];
};

template <class Target>
void prepare(double slope, double start, int first, int count, int image_width,
             Columns<typename Target::Share>& columns) {
  columns.count = count;
  for (int x = 0; x < count; ++x) {
    const auto at = Target::tap(position(slope, start, first + x), image_width);
    columns.index[x] = at.index;
    columns.offset[x] = 3 * at.index;
    columns.along[x] = at.along;
  }
  columns.inside = columns_inside<Target>(slope, start, first, count, image_width);
}

// One image row, interpolated at the columns.
template <class Target>
void blend_columns(const Target& target, const std::uint8_t* row, int image_width,
                   const Columns<typename Target::Share>& columns, typename Target::Row& to) {
  const auto one = [&](int x) {
    target.blend_row(row, image_width, {columns.index[x], columns.along[x]}, x, to);
  };
  Range inside = row ? columns.inside : Range{0, 0};
  for (int x = 0; x < inside.begin; ++x) one(x);
  const int end = inside.end;
  inside = for_vectors(inside,
                       [&](int x) { target.blend_row(row, columns.offset + x, columns.along + x, x, to); });
  for (int x = inside.begin; x < inside.end; ++x) one(x);
  for (int x = end; x < columns.count; ++x) one(x);
}

// Have memory brought near that a row of the crop will read. Crops skip pixels and rows, which the processor
// does not foresee, and a picture that comes from a decoder is in no cache of this core.
template <class Share>
[[gnu::always_inline]] inline void fetch(const Image& image, int y, const Columns<Share>& columns) {
  if (columns.inside.begin == columns.inside.end) return;
  const std::int32_t begin = columns.offset[columns.inside.begin];
  const std::int32_t end = columns.offset[columns.inside.end - 1] + 6;
  for (int row = y; row < y + 2; ++row) {
    const std::uint8_t* data = row_of(image, row);
    if (!data) continue;
    for (std::int32_t at = begin; at < end + kCacheLine; at += kCacheLine) __builtin_prefetch(data + at);
  }
}

template <class Target>
void crop_upright(const Image& image, const double* m, int height, int width, const Target& target) {
  constexpr int kNone = -2, kOutside = -1;
  Columns<typename Target::Share> columns;
  typename Target::Row buffers[2];
  for (int first = 0; first < width; first += kTile) {
    const int count = width - first < kTile ? width - first : kTile;
    prepare<Target>(m[0], m[2], first, count, image.width, columns);
    int held[2] = {kNone, kNone};  // image rows in the buffers; an enlarged crop uses each many times
    const auto hold = [&](int slot, int y) {
      if (held[slot] == y) return;
      blend_columns(target, row_of(image, y), image.width, columns, buffers[slot]);
      held[slot] = y;
    };
    for (int y = 0; y < height; ++y) {
      fetch(image, Target::tap(m[4] * (y + kAhead) + m[5], image.height).index, columns);
      const auto at = Target::tap(m[4] * y + m[5], image.height);
      const auto row_id = [&](int row) { return row >= 0 && row < image.height ? row : kOutside; };
      const int above = row_id(at.index), below = row_id(at.index + 1);
      const int upper = held[1] == above || (held[0] == below && held[0] != above) ? 1 : 0;
      hold(upper, above);
      const int lower = 1 - upper;
      hold(lower, below);
      target.blend_rows(buffers[upper], buffers[lower], at.along, count,
                        static_cast<std::ptrdiff_t>(y) * width + first);
    }
  }
}

// --- rotated and sheared crops ----------------------------------------------------------------

template <class Target>
void crop_general(const Image& image, const double* m, int height, int width, const Target& target) {
  using Share = typename Target::Share;
  const double extent = static_cast<double>(image.row_stride) * image.height;
  const bool addressable = fabs(extent) + 3.0 * image.width < 2147483648.0 &&  // by 32-bit offsets
                           image.height < Target::kMostInside && image.width < Target::kMostInside;
  const auto stride = static_cast<std::int32_t>(addressable ? image.row_stride : 0);
  std::int32_t offset[kTile];
  Share along_x[kTile], along_y[kTile];
  for (int y = 0; y < height; ++y) {
    const double start_x = m[1] * y + m[2], start_y = m[4] * y + m[5];
    for (int first = 0; first < width; first += kTile) {
      const int count = width - first < kTile ? width - first : kTile;
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(y) * width + first;
      const auto one = [&](int x) {
        const auto across = Target::tap(position(m[0], start_x, first + x), image.width);
        const auto down = Target::tap(position(m[3], start_y, first + x), image.height);
        target.sample(row_of(image, down.index), row_of(image, down.index + 1), image.width, across, down,
                      at + x);
      };
      Range inside{0, 0};
      if (addressable) {
        const Range across = columns_inside<Target>(m[0], start_x, first, count, image.width);
        const Range down = columns_inside<Target>(m[3], start_y, first, count, image.height);
        inside = {across.begin > down.begin ? across.begin : down.begin,
                  across.end < down.end ? across.end : down.end};
        if (inside.end < inside.begin) inside = {0, 0};
      }
      for (int x = inside.begin; x < inside.end; ++x) {
        const Tap<Share> across = Target::tap_inside(position(m[0], start_x, first + x));
        const Tap<Share> down = Target::tap_inside(position(m[3], start_y, first + x));
        offset[x] = down.index * stride + 3 * across.index;
        along_x[x] = across.along;
        along_y[x] = down.along;
      }
      for (int x = 0; x < inside.begin; ++x) one(x);
      const int end = inside.end;
      inside = for_vectors(inside, [&](int x) {
        target.sample(image.data, image.data + stride, offset + x, along_x + x, along_y + x, at + x);
      });
      for (int x = inside.begin; x < inside.end; ++x) one(x);
      for (int x = end; x < count; ++x) one(x);
    }
  }
}

}  // namespace edgepose::EDGEPOSE_ISA

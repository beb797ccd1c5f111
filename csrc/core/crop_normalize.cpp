// Crops are made tile by tile (a tile is a span of columns), so that all working memory fits on the
// stack. Columns whose four neighbours all lie in the image take the vector path; the few others
// are sampled one by one.
#include "crop_normalize.hpp"

#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

constexpr int kTile = 256;
constexpr double kNoRotation = 1e-9;  // px of drift over a crop below which it counts as upright

struct Border {
  float fill[3];
};

// By channel of the result: where it comes from, and value * gain + offset.
struct Normalization {
  int source[3];
  float gain[3], offset[3];
};

// Position along one axis: the pixel before it and the share of the next.
struct Tap {
  int index;
  float along;
};

inline Tap tap(double position, int length) {
  // Everything from -1 or beyond the last pixel on is border, so nothing is lost by the clip.
  const double clipped = position < -2 ? -2 : position > length + 1.0 ? length + 1.0 : position;
  const double whole = floor(clipped);
  return {static_cast<int>(whole), static_cast<float>(clipped - whole)};
}

struct Range {
  int begin, end;
};

inline double position(double slope, double start, int x) { return slope * x + start; }

// The x in [0, count) for which position(slope, start, first + x) lies in [0, last).
Range columns_inside(double slope, double start, int first, int count, int last) {
  const auto inside = [&](int x) {
    const double at = position(slope, start, first + x);
    return at >= 0 && at < last;
  };
  if (slope == 0) return {0, inside(0) ? count : 0};
  const double at_zero = -start / slope - first, at_last = (last - start) / slope - first;
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

inline float pixel(const std::uint8_t* row, int x, int width, int channel, const Border& border) {
  return row && x >= 0 && x < width ? row[3 * static_cast<std::ptrdiff_t>(x) + channel]
                                    : border.fill[channel];
}

inline const std::uint8_t* row_of(const Image& image, int y) {
  return y >= 0 && y < image.height ? image.data + y * image.row_stride : nullptr;
}

inline float blend(float a, float b, float share) { return a + (b - a) * share; }
inline Floats blend(Floats a, Floats b, Floats share) { return a + (b - a) * share; }

// Channel `c` of the pixels gathered at their first byte, and of those two bytes further on, which
// hold the last byte of a pixel and the whole next one: no load passes the end of the row.
inline Floats channel_here(UInts bytes, int c) { return to_floats((Ints)((bytes >> (8 * c)) & 255u)); }
inline Floats channel_next(UInts bytes, int c) { return to_floats((Ints)((bytes >> (8 * c + 8)) & 255u)); }

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

struct Columns {
  Range inside;
  int count;
  int index[kTile];
  std::int32_t offset[kTile];
  float along[kTile];
};

void prepare(double slope, double start, int first, int count, int image_width, Columns& columns) {
  columns.count = count;
  for (int x = 0; x < count; ++x) {
    const Tap at = tap(position(slope, start, first + x), image_width);
    columns.index[x] = at.index;
    columns.offset[x] = 3 * at.index;
    columns.along[x] = at.along;
  }
  columns.inside = columns_inside(slope, start, first, count, image_width - 1);
}

// One image row, interpolated at the columns; channel c at planes[c * kTile].
void blend_row(const std::uint8_t* row, int image_width, const Columns& columns, const Border& border,
               float* planes) {
  const auto one = [&](int x) {
    const int left = columns.index[x];
    for (int c = 0; c < 3; ++c) {
      planes[c * kTile + x] = blend(pixel(row, left, image_width, c, border),
                                    pixel(row, left + 1, image_width, c, border), columns.along[x]);
    }
  };
  Range inside = row ? columns.inside : Range{0, 0};
  for (int x = 0; x < inside.begin; ++x) one(x);
  const int end = inside.end;
  inside = for_vectors(inside, [&](int x) {
    const Ints offset = load(columns.offset + x);
    const Floats along = load(columns.along + x);
    const UInts here = gather_bytes(row, offset), next = gather_bytes(row + 2, offset);
    for (int c = 0; c < 3; ++c) {
      store(planes + c * kTile + x, blend(channel_here(here, c), channel_next(next, c), along));
    }
  });
  for (int x = inside.begin; x < inside.end; ++x) one(x);
  for (int x = end; x < columns.count; ++x) one(x);
}

void blend_rows(const float* upper, const float* lower, float along, int count, float gain, float offset,
                float* out) {
  const Floats share = broadcast(along), gains = broadcast(gain), offsets = broadcast(offset);
  const Range rest = for_vectors({0, count}, [&](int x) {
    store(out + x, blend(load(upper + x), load(lower + x), share) * gains + offsets);
  });
  for (int x = rest.begin; x < rest.end; ++x) out[x] = blend(upper[x], lower[x], along) * gain + offset;
}

void crop_upright(const Image& image, const double* m, const CropOptions& options, const Border& border,
                  const Normalization& norm, float* out) {
  constexpr int kNone = -2, kOutside = -1;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(options.height) * options.width;
  Columns columns;
  float buffers[2][3 * kTile];
  for (int first = 0; first < options.width; first += kTile) {
    const int count = options.width - first < kTile ? options.width - first : kTile;
    prepare(m[0], m[2], first, count, image.width, columns);
    int held[2] = {kNone, kNone};  // image rows in the buffers; an enlarged crop uses each many times
    const auto hold = [&](int slot, int y) {
      if (held[slot] == y) return;
      blend_row(row_of(image, y), image.width, columns, border, buffers[slot]);
      held[slot] = y;
    };
    for (int y = 0; y < options.height; ++y) {
      const Tap at = tap(m[4] * y + m[5], image.height);
      const auto row_id = [&](int row) { return row >= 0 && row < image.height ? row : kOutside; };
      const int above = row_id(at.index), below = row_id(at.index + 1);
      const int upper = held[1] == above || (held[0] == below && held[0] != above) ? 1 : 0;
      hold(upper, above);
      const int lower = 1 - upper;
      hold(lower, below);
      float* to = out + static_cast<std::ptrdiff_t>(y) * options.width + first;
      for (int c = 0; c < 3; ++c) {
        const int from = norm.source[c] * kTile;
        blend_rows(buffers[upper] + from, buffers[lower] + from, at.along, count, norm.gain[c],
                   norm.offset[c], to + c * plane);
      }
    }
  }
}

// --- rotated and sheared crops ----------------------------------------------------------------

struct Row {
  std::int32_t offset[kTile];
  float along_x[kTile], along_y[kTile];
};

void crop_general(const Image& image, const double* m, const CropOptions& options, const Border& border,
                  const Normalization& norm, float* out) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(options.height) * options.width;
  const double extent = static_cast<double>(image.row_stride) * image.height;
  const bool addressable = fabs(extent) + 3.0 * image.width < 2147483648.0;  // by 32-bit offsets
  const auto stride = static_cast<std::int32_t>(addressable ? image.row_stride : 0);
  Row row;
  for (int y = 0; y < options.height; ++y) {
    const double start_x = m[1] * y + m[2], start_y = m[4] * y + m[5];
    for (int first = 0; first < options.width; first += kTile) {
      const int count = options.width - first < kTile ? options.width - first : kTile;
      float* to = out + static_cast<std::ptrdiff_t>(y) * options.width + first;
      const auto one = [&](int x) {
        const Tap across = tap(position(m[0], start_x, first + x), image.width);
        const Tap down = tap(position(m[3], start_y, first + x), image.height);
        const std::uint8_t *above = row_of(image, down.index), *below = row_of(image, down.index + 1);
        for (int c = 0; c < 3; ++c) {
          const int from = norm.source[c], left = across.index;
          const float upper = blend(pixel(above, left, image.width, from, border),
                                    pixel(above, left + 1, image.width, from, border), across.along);
          const float lower = blend(pixel(below, left, image.width, from, border),
                                    pixel(below, left + 1, image.width, from, border), across.along);
          to[c * plane + x] = blend(upper, lower, down.along) * norm.gain[c] + norm.offset[c];
        }
      };
      Range inside{0, 0};
      if (addressable) {
        const Range across = columns_inside(m[0], start_x, first, count, image.width - 1);
        const Range down = columns_inside(m[3], start_y, first, count, image.height - 1);
        inside = {across.begin > down.begin ? across.begin : down.begin,
                  across.end < down.end ? across.end : down.end};
        if (inside.end < inside.begin) inside = {0, 0};
      }
      for (int x = inside.begin; x < inside.end; ++x) {
        const double at_x = position(m[0], start_x, first + x), at_y = position(m[3], start_y, first + x);
        const auto left = static_cast<std::int32_t>(at_x), top = static_cast<std::int32_t>(at_y);
        row.offset[x] = top * stride + 3 * left;
        row.along_x[x] = static_cast<float>(at_x - left);
        row.along_y[x] = static_cast<float>(at_y - top);
      }
      for (int x = 0; x < inside.begin; ++x) one(x);
      const int end = inside.end;
      inside = for_vectors(inside, [&](int x) {
        const Ints offset = load(row.offset + x);
        const Floats along_x = load(row.along_x + x), along_y = load(row.along_y + x);
        const std::uint8_t* next_row = image.data + stride;
        const UInts here = gather_bytes(image.data, offset), next = gather_bytes(image.data + 2, offset);
        const UInts under = gather_bytes(next_row, offset), last = gather_bytes(next_row + 2, offset);
        for (int c = 0; c < 3; ++c) {
          const int from = norm.source[c];
          const Floats upper = blend(channel_here(here, from), channel_next(next, from), along_x);
          const Floats lower = blend(channel_here(under, from), channel_next(last, from), along_x);
          store(to + c * plane + x, blend(upper, lower, along_y) * norm.gain[c] + norm.offset[c]);
        }
      });
      for (int x = inside.begin; x < inside.end; ++x) one(x);
      for (int x = end; x < count; ++x) one(x);
    }
  }
}

}  // namespace

void crop_normalize(const Image& image, const double* affine, std::size_t count, const CropOptions& options,
                    float* out) {
  Border border;
  Normalization norm;
  for (int c = 0; c < 3; ++c) {
    border.fill[c] = static_cast<float>(options.fill[c]);
    norm.source[c] = options.swap_rb ? 2 - c : c;
    norm.gain[c] = static_cast<float>(1 / (255 * options.std[c]));
    norm.offset[c] = static_cast<float>(-options.mean[c] / options.std[c]);
  }
  const std::ptrdiff_t size = std::ptrdiff_t{3} * options.height * options.width;
  for (std::size_t i = 0; i < count; ++i) {
    const double* m = affine + 6 * i;
    const bool upright = fabs(m[1]) * options.height + fabs(m[3]) * options.width < kNoRotation;
    const auto crop = upright ? crop_upright : crop_general;
    crop(image, m, options, border, norm, out + static_cast<std::ptrdiff_t>(i) * size);
  }
}

}  // namespace edgepose::EDGEPOSE_ISA

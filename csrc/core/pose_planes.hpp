// One joint's maps of a bottom-up network: what each run gives (a plane), and the final map that all runs
// together make, pixel by pixel, row by row, or as bounds over tiles. The final map is never held whole.
//
// Every rounding below is one that edgepose/kernels/reference_bottomup.py states. Bounds rest on the
// monotony of rounded sums and products, and on `raised`.
#pragma once

#include <new>

#include "kernels.hpp"
#include "resize.hpp"

namespace edgepose::EDGEPOSE_ISA {

constexpr int kTile = 16;  // side, in pixels of the final map

// A row in single precision: in place, or widened to `scratch`.
inline const float* row_of(const Maps& maps, std::ptrdiff_t channel, int y, float* scratch) {
  const std::ptrdiff_t start = (channel * maps.height + y) * maps.width;
  if (!maps.half) return static_cast<const float*>(maps.data) + start;
  const Half* from = static_cast<const Half*>(maps.data) + start;
  int x = 0;
  for (; x + kLanes <= maps.width; x += kLanes) store(scratch + x, load(from + x));
  for (; x < maps.width; ++x) scratch[x] = widen(from[x]);
  return scratch;
}

inline void mirror(const float* row, int count, float* __restrict out) {
  int x = 0;
  for (; x + kLanes <= count; x += kLanes) store(out + x, reversed(load(row + count - kLanes - x)));
  for (; x < count; ++x) out[x] = row[count - 1 - x];
}

// Rows of a source resized along the width, the last two of them kept.
class RowCache {
 public:
  void allocate(int width, Arena& arena) {
    rows_[0] = arena.take<float>(static_cast<std::size_t>(width));
    rows_[1] = arena.take<float>(static_cast<std::size_t>(width));
  }

  void clear() { held_[0] = held_[1] = -1; }

  // Row y; `fill(y, to)` makes it where it is not held. Rows y and y + 1 are held together.
  template <class Fill>
  const float* get(int y, const Fill& fill) {
    float* row = rows_[y & 1];
    if (held_[y & 1] != y) {
      fill(y, row);
      held_[y & 1] = y;
    }
    return row;
  }

 private:
  float* rows_[2] = {};
  int held_[2] = {-1, -1};
};

// What one run says of a joint: its heatmap, or one of its tags, at the size of its last heatmap.
class Plane : public PlaneSource {
 public:
  void build(const PlaneSource& source, Arena& arena, bool dense) {
    static_cast<PlaneSource&>(*this) = source;
    if (!dense) return;
    rows_.build(height, final_height, same_size, arena);
    columns_.build(width, final_width, same_size, arena);
    axes_ = arena.take<Axis>(2 * static_cast<std::size_t>(count));
    caches_ = arena.take<RowCache>(static_cast<std::size_t>(count));
    int widest = width;
    for (int i = 0; i < count; ++i) {
      Axis axes[2];
      RowCache cache;
      axes[0].build(parts[i].height, height, native_size(i), arena);
      axes[1].build(parts[i].width, width, native_size(i), arena);
      if (!native_size(i)) cache.allocate(width, arena);
      widest = larger_of(widest, parts[i].width);
      if (!arena.counting()) {
        new (axes_ + 2 * i) Axis(axes[0]);
        new (axes_ + 2 * i + 1) Axis(axes[1]);
        new (caches_ + i) RowCache(cache);
      }
    }
    raw_row_ = arena.take<float>(static_cast<std::size_t>(widest));
    row_ = arena.take<float>(static_cast<std::size_t>(width));
    cache_.allocate(final_width, arena);
    in_place_ = count == 1 && native_size(0) && !parts[0].half && !flipped;
    own_ = in_place_ ? nullptr
                     : arena.take<float>(static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
    extent_ = arena.take<float>(3 * static_cast<std::size_t>(width));
  }

  // Makes the plane of a channel; the functions below read it.
  void load_channel(int channel) {
    cache_.clear();
    if (in_place_) {
      plane_ =
          static_cast<const float*>(parts[0].data) + static_cast<std::ptrdiff_t>(channel) * height * width;
      return;
    }
    plane_ = own_;
    for (int i = 0; i < count; ++i) caches_[i].clear();
    for (int y = 0; y < height; ++y) {
      float* to = own_ + static_cast<std::ptrdiff_t>(y) * width;
      make_row(channel, y, flipped ? row_ : to);
      if (flipped) mirror(row_, width, to);
    }
  }

  // Rows of the final map, columns begin to end - 1. Consecutive rows of the same columns are cheapest;
  // call `start_rows` before others.
  void start_rows() { cache_.clear(); }
  void final_row(int y, int begin, int end, float* out) {
    const auto across = [&](int row, float* to) {
      const float* from = plane_ + static_cast<std::ptrdiff_t>(row) * width;
      resize_row(from, columns_, begin, end, to);
    };
    if (same_size) {
      const float* from = plane_ + static_cast<std::ptrdiff_t>(y) * width;
      for (int x = begin; x < end; ++x) out[x - begin] = from[x];
    } else {
      const Tap tap = rows_.tap(y);
      const float* above = cache_.get(tap.first, across);
      const float* below = cache_.get(tap.second, across);
      blend_rows(above, below, tap.weight0, tap.weight1, end - begin, out);
    }
  }

  // Largest tap of each column over the rows that the final rows begin to end - 1 read.
  void scan_largest(int begin, int end) {
    const int first = rows_.lowest(begin), last = rows_.highest(end);
    const float* row = plane_ + static_cast<std::ptrdiff_t>(first) * width;
    int x = 0;
    for (; x + kLanes <= width; x += kLanes) {
      Floats best = broadcast(-kInfinity);
      const float* from = row + x;
      for (int y = first; y <= last; ++y, from += width) best = larger(load(from), best);
      store(extent_ + x, best);
    }
    for (; x < width; ++x) {
      float best = -kInfinity;
      for (int y = first; y <= last; ++y) {
        const float value = row[static_cast<std::ptrdiff_t>(y - first) * width + x];
        best = value > best ? value : best;
      }
      extent_[x] = best;
    }
  }

  // Bound of the scanned final rows, whole or from column begin to end - 1.
  float largest() const {
    Floats lanes = broadcast(-kInfinity);
    int x = 0;
    for (; x + kLanes <= width; x += kLanes) lanes = larger(load(extent_ + x), lanes);
    float best = -kInfinity;
    for (; x < width; ++x) best = extent_[x] > best ? extent_[x] : best;
    for (int i = 0; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
    return raised(best);
  }
  float largest(int begin, int end) const {
    float best = -kInfinity;
    const int last = columns_.highest(end);
    for (int x = columns_.lowest(begin); x <= last; ++x) best = extent_[x] > best ? extent_[x] : best;
    return raised(best);
  }

  // Least and largest tap of each column, and where one is not finite.
  void scan_range(int begin, int end) {
    const int first = rows_.lowest(begin), last = rows_.highest(end);
    float *low = extent_, *high = extent_ + width, *holes = extent_ + 2 * static_cast<std::ptrdiff_t>(width);
    const float* top = plane_ + static_cast<std::ptrdiff_t>(first) * width;
    int x = 0;
    for (; x + kLanes <= width; x += kLanes) {
      Floats least = broadcast(kInfinity), most = broadcast(-kInfinity), hole{};
      const float* from = top + x;
      for (int y = first; y <= last; ++y, from += width) {
        const Floats value = load(from);
        least = smaller(value, least);
        most = larger(value, most);
        hole += value * 0.0f;  // NaN from the first that is not finite
      }
      store(low + x, least);
      store(high + x, most);
      store(holes + x, hole);
    }
    for (; x < width; ++x) {
      low[x] = kInfinity;
      high[x] = -kInfinity;
      holes[x] = 0;
      const float* from = top + x;
      for (int y = first; y <= last; ++y, from += width) {
        low[x] = *from < low[x] ? *from : low[x];
        high[x] = *from > high[x] ? *from : high[x];
        holes[x] += *from * 0.0f;
      }
    }
  }
  // Whether all taps are finite; the range where they are, else what bounds nothing.
  bool range(int begin, int end, float* low, float* high) const {
    const float *lows = extent_, *highs = extent_ + width, *holes = highs + width;
    float least = kInfinity, most = -kInfinity, hole = 0;
    const int last = columns_.highest(end);
    for (int x = columns_.lowest(begin); x <= last; ++x) {
      least = lows[x] < least ? lows[x] : least;
      most = highs[x] > most ? highs[x] : most;
      hole += holes[x];
    }
    const bool finite = hole == 0;
    *low = finite ? lowered(least) : -kInfinity;
    *high = finite ? raised(most) : kInfinity;
    return finite;
  }

 private:
  void make_row(int channel, int y, float* __restrict out) {
    for (int i = 0; i < count; ++i) {
      const Maps& maps = parts[i];
      if (native_size(i)) {
        const float* from = row_of(maps, channel, y, raw_row_);
        if (i == 0) {
          for (int x = 0; x < width; ++x) out[x] = from[x];
        } else {
          for (int x = 0; x < width; ++x) out[x] += from[x];
        }
        continue;
      }
      const Axis &rows = axes_[2 * i], &columns = axes_[2 * i + 1];
      const auto across = [&](int row, float* to) {
        resize_row(row_of(maps, channel, row, raw_row_), columns, 0, width, to);
      };
      const Tap tap = rows.tap(y);
      const float* above = caches_[i].get(tap.first, across);
      const float* below = caches_[i].get(tap.second, across);
      if (i == 0) {
        blend_rows(above, below, tap.weight0, tap.weight1, width, out);
      } else {
        for (int x = 0; x < width; ++x) out[x] += tap.weight0 * above[x] + tap.weight1 * below[x];
      }
    }
    if (count == 2) {
      for (int x = 0; x < width; ++x) out[x] *= 0.5f;
    } else if (count > 2) {
      for (int x = 0; x < width; ++x) out[x] /= static_cast<float>(count);
    }
  }

  bool in_place_ = false;
  Axis rows_, columns_;         // from the plane to the final map
  Axis* axes_ = nullptr;        // from each part to the plane
  RowCache* caches_ = nullptr;  // of each part
  RowCache cache_;              // of the plane
  float *raw_row_ = nullptr, *row_ = nullptr, *own_ = nullptr, *extent_ = nullptr;
  const float* plane_ = nullptr;
};

// The planes of all runs, and the final heatmap.
struct Planes {
  const PoseMaps* maps = nullptr;
  Plane* heat = nullptr;  // one per run
  Plane* tags = nullptr;  // one per tag map
  float* rows = nullptr;  // two rows of the final map

  // `heatmaps` and `tags` say of which whole planes are wanted, beyond single pixels.
  void build(const PoseMaps& all, bool dense_heat, bool dense_tags, Arena& arena) {
    maps = &all;
    const auto runs = static_cast<std::size_t>(all.run_count);
    heat = arena.take<Plane>(runs);
    tags = arena.take<Plane>(static_cast<std::size_t>(all.tag_count));
    int t = 0;
    for (int i = 0; i < all.run_count; ++i) {
      const PoseRun& run = all.runs[i];
      const Maps& last = run.heatmaps[run.heatmap_count - 1];
      const bool same_size = last.height == all.height && last.width == all.width;
      const auto make = [&](const Maps* parts, int count, bool dense, Plane* to) {
        const PlaneSource source{parts,      count,     last.height, last.width,
                                 all.height, all.width, run.flipped, same_size};
        Plane plane{};
        plane.build(source, arena, dense);
        if (!arena.counting()) new (to) Plane(plane);
      };
      make(run.heatmaps, run.heatmap_count, dense_heat, heat + i);
      for (int j = 0; j < run.tag_count; ++j) make(run.tags + j, 1, dense_tags, tags + t++);
    }
    if (dense_heat) rows = arena.take<float>(2 * static_cast<std::size_t>(all.width));
  }

  // See `combine` of final_map.hpp.
  template <class Value>
  float combine(const Value& value) const {
    const auto flipped = [&](int i) { return maps->runs[i].flipped; };
    return edgepose::EDGEPOSE_ISA::combine(maps->run_count, maps->scale_count, flipped, value);
  }

  void load_heat(int joint) {
    for (int i = 0; i < maps->run_count; ++i) heat[i].load_channel(heat[i].channel_of(joint, maps->flip));
  }
  void load_tags(int joint) {
    for (int i = 0; i < maps->tag_count; ++i) tags[i].load_channel(tags[i].channel_of(joint, maps->flip));
  }

  // One pixel of the final heatmap; NaN is -inf.
  float sample_heat(int joint, int y, int x) const {
    return usable(
        combine([&](int i) { return heat[i].sample(heat[i].channel_of(joint, maps->flip), y, x); }));
  }
  float sample_tag(int t, int joint, int y, int x) const {
    return tags[t].sample(tags[t].channel_of(joint, maps->flip), y, x);
  }

  // A block of the final heatmap; NaN is -inf.
  void heat_block(int top, int bottom, int left, int right, float* out, std::ptrdiff_t stride) {
    const int count = right - left;
    float *one = rows, *other = rows + maps->width;
    for (int i = 0; i < maps->run_count; ++i) heat[i].start_rows();
    for (int y = top; y < bottom; ++y, out += stride) {
      float* __restrict to = out;
      for (int i = 0; i < maps->run_count; ++i) {
        float* target = i == 0 ? to : one;
        heat[i].final_row(y, left, right, target);
        if (i + 1 < maps->run_count && maps->runs[i + 1].flipped) {
          heat[++i].final_row(y, left, right, other);
          for (int x = 0; x < count; ++x) target[x] = (target[x] + other[x]) * 0.5f;
        }
        if (target == one) {
          for (int x = 0; x < count; ++x) to[x] += one[x];
        }
      }
      if (maps->scale_count > 1) {
        const auto scales = static_cast<float>(maps->scale_count);
        for (int x = 0; x < count; ++x) to[x] /= scales;
      }
      for (int x = 0; x < count; ++x) to[x] = to[x] == to[x] ? to[x] : -kInfinity;
    }
  }
};

// Quarter step towards the larger neighbour, as the published bottom-up code makes it.
inline void quarter_towards(const Planes& planes, int joint, int column, int row, float* dx, float* dy) {
  const int width = planes.maps->width, height = planes.maps->height;
  const float right = planes.sample_heat(joint, row, smaller_of(column + 1, width - 1));
  const float left = planes.sample_heat(joint, row, larger_of(column - 1, 0));
  const float below = planes.sample_heat(joint, smaller_of(row + 1, height - 1), column);
  const float above = planes.sample_heat(joint, larger_of(row - 1, 0), column);
  *dx = quarter_towards(left, right);
  *dy = quarter_towards(above, below);
}

}  // namespace edgepose::EDGEPOSE_ISA

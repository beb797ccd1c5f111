// One joint's maps of a bottom-up network: what each run gives (a plane), and the final map that all runs
// together make, pixel by pixel, row by row, or as bounds over tiles. The final map is never held whole.
//
// Every rounding below is one that edgepose/kernels/reference_bottomup.py states. Bounds rest on the
// monotony of rounded sums and products; a bilinear mean exceeds its largest tap by a few roundings at
// most, which `raised` covers.
#pragma once

#include <new>

#include "kernels.hpp"
#include "resize.hpp"

namespace edgepose::EDGEPOSE_ISA {

constexpr int kTile = 16;  // side, in pixels of the final map

inline int smaller_of(int a, int b) { return a < b ? a : b; }
inline int larger_of(int a, int b) { return a > b ? a : b; }

inline float raised(float bound) {
  const float with_rounding = bound + ((bound < 0 ? -bound : bound) * 2e-6f + 1e-37f);
  return with_rounding == with_rounding ? with_rounding : bound;
}

inline float lowered(float bound) { return -raised(-bound); }

inline float at(const Maps& maps, std::ptrdiff_t channel, int y, int x) {
  const std::ptrdiff_t i = (channel * maps.height + y) * maps.width + x;
  return maps.half ? widen(static_cast<const Half*>(maps.data)[i]) : static_cast<const float*>(maps.data)[i];
}

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
class Plane {
 public:
  // `parts` are resized to height x width and averaged.
  void build(const Maps* parts, int count, int height, int width, bool flipped, int final_height,
             int final_width, Arena& arena, bool dense) {
    parts_ = parts;
    count_ = count;
    height_ = height;
    width_ = width;
    flipped_ = flipped;
    final_height_ = final_height;
    final_width_ = final_width;
    same_size_ = height == final_height && width == final_width;
    if (!dense) return;
    rows_.build(height, final_height, same_size_, arena);
    columns_.build(width, final_width, same_size_, arena);
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

  int channel_of(int joint, const std::int64_t* flip) const {
    if (parts_[0].count == 1) return 0;
    return flipped_ ? static_cast<int>(flip[joint]) : joint;
  }

  // One pixel of the final map, from the network's maps alone.
  float sample(int channel, int y, int x) const {
    if (same_size_) return pixel(channel, y, x);
    const Tap v = tap_at(y, height_, final_height_), h = tap_at(x, width_, final_width_);
    const float above =
        h.weight0 * pixel(channel, v.first, h.first) + h.weight1 * pixel(channel, v.first, h.second);
    const float below =
        h.weight0 * pixel(channel, v.second, h.first) + h.weight1 * pixel(channel, v.second, h.second);
    return v.weight0 * above + v.weight1 * below;
  }

  // Makes the plane of a channel; the functions below read it.
  void load_channel(int channel) {
    cache_.clear();
    if (in_place_) {
      plane_ =
          static_cast<const float*>(parts_[0].data) + static_cast<std::ptrdiff_t>(channel) * height_ * width_;
      return;
    }
    plane_ = own_;
    for (int i = 0; i < count_; ++i) caches_[i].clear();
    for (int y = 0; y < height_; ++y) {
      float* to = own_ + static_cast<std::ptrdiff_t>(y) * width_;
      make_row(channel, y, flipped_ ? row_ : to);
      if (flipped_) mirror(row_, width_, to);
    }
  }

  // Rows of the final map, columns begin to end - 1. Consecutive rows of the same columns are cheapest;
  // call `start_rows` before others.
  void start_rows() { cache_.clear(); }
  void final_row(int y, int begin, int end, float* out) {
    const auto across = [&](int row, float* to) {
      const float* from = plane_ + static_cast<std::ptrdiff_t>(row) * width_;
      resize_row(from, columns_, begin, end, to);
    };
    if (same_size_) {
      const float* from = plane_ + static_cast<std::ptrdiff_t>(y) * width_;
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
    const float* row = plane_ + static_cast<std::ptrdiff_t>(first) * width_;
    int x = 0;
    for (; x + kLanes <= width_; x += kLanes) {
      Floats best = broadcast(-kInfinity);
      const float* from = row + x;
      for (int y = first; y <= last; ++y, from += width_) best = larger(load(from), best);
      store(extent_ + x, best);
    }
    for (; x < width_; ++x) {
      float best = -kInfinity;
      for (int y = first; y <= last; ++y) {
        const float value = row[static_cast<std::ptrdiff_t>(y - first) * width_ + x];
        best = value > best ? value : best;
      }
      extent_[x] = best;
    }
  }

  // Bound of the scanned final rows, whole or from column begin to end - 1.
  float largest() const {
    Floats lanes = broadcast(-kInfinity);
    int x = 0;
    for (; x + kLanes <= width_; x += kLanes) lanes = larger(load(extent_ + x), lanes);
    float best = -kInfinity;
    for (; x < width_; ++x) best = extent_[x] > best ? extent_[x] : best;
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
    float *low = extent_, *high = extent_ + width_,
          *holes = extent_ + 2 * static_cast<std::ptrdiff_t>(width_);
    const float* top = plane_ + static_cast<std::ptrdiff_t>(first) * width_;
    int x = 0;
    for (; x + kLanes <= width_; x += kLanes) {
      Floats least = broadcast(kInfinity), most = broadcast(-kInfinity), hole{};
      const float* from = top + x;
      for (int y = first; y <= last; ++y, from += width_) {
        const Floats value = load(from);
        least = smaller(value, least);
        most = larger(value, most);
        hole += value * 0.0f;  // NaN from the first that is not finite
      }
      store(low + x, least);
      store(high + x, most);
      store(holes + x, hole);
    }
    for (; x < width_; ++x) {
      low[x] = kInfinity;
      high[x] = -kInfinity;
      holes[x] = 0;
      const float* from = top + x;
      for (int y = first; y <= last; ++y, from += width_) {
        low[x] = *from < low[x] ? *from : low[x];
        high[x] = *from > high[x] ? *from : high[x];
        holes[x] += *from * 0.0f;
      }
    }
  }
  // Whether all taps are finite; the range where they are, else what bounds nothing.
  bool range(int begin, int end, float* low, float* high) const {
    const float *lows = extent_, *highs = extent_ + width_, *holes = highs + width_;
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
  bool native_size(int i) const { return parts_[i].height == height_ && parts_[i].width == width_; }

  // One pixel at the plane's own size.
  float pixel(int channel, int y, int x) const {
    const int column = flipped_ ? width_ - 1 - x : x;
    float total = part(0, channel, y, column);
    for (int i = 1; i < count_; ++i) total += part(i, channel, y, column);
    return count_ == 1 ? total : total / static_cast<float>(count_);
  }

  float part(int i, int channel, int y, int x) const {
    const Maps& maps = parts_[i];
    if (native_size(i)) return at(maps, channel, y, x);
    const Tap v = tap_at(y, maps.height, height_), h = tap_at(x, maps.width, width_);
    const float above =
        h.weight0 * at(maps, channel, v.first, h.first) + h.weight1 * at(maps, channel, v.first, h.second);
    const float below =
        h.weight0 * at(maps, channel, v.second, h.first) + h.weight1 * at(maps, channel, v.second, h.second);
    return v.weight0 * above + v.weight1 * below;
  }

  void make_row(int channel, int y, float* __restrict out) {
    for (int i = 0; i < count_; ++i) {
      const Maps& maps = parts_[i];
      if (native_size(i)) {
        const float* from = row_of(maps, channel, y, raw_row_);
        if (i == 0) {
          for (int x = 0; x < width_; ++x) out[x] = from[x];
        } else {
          for (int x = 0; x < width_; ++x) out[x] += from[x];
        }
        continue;
      }
      const Axis &rows = axes_[2 * i], &columns = axes_[2 * i + 1];
      const auto across = [&](int row, float* to) {
        resize_row(row_of(maps, channel, row, raw_row_), columns, 0, width_, to);
      };
      const Tap tap = rows.tap(y);
      const float* above = caches_[i].get(tap.first, across);
      const float* below = caches_[i].get(tap.second, across);
      if (i == 0) {
        blend_rows(above, below, tap.weight0, tap.weight1, width_, out);
      } else {
        for (int x = 0; x < width_; ++x) out[x] += tap.weight0 * above[x] + tap.weight1 * below[x];
      }
    }
    if (count_ == 2) {
      for (int x = 0; x < width_; ++x) out[x] *= 0.5f;
    } else if (count_ > 2) {
      for (int x = 0; x < width_; ++x) out[x] /= static_cast<float>(count_);
    }
  }

  const Maps* parts_ = nullptr;
  int count_ = 0, height_ = 0, width_ = 0, final_height_ = 0, final_width_ = 0;
  bool flipped_ = false, same_size_ = true, in_place_ = false;
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
      const auto make = [&](const Maps* parts, int count, bool dense, Plane* to) {
        Plane plane;
        plane.build(parts, count, last.height, last.width, run.flipped, all.height, all.width, arena, dense);
        if (!arena.counting()) new (to) Plane(plane);
      };
      make(run.heatmaps, run.heatmap_count, dense_heat, heat + i);
      for (int j = 0; j < run.tag_count; ++j) make(run.tags + j, 1, dense_tags, tags + t++);
    }
    if (dense_heat) rows = arena.take<float>(2 * static_cast<std::size_t>(all.width));
  }

  // Puts the runs' values together; `value(i)` is that of run i. Monotone in each.
  template <class Value>
  float combine(const Value& value) const {
    float total = 0;
    for (int i = 0; i < maps->run_count; ++i) {
      float of_scale = value(i);
      const bool pair = i + 1 < maps->run_count && maps->runs[i + 1].flipped;
      if (pair) of_scale = (of_scale + value(++i)) * 0.5f;
      total += of_scale;
    }
    return maps->scale_count == 1 ? total : total / static_cast<float>(maps->scale_count);
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
  *dx = right > left ? 0.25f : -0.25f;
  *dy = below > above ? 0.25f : -0.25f;
}

}  // namespace edgepose::EDGEPOSE_ISA

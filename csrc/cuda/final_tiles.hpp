// Rectangles of a joint's final map, evaluated by a block in shared memory.
#pragma once

#include <cuda_runtime.h>

#include "../core/arena.hpp"
#include "launch.hpp"
#include "pose_kernels.hpp"
#include "warp_reduce.hpp"

namespace edgepose::cuda {

constexpr int kTileThreads = 128;
constexpr std::size_t kSharedBytes = 44 << 10;  // a block may have 48 KiB without asking; some is taken

// Pixels; the ends are not in it.
struct Rect {
  int top, bottom, left, right;
  EDGEPOSE_HD int height() const { return bottom - top; }
  EDGEPOSE_HD int width() const { return right - left; }
  EDGEPOSE_HD int count() const { return height() * width(); }
};

// Pixels of a plane that pixels of the final map read.
EDGEPOSE_HD inline Rect read_from(const PlaneSource& plane, const Rect& r) {
  if (plane.same_size) return r;
  return {tap_at(r.top, plane.height, plane.final_height).first,
          tap_at(r.bottom - 1, plane.height, plane.final_height).second + 1,
          tap_at(r.left, plane.width, plane.final_width).first,
          tap_at(r.right - 1, plane.width, plane.final_width).second + 1};
}

// Pixels of a part that pixels of a plane read.
EDGEPOSE_HD inline Rect read_from_part(const PlaneSource& plane, int part, const Rect& of_plane) {
  Rect r = of_plane;
  if (plane.flipped) {
    r.left = plane.width - of_plane.right;
    r.right = plane.width - of_plane.left;
  }
  if (plane.native_size(part)) return r;
  const Maps& maps = plane.parts[part];
  return {tap_at(r.top, maps.height, plane.height).first,
          tap_at(r.bottom - 1, maps.height, plane.height).second + 1,
          tap_at(r.left, maps.width, plane.width).first,
          tap_at(r.right - 1, maps.width, plane.width).second + 1};
}

// Floats that hold the planes of a rectangle of the final map, side pixels a side, as far as they are few
// enough: no more than `most`. Tags count where they are wanted.
inline int held_room(const FinalMaps& maps, int side, bool tags, std::size_t most) {
  const int planes = maps.runs + (tags ? maps.tag_count : 0);
  double room = 0;
  for (int i = 0; i < planes; ++i) {
    const PlaneSource& plane = maps.on_host[i];
    const auto along = [&](int from, int to) {
      const double read = plane.same_size ? side : static_cast<double>(side) * from / to + 3;
      return read < from ? read : from;
    };
    room += along(plane.height, plane.final_height) * along(plane.width, plane.final_width);
  }
  return room < static_cast<double>(most) ? static_cast<int>(room) : static_cast<int>(most);
}

// A value at a pixel, the larger the better: falling values, then rising indices; -0 is 0. Never 0.
using Ranked = unsigned long long;

EDGEPOSE_HD inline Ranked ranked(float value, std::uint32_t index) {
  const std::uint32_t high = static_cast<std::uint32_t>(ordered(value + 0.0f)) ^ 0x80000000u;
  return static_cast<Ranked>(high) << 32 | (0xffffffffu - index);
}
EDGEPOSE_HD inline float value_of(Ranked key) {
  return from_ordered(static_cast<std::int32_t>(static_cast<std::uint32_t>(key >> 32) ^ 0x80000000u));
}
EDGEPOSE_HD inline std::uint32_t index_of(Ranked key) {
  return 0xffffffffu - static_cast<std::uint32_t>(key);
}

EDGEPOSE_HD inline float sample_heat(const FinalMaps& maps, int joint, int y, int x) {
  return usable(combine(
      maps.runs, maps.scales, [&](int i) { return maps.heat[i].flipped; },
      [&](int i) { return maps.heat[i].sample(maps.heat[i].channel_of(joint, maps.flip), y, x); }));
}

EDGEPOSE_HD inline float sample_tag(const FinalMaps& maps, int t, int joint, int y, int x) {
  return maps.tags[t].sample(maps.tags[t].channel_of(joint, maps.flip), y, x);
}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

// The largest pixel of a rectangle among those that are the thread's; NaN counts nothing.
template <class T>
__device__ float largest_read(const Maps& maps, int channel, const Rect& rect) {
  constexpr int kAtOnce = 4;  // loads under way
  const T* const from = static_cast<const T*>(maps.data) +
                        (static_cast<std::ptrdiff_t>(channel) * maps.height + rect.top) * maps.width +
                        rect.left;
  const int width = rect.width(), count = rect.count();
  float best = -kInfinity;
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kAtOnce * kTileThreads) {
    T found[kAtOnce];
    EDGEPOSE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int p = smaller_of(first + i * kTileThreads, count - 1), row = p / width;
      found[i] = from[static_cast<std::ptrdiff_t>(row) * maps.width + (p - row * width)];
    }
    EDGEPOSE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const float value = widen(found[i]);
      best = value > best ? value : best;
    }
  }
  return best;
}

// Bound of the final heatmap over a rectangle, from the raw maps that it reads. `largest`: shared, one per
// part. The whole block calls it; two barriers.
__device__ inline float heat_bound(const FinalMaps& maps, int joint, const Rect& rect,
                                   std::int32_t* largest) {
  for (int i = static_cast<int>(threadIdx.x); i < maps.heat_parts; i += kTileThreads) {
    largest[i] = ordered(-kInfinity);
  }
  __syncthreads();
  int at_part = 0;
  for (int i = 0; i < maps.runs; ++i) {
    const PlaneSource& plane = maps.heat[i];
    const int channel = plane.channel_of(joint, maps.flip);
    const Rect of_plane = read_from(plane, rect);
    for (int part = 0; part < plane.count; ++part, ++at_part) {
      const Rect raw = read_from_part(plane, part, of_plane);
      const Maps stack = plane.parts[part];
      const float best =
          stack.half ? largest_read<Half>(stack, channel, raw) : largest_read<float>(stack, channel, raw);
      const int key = warp_largest(ordered(best));
      if (this_lane() == 0) atomicMax(largest + at_part, key);
    }
  }
  __syncthreads();
  at_part = 0;
  return combine(
      maps.runs, maps.scales, [&](int i) { return maps.heat[i].flipped; },
      [&](int i) {
        const int count = maps.heat[i].count;
        float total = raised(from_ordered(largest[at_part++]));
        for (int part = 1; part < count; ++part) total += raised(from_ordered(largest[at_part++]));
        return raised(raised(count == 1 ? total : total / static_cast<float>(count)));
      });
}

// A plane's pixels in shared memory, as far as they have room there.
struct Held {
  int top, left, stride;
  int at;              // in the pool; -1: not there
  int height, width;   // of the plane
  float down, across;  // steps of the taps
  bool same_size;
};

// The planes that some threads hold for themselves: a block, or a warp.
class HeldPlanes {
 public:
  // held: `slots`, one per plane, further planes are not held; pool: `room` floats.
  __device__ HeldPlanes(Held* held, int slots, float* pool, int room, int thread, int threads)
      : held_(held), pool_(pool), slots_(slots), room_(room), thread_(thread), threads_(threads) {}

  // Makes plane `i` ready for the final pixels of a rectangle. All threads call it; a barrier must follow.
  __device__ void hold(int i, const PlaneSource& source, const FinalMaps& maps, int joint, const Rect& rect) {
    if (i >= slots_) return;
    const PlaneSource plane = source;
    const Rect r = read_from(plane, rect);
    const long long size = static_cast<long long>(r.height()) * r.width();
    const bool fits = used_ + size <= room_;
    if (thread_ == 0) {
      held_[i] = {r.top,
                  r.left,
                  r.width(),
                  fits ? used_ : -1,
                  plane.height,
                  plane.width,
                  tap_scale(plane.height, plane.final_height),
                  tap_scale(plane.width, plane.final_width),
                  plane.same_size};
    }
    if (!fits) return;
    const int channel = plane.channel_of(joint, maps.flip);
    float* const to = pool_ + used_;
    for (int part = 0; part < plane.count; ++part) add_part(plane, part, channel, r, to);
    used_ += static_cast<int>(size);
  }

  // One pixel of the final map.
  __device__ float value(int i, const PlaneSource& plane, const FinalMaps& maps, int joint, int y,
                         int x) const {
    if (!holds(i)) return plane.sample(plane.channel_of(joint, maps.flip), y, x);
    const Held& held = held_[i];
    const float* pool = pool_ + held.at;
    const auto at = [&](int row, int column) {
      return pool[(row - held.top) * held.stride + (column - held.left)];
    };
    if (held.same_size) return at(y, x);
    return bilinear(tap_by(held.down, y, held.height), tap_by(held.across, x, held.width), at);
  }

  // The final heatmap, whose planes are the first ones; NaN is -inf.
  __device__ float heat(const FinalMaps& maps, int joint, int y, int x) const {
    return usable(combine(
        maps.runs, maps.scales, [&](int i) { return maps.heat[i].flipped; },
        [&](int i) { return value(i, maps.heat[i], maps, joint, y, x); }));
  }

  // Several pixels of a column of the final heatmap, `step` rows from one to the next; rows beyond the last
  // are the last. NaN is -inf.
  template <int kCount>
  __device__ void heat_column(const FinalMaps& maps, int joint, int top, int step, int last, int x,
                              float (&out)[kCount]) const {
    float total[kCount] = {};
    for (int i = 0; i < maps.runs; ++i) {
      float of_scale[kCount];
      column(i, maps, joint, top, step, last, x, of_scale);
      if (i + 1 < maps.runs && maps.heat[i + 1].flipped) {
        float flipped[kCount];
        column(++i, maps, joint, top, step, last, x, flipped);
        EDGEPOSE_UNROLL
        for (int k = 0; k < kCount; ++k) of_scale[k] = (of_scale[k] + flipped[k]) * 0.5f;
      }
      EDGEPOSE_UNROLL
      for (int k = 0; k < kCount; ++k) total[k] += of_scale[k];
    }
    EDGEPOSE_UNROLL
    for (int k = 0; k < kCount; ++k) {
      out[k] = usable(maps.scales == 1 ? total[k] : total[k] / static_cast<float>(maps.scales));
    }
  }

  __device__ bool holds(int i) const { return i < slots_ && held_[i].at >= 0; }

  // Range of the plane's pixels that a rectangle of the final map reads; without bounds where one of them is
  // not finite, or the plane is not held. A warp calls it.
  __device__ void range(int i, const PlaneSource& plane, const Rect& rect, float* low, float* high) const {
    bool hole = !holds(i);
    float most = -kInfinity, least = -kInfinity;
    if (!hole) {
      const Held& held = held_[i];
      const Rect r = read_from(plane, rect);
      const float* pool = pool_ + held.at;
      const int width = r.width(), count = r.count();
      for (int p = this_lane(); p < count; p += kWarpSize) {
        const int row = p / width;
        const float value =
            pool[(r.top - held.top + row) * held.stride + r.left - held.left + p - row * width];
        hole |= !(value - value == 0);
        most = value > most ? value : most;
        least = -value > least ? -value : least;
      }
    }
    hole = __any_sync(kWholeWarp, hole);
    most = from_ordered(warp_largest(ordered(most)));
    least = -from_ordered(warp_largest(ordered(least)));
    *high = hole ? kInfinity : raised(most);
    *low = hole ? -kInfinity : lowered(least);
  }

 private:
  // Of the plane of run i.
  template <int kCount>
  __device__ __forceinline__ void column(int i, const FinalMaps& maps, int joint, int top, int step, int last,
                                         int x, float (&out)[kCount]) const {
    if (!holds(i)) {
      const PlaneSource& plane = maps.heat[i];
      const int channel = plane.channel_of(joint, maps.flip);
      for (int k = 0; k < kCount; ++k) out[k] = plane.sample(channel, smaller_of(top + k * step, last), x);
      return;
    }
    const Held held = held_[i];
    const float* const pool = pool_ + held.at;
    if (held.same_size) {
      EDGEPOSE_UNROLL
      for (int k = 0; k < kCount; ++k) {
        out[k] = pool[(smaller_of(top + k * step, last) - held.top) * held.stride + x - held.left];
      }
      return;
    }
    const Tap across = tap_by(held.across, x, held.width);
    EDGEPOSE_UNROLL
    for (int k = 0; k < kCount; ++k) {
      const Tap down = tap_by(held.down, smaller_of(top + k * step, last), held.height);
      out[k] = bilinear(down, across, [&](int row, int column) {
        return pool[(row - held.top) * held.stride + (column - held.left)];
      });
    }
  }

  // Each thread adds to its own pixels.
  __device__ void add_part(const PlaneSource& plane, int part, int channel, const Rect& r, float* to) const {
    const Maps maps = plane.parts[part];
    if (maps.half) {
      add_part<Half>(plane, maps, part, channel, r, to);
    } else {
      add_part<float>(plane, maps, part, channel, r, to);
    }
  }

  template <class T>
  __device__ void add_part(const PlaneSource& plane, const Maps& maps, int part, int channel, const Rect& r,
                           float* to) const {
    const T* const map =
        static_cast<const T*>(maps.data) + static_cast<std::ptrdiff_t>(channel) * maps.height * maps.width;
    const bool native = maps.height == plane.height && maps.width == plane.width;
    const bool last = part == plane.count - 1;
    const float down = tap_scale(maps.height, plane.height), across = tap_scale(maps.width, plane.width);
    const float parts = static_cast<float>(plane.count);
    const int width = r.width(), count = r.count();
    const int left = plane.flipped ? plane.width - 1 - r.left : r.left, step = plane.flipped ? -1 : 1;
    const auto at = [&](int y, int x) { return widen(map[static_cast<std::ptrdiff_t>(y) * maps.width + x]); };
    for (int p = thread_; p < count; p += threads_) {
      const int row = p / width, y = r.top + row, x = left + step * (p - row * width);
      const float value =
          native ? at(y, x) : bilinear(tap_by(down, y, maps.height), tap_by(across, x, maps.width), at);
      const float total = part == 0 ? value : to[p] + value;
      to[p] = last && part > 0 ? total / parts : total;
    }
  }

  Held* held_;
  float* pool_;
  int slots_, room_, thread_, threads_, used_ = 0;
};

#endif

}  // namespace edgepose::cuda

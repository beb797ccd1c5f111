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
      const int width = raw.width();
      float best = -kInfinity;
      for (int p = static_cast<int>(threadIdx.x); p < raw.count(); p += kTileThreads) {
        const float value = at(plane.parts[part], channel, raw.top + p / width, raw.left + p % width);
        best = value > best ? value : best;
      }
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
  int at;  // in the pool; -1: not there
};

class HeldPlanes {
 public:
  // held: one per plane; pool: `room` floats.
  __device__ HeldPlanes(Held* held, float* pool, int room) : held_(held), pool_(pool), room_(room) {}

  // Makes plane `i` ready for the final pixels of a rectangle. The whole block calls it; a barrier must
  // follow.
  __device__ void hold(int i, const PlaneSource& plane, int channel, const Rect& rect) {
    const Rect r = read_from(plane, rect);
    const long long size = static_cast<long long>(r.height()) * r.width();
    const bool fits = used_ + size <= room_;
    if (threadIdx.x == 0) held_[i] = {r.top, r.left, r.width(), fits ? used_ : -1};
    if (!fits) return;
    const int width = r.width();
    for (int p = static_cast<int>(threadIdx.x); p < r.count(); p += kTileThreads) {
      pool_[used_ + p] = plane.pixel(channel, r.top + p / width, r.left + p % width);
    }
    used_ += static_cast<int>(size);
  }

  // One pixel of the final map.
  __device__ float value(int i, const PlaneSource& plane, int channel, int y, int x) const {
    const Held& held = held_[i];
    if (held.at < 0) return plane.sample(channel, y, x);
    const float* pool = pool_ + held.at;
    const auto at = [&](int row, int column) {
      return pool[(row - held.top) * held.stride + (column - held.left)];
    };
    if (plane.same_size) return at(y, x);
    return bilinear(tap_at(y, plane.height, plane.final_height), tap_at(x, plane.width, plane.final_width),
                    at);
  }

  // The final heatmap, whose planes are the first ones; NaN is -inf.
  __device__ float heat(const FinalMaps& maps, int joint, int y, int x) const {
    return usable(combine(
        maps.runs, maps.scales, [&](int i) { return maps.heat[i].flipped; },
        [&](int i) { return value(i, maps.heat[i], maps.heat[i].channel_of(joint, maps.flip), y, x); }));
  }

 private:
  Held* held_;
  float* pool_;
  int room_, used_ = 0;
};

#endif

}  // namespace edgepose::cuda

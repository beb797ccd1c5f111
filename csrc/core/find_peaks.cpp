// Peaks of the final heatmaps: only tiles whose bound is above the threshold are evaluated.
#include "peak_limit.hpp"
#include "pose_maps.hpp"
#include "pose_planes.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

struct Entry {
  float score;
  std::ptrdiff_t index;  // in row order
};

bool better(const Entry& a, const Entry& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// The best entries, as a heap whose root is the worst of them.
class Best {
 public:
  Best(Entry* entries, int capacity) : entries_(entries), capacity_(capacity) {}

  int count() const { return count_; }
  bool full() const { return count_ == capacity_; }
  const Entry& worst() const { return entries_[0]; }
  bool takes(const Entry& entry) const { return !full() || better(entry, worst()); }

  void add(const Entry& entry) {
    if (!full()) {
      int i = count_++;
      for (; i > 0 && better(entries_[(i - 1) / 2], entry); i = (i - 1) / 2)
        entries_[i] = entries_[(i - 1) / 2];
      entries_[i] = entry;
    } else {
      sink(entry, count_);
    }
  }

  // Puts the entries in order, the best first; then nothing more can be added.
  void sort() {
    for (int last = count_ - 1; last > 0; --last) {
      const Entry worst = entries_[0];
      sink(entries_[last], last);
      entries_[last] = worst;
    }
  }

 private:
  // Puts an entry in the place of the root of the first `count`.
  void sink(const Entry& entry, int count) {
    int i = 0;
    while (2 * i + 1 < count) {
      int child = 2 * i + 1;
      if (child + 1 < count && better(entries_[child], entries_[child + 1])) ++child;
      if (!better(entry, entries_[child])) break;
      entries_[i] = entries_[child];
      i = child;
    }
    entries_[i] = entry;
  }

  Entry* entries_;
  int capacity_, count_ = 0;
};

// Searches one joint's final map.
class Search {
 public:
  Search(Planes& planes, const PeakOptions& options, Arena& arena)
      : planes_(planes),
        height_(planes.maps->height),
        width_(planes.maps->width),
        radius_(smaller_of(options.window / 2, larger_of(height_, width_))),
        limit_(least_above(options.threshold)),
        stride_(width_ + 2 * radius_ + kLanes) {
    const std::ptrdiff_t rows = kTile + 2 * radius_;
    block_ = arena.take<float>(static_cast<std::size_t>(rows * stride_));
    bounds_ = arena.take<float>(static_cast<std::size_t>(planes.maps->run_count));
  }

  void run(Best& best) {
    for (int top = 0; top < height_; top += kTile) search_band(top, smaller_of(top + kTile, height_), best);
  }

 private:
  bool promising(float bound, const Best& best) const {
    return bound >= limit_ && !(best.full() && bound < best.worst().score);
  }

  void search_band(int top, int bottom, Best& best) {
    const int runs = planes_.maps->run_count;
    for (int i = 0; i < runs; ++i) {
      planes_.heat[i].scan_largest(top, bottom);
      bounds_[i] = planes_.heat[i].largest();
    }
    if (!promising(planes_.combine([&](int i) { return bounds_[i]; }), best)) return;
    int begin = -1;  // of a run of tiles that may hold peaks
    for (int left = 0; left < width_; left += kTile) {
      const int right = smaller_of(left + kTile, width_);
      const float bound = planes_.combine([&](int i) { return planes_.heat[i].largest(left, right); });
      if (promising(bound, best)) {
        if (begin < 0) begin = left;
      } else if (begin >= 0) {
        search_block(top, bottom, begin, left, best);
        begin = -1;
      }
    }
    if (begin >= 0) search_block(top, bottom, begin, width_, best);
  }

  // Evaluates a block with the windows that reach beyond it, -inf outside of the map.
  void search_block(int top, int bottom, int left, int right, Best& best) {
    const int rows = bottom - top + 2 * radius_, columns = right - left + 2 * radius_;
    const int above = larger_of(0, radius_ - top), before = larger_of(0, radius_ - left);
    const int below = larger_of(0, bottom + radius_ - height_),
              after = larger_of(0, right + radius_ - width_);
    const auto clear = [&](int row, int begin, int end) {
      for (int x = begin; x < end; ++x) block_[row * stride_ + x] = -kInfinity;
    };
    for (int y = 0; y < rows; ++y) {
      const bool outside = y < above || y >= rows - below;
      clear(y, 0, outside ? columns + kLanes : before);
      if (!outside) clear(y, columns - after, columns + kLanes);
    }
    planes_.heat_block(top - radius_ + above, bottom + radius_ - below, left - radius_ + before,
                       right + radius_ - after, block_ + above * stride_ + before, stride_);
    const int inner = radius_ > 0 ? 1 : 0;
    const Floats limit = broadcast(limit_), one = broadcast(1);
    for (int y = top; y < bottom; ++y) {
      const float* row = block_ + (y - top + radius_) * stride_ + radius_;
      for (int x = 0; x < right - left; x += kLanes) {
        const float* from = row + x;
        const Floats values = load(from);
        if (!any_reaches(values, limit)) continue;
        const Ints peaks = (values >= limit) & (values >= load(from - inner)) &
                           (values >= load(from + inner)) & (values >= load(from - inner * stride_)) &
                           (values >= load(from + inner * stride_));
        if (!any_reaches((Floats)(peaks & (Ints)one), one)) continue;
        for (int lane = 0; lane < kLanes && x + lane < right - left; ++lane) {
          if (!peaks[lane]) continue;
          const std::ptrdiff_t index = static_cast<std::ptrdiff_t>(y) * width_ + left + x + lane;
          const Entry entry{from[lane], index};
          if (best.takes(entry) && largest_of_window(from + lane)) best.add(entry);
        }
      }
    }
  }

  bool largest_of_window(const float* at) const {
    for (std::ptrdiff_t dy = -radius_; dy <= radius_; ++dy) {
      for (std::ptrdiff_t dx = -radius_; dx <= radius_; ++dx) {
        if (at[dy * stride_ + dx] > *at) return false;
      }
    }
    return true;
  }

  Planes& planes_;
  int height_, width_, radius_;
  float limit_;
  std::ptrdiff_t stride_;
  float* block_;
  float* bounds_;
};

}  // namespace

std::size_t aggregate_nms_topk(const PoseMaps& maps, const PeakOptions& options, const Peaks& out,
                               void* scratch) {
  Arena arena(scratch);
  Planes planes;
  planes.build(maps, true, false, arena);
  Search search(planes, options, arena);
  Entry* entries = arena.take<Entry>(static_cast<std::size_t>(options.top));
  if (arena.counting()) return arena.used();
  const bool none = options.threshold == static_cast<double>(kInfinity);
  for (int joint = 0; joint < maps.joints; ++joint) {
    Best best(entries, options.top);
    if (!none) {
      planes.load_heat(joint);
      search.run(best);
      best.sort();
    }
    out.count[joint] = best.count();
    for (int i = 0; i < options.top; ++i) {
      const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(joint) * options.top + i;
      const bool there = i < best.count();
      const int x = there ? static_cast<int>(entries[i].index % maps.width) : 0;
      const int y = there ? static_cast<int>(entries[i].index / maps.width) : 0;
      out.xy[2 * to] = x;
      out.xy[2 * to + 1] = y;
      out.scores[to] = there ? entries[i].score : 0;
      for (int t = 0; t < maps.tag_count; ++t) {
        out.tags[to * maps.tag_count + t] = there ? planes.sample_tag(t, joint, y, x) : 0;
      }
    }
  }
  return arena.used();
}

}  // namespace edgepose::EDGEPOSE_ISA

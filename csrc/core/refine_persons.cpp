// The quarter step of new persons, and their missing joints.
//
// A missing joint is the argmax over the final map of heat - rint(distance of the tags). For each tile, the
// largest heat and the range of each tag bound it; only tiles whose bound reaches the best so far are
// evaluated, and their exact largest heat then serves all other persons.
#include "pose_maps.hpp"
#include "pose_planes.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

constexpr int kArea = kTile * kTile;

int pixel_of(float coordinate, int length) {
  if (!(coordinate > 0)) return 0;  // NaN too
  return coordinate < static_cast<float>(length - 1) ? static_cast<int>(coordinate) : length - 1;
}

// Where a person's tags fit best.
struct Fit {
  float value = -kInfinity;
  std::ptrdiff_t index = 0;  // in row order

  void take(float candidate, std::ptrdiff_t at) {
    if (candidate > value || (candidate == value && at < index)) {
      value = candidate;
      index = at;
    }
  }
};

// One joint's final map in tiles.
class Tiles {
 public:
  Tiles(Planes& planes, Arena& arena)
      : planes_(planes),
        tag_count_(planes.maps->tag_count),
        height_(planes.maps->height),
        width_(planes.maps->width) {
    columns_ = (width_ + kTile - 1) / kTile;
    rows_ = (height_ + kTile - 1) / kTile;
    padded_ = (count() + kLanes - 1) / kLanes * kLanes;
    const auto size = static_cast<std::size_t>(padded_);
    largest_ = arena.take<float>(size);
    bounds_ = arena.take<float>(size);
    peaks_ = arena.take<std::ptrdiff_t>(size);
    finite_ = arena.take<bool>(size);
    low_ = arena.take<float>(size * static_cast<std::size_t>(tag_count_));
    high_ = arena.take<float>(size * static_cast<std::size_t>(tag_count_));
    heat_ = arena.take<float>(kArea);
    tags_ = arena.take<float>(kArea * static_cast<std::size_t>(tag_count_));
  }

  void load(int joint) {
    planes_.load_heat(joint);
    planes_.load_tags(joint);
    for (std::ptrdiff_t i = count(); i < padded_; ++i) {
      largest_[i] = -kInfinity;
      for (int t = 0; t < tag_count_; ++t) low_[t * padded_ + i] = high_[t * padded_ + i] = 0;
    }
    for (int row = 0; row < rows_; ++row) {
      const int top = row * kTile, bottom = smaller_of(top + kTile, height_);
      for (int i = 0; i < planes_.maps->run_count; ++i) planes_.heat[i].scan_largest(top, bottom);
      for (int t = 0; t < tag_count_; ++t) planes_.tags[t].scan_range(top, bottom);
      for (int column = 0; column < columns_; ++column) {
        const int left = column * kTile, right = smaller_of(left + kTile, width_);
        const std::ptrdiff_t tile = static_cast<std::ptrdiff_t>(row) * columns_ + column;
        largest_[tile] = usable(planes_.combine([&](int i) { return planes_.heat[i].largest(left, right); }));
        peaks_[tile] = -1;
        bool finite = true;
        for (int t = 0; t < tag_count_; ++t) {
          finite &= planes_.tags[t].range(left, right, low_ + t * padded_ + tile, high_ + t * padded_ + tile);
        }
        finite_[tile] = finite;
      }
    }
  }

  Fit search(const float* mean) {
    Fit best;
    Floats most = broadcast(-kInfinity);
    for (std::ptrdiff_t i = 0; i < padded_; i += kLanes) {
      Floats squares{};
      for (int t = 0; t < tag_count_; ++t) {
        const Floats below = load_at(low_, t, i) - mean[t], above = mean[t] - load_at(high_, t, i);
        const Floats away = larger(below, larger(above, Floats{}));
        squares += away * away;
      }
      const Floats bound = larger(edgepose::EDGEPOSE_ISA::load(largest_ + i) - rounded(square_root(squares)),
                                  broadcast(-kInfinity));
      store(bounds_ + i, bound);
      most = larger(bound, most);
    }
    float highest = -kInfinity;
    for (int lane = 0; lane < kLanes; ++lane) highest = most[lane] > highest ? most[lane] : highest;
    if (highest == -kInfinity) return best;
    std::ptrdiff_t first = 0;
    while (!(bounds_[first] >= highest)) ++first;
    visit(first, mean, best);
    for (std::ptrdiff_t i = 0; i < padded_; i += kLanes) {
      if (!any_reaches(edgepose::EDGEPOSE_ISA::load(bounds_ + i), broadcast(best.value))) continue;
      for (std::ptrdiff_t tile = i; tile < i + kLanes; ++tile) {
        if (tile != first && bounds_[tile] >= best.value && bounds_[tile] > -kInfinity)
          visit(tile, mean, best);
      }
    }
    return best;
  }

 private:
  std::ptrdiff_t count() const { return static_cast<std::ptrdiff_t>(rows_) * columns_; }

  Floats load_at(const float* ranges, int t, std::ptrdiff_t tile) const {
    return edgepose::EDGEPOSE_ISA::load(ranges + t * padded_ + tile);
  }

  // The least and the largest rounded distance of a tile's tags.
  void distances(std::ptrdiff_t tile, const float* mean, float* least, float* most) const {
    float near = 0, far = 0;
    for (int t = 0; t < tag_count_; ++t) {
      const float below = low_[t * padded_ + tile] - mean[t], above = mean[t] - high_[t * padded_ + tile];
      const float nearest = below > above ? below : above, furthest = -(below < above ? below : above);
      near += nearest > 0 ? nearest * nearest : 0;
      far += furthest * furthest;
    }
    *least = rintf(sqrtf(near));
    *most = rintf(sqrtf(far));
  }

  void visit(std::ptrdiff_t tile, const float* mean, Fit& best) {
    bool evaluated = false;
    if (peaks_[tile] < 0) {
      evaluate_heat(tile);
      evaluated = true;
    }
    float least, most;
    distances(tile, mean, &least, &most);
    if (finite_[tile] && least == most && most <= kMaxWhole) {  // one distance in the whole tile
      if (largest_[tile] > -kInfinity) best.take(largest_[tile] - least, peaks_[tile]);
      return;
    }
    if (largest_[tile] - least < best.value) return;
    if (!evaluated) evaluate_heat(tile);
    evaluate_fit(tile, mean, best);
  }

  struct Area {
    int top, bottom, left, right;
  };

  Area area(std::ptrdiff_t tile) const {
    const int top = static_cast<int>(tile / columns_) * kTile,
              left = static_cast<int>(tile % columns_) * kTile;
    return {top, smaller_of(top + kTile, height_), left, smaller_of(left + kTile, width_)};
  }

  void evaluate_heat(std::ptrdiff_t tile) {
    const Area a = area(tile);
    const int width = a.right - a.left, height = a.bottom - a.top;
    if (width < kTile || height < kTile) {
      for (int i = 0; i < kArea; ++i) heat_[i] = -kInfinity;
    }
    planes_.heat_block(a.top, a.bottom, a.left, a.right, heat_, kTile);
    Floats most = broadcast(-kInfinity);
    for (int i = 0; i < kArea; i += kLanes) most = larger(edgepose::EDGEPOSE_ISA::load(heat_ + i), most);
    float best = -kInfinity;
    for (int lane = 0; lane < kLanes; ++lane) best = most[lane] > best ? most[lane] : best;
    int at = 0;
    while (heat_[at] != best) ++at;
    largest_[tile] = best;
    peaks_[tile] = static_cast<std::ptrdiff_t>(a.top + at / kTile) * width_ + a.left + at % kTile;
  }

  // With the tile's heat in place.
  void evaluate_fit(std::ptrdiff_t tile, const float* mean, Fit& best) {
    const Area a = area(tile);
    const int width = a.right - a.left, height = a.bottom - a.top;
    for (int t = 0; t < tag_count_; ++t) {
      float* to = tags_ + t * kArea;
      if (width < kTile || height < kTile) {
        for (int i = 0; i < kArea; ++i) to[i] = 0;
      }
      planes_.tags[t].start_rows();
      for (int y = a.top; y < a.bottom; ++y)
        planes_.tags[t].final_row(y, a.left, a.right, to + (y - a.top) * kTile);
    }
    for (int i = 0; i < kArea; i += kLanes) {
      Floats squares{};
      for (int t = 0; t < tag_count_; ++t) {
        const Floats away = edgepose::EDGEPOSE_ISA::load(tags_ + t * kArea + i) - mean[t];
        squares += away * away;
      }
      const Floats fit = larger(edgepose::EDGEPOSE_ISA::load(heat_ + i) - rounded(square_root(squares)),
                                broadcast(-kInfinity));
      if (!any_reaches(fit, broadcast(best.value))) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (!(fit[lane] > -kInfinity)) continue;
        const int at = i + lane;
        best.take(fit[lane], static_cast<std::ptrdiff_t>(a.top + at / kTile) * width_ + a.left + at % kTile);
      }
    }
  }

  static constexpr float kMaxWhole = 0x1p22f;

  Planes& planes_;
  int tag_count_, height_, width_, rows_, columns_;
  std::ptrdiff_t padded_;
  float* largest_;         // heat: a bound, and exact once evaluated
  float* bounds_;          // of one person
  std::ptrdiff_t* peaks_;  // the first pixel of the largest heat; -1: not evaluated
  bool* finite_;           // whether all tags are finite
  float *low_, *high_;     // range of each tag
  float *heat_, *tags_;    // of one tile
};

// Mean tag of a person's joints; whether it has one.
bool mean_tag(const Planes& planes, const Persons& persons, const float* person, float* mean) {
  const PoseMaps& maps = *planes.maps;
  int found = 0;
  for (int joint = 0; joint < persons.joints; ++joint) {
    const float* entry = person + joint * persons.stride;
    if (!(entry[2] > 0)) continue;
    const int x = pixel_of(entry[0], maps.width), y = pixel_of(entry[1], maps.height);
    bool usable_tags = true;
    for (int t = 0; t < maps.tag_count && usable_tags; ++t) {
      const float tag = planes.sample_tag(t, joint, y, x);
      usable_tags = tag == tag;
    }
    if (!usable_tags) continue;
    for (int t = 0; t < maps.tag_count; ++t) {
      const float tag = planes.sample_tag(t, joint, y, x);
      mean[t] = found ? mean[t] + tag : tag;
    }
    ++found;
  }
  for (int t = 0; t < maps.tag_count; ++t) mean[t] /= static_cast<float>(found ? found : 1);
  return found > 0;
}

}  // namespace

std::size_t adjust(const PoseMaps& maps, const Persons& persons, void* scratch) {
  Arena arena(scratch);
  Planes planes;
  planes.build(maps, false, false, arena);
  if (arena.counting()) return arena.used();
  for (std::size_t i = 0; i < persons.count; ++i) {
    for (int joint = 0; joint < persons.joints; ++joint) {
      float* entry =
          persons.data + (static_cast<std::ptrdiff_t>(i) * persons.joints + joint) * persons.stride;
      if (!(entry[2] > 0)) continue;
      const int x = pixel_of(entry[0], maps.width), y = pixel_of(entry[1], maps.height);
      float dx, dy;
      quarter_towards(planes, joint, x, y, &dx, &dy);
      entry[0] = (entry[0] + dx) + 0.5f;
      entry[1] = (entry[1] + dy) + 0.5f;
    }
  }
  return arena.used();
}

std::size_t refine(const PoseMaps& maps, const Persons& persons, void* scratch) {
  Arena arena(scratch);
  Planes planes;
  planes.build(maps, true, true, arena);
  Tiles tiles(planes, arena);
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(persons.joints) * persons.stride;
  float* means = arena.take<float>(persons.count * static_cast<std::size_t>(maps.tag_count));
  bool* known = arena.take<bool>(persons.count);
  if (arena.counting()) return arena.used();
  for (std::size_t i = 0; i < persons.count; ++i) {
    float* mean = means + i * static_cast<std::size_t>(maps.tag_count);
    known[i] = mean_tag(planes, persons, persons.data + static_cast<std::ptrdiff_t>(i) * size, mean);
    for (int t = 0; t < maps.tag_count; ++t) known[i] &= mean[t] == mean[t];
  }
  for (int joint = 0; joint < maps.joints; ++joint) {
    bool loaded = false;
    for (std::size_t i = 0; i < persons.count; ++i) {
      float* entry = persons.data + static_cast<std::ptrdiff_t>(i) * size + joint * persons.stride;
      if (entry[2] != 0 || !known[i]) continue;
      if (!loaded) tiles.load(joint);
      loaded = true;
      const Fit fit = tiles.search(means + i * static_cast<std::size_t>(maps.tag_count));
      if (!(fit.value > -kInfinity)) continue;
      const int x = static_cast<int>(fit.index % maps.width), y = static_cast<int>(fit.index / maps.width);
      const float value = planes.sample_heat(joint, y, x);
      if (!(value > 0)) continue;
      float dx, dy;
      quarter_towards(planes, joint, x, y, &dx, &dy);
      entry[0] = (static_cast<float>(x) + 0.5f) + dx;
      entry[1] = (static_cast<float>(y) + 0.5f) + dy;
      entry[2] = value;
    }
  }
  return arena.used();
}

}  // namespace edgepose::EDGEPOSE_ISA

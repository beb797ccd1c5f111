// The quarter step of new persons, and their missing joints.
//
// A missing joint is the argmax over the final map of heat - rint(distance of the tags). For each tile, the
// largest heat and the range of each tag bound it. Each person first looks at the tile of its largest bound;
// then every tile is evaluated once for all persons whose best its bound reaches, or not at all.
#include "pose_maps.hpp"
#include "pose_planes.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

constexpr int kArea = kTile * kTile;

// The persons that seek a joint, and where it fits each best. Padded to whole vectors.
struct Seekers {
  Seekers(std::size_t most, int tags, Arena& arena) {
    padded = static_cast<std::ptrdiff_t>((most + kLanes - 1) / kLanes * kLanes);
    const auto size = static_cast<std::size_t>(padded);
    means = arena.take<float>(size * static_cast<std::size_t>(tags));
    best = arena.take<float>(size);
    bounds = arena.take<float>(size);
    index = arena.take<std::ptrdiff_t>(size);
    first = arena.take<std::ptrdiff_t>(size);
  }

  void take(std::ptrdiff_t i, float fit, std::ptrdiff_t at) {
    if (fit > best[i] || (fit == best[i] && at < index[i])) {
      best[i] = fit;
      index[i] = at;
    }
  }

  std::ptrdiff_t padded, count = 0;
  float* means;           // tags x padded
  float* best;            // -inf where nothing fits
  float* bounds;          // of one tile
  std::ptrdiff_t* index;  // of the best pixel, in row order
  std::ptrdiff_t* first;  // the tile that each looks at first
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
    seen_ = arena.take<bool>(size);
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
        seen_[tile] = false;
        bool finite = true;
        for (int t = 0; t < tag_count_; ++t) {
          finite &= planes_.tags[t].range(left, right, low_ + t * padded_ + tile, high_ + t * padded_ + tile);
        }
        finite_[tile] = finite;
      }
    }
  }

  void search(Seekers& seekers) {
    for (std::ptrdiff_t i = 0; i < seekers.padded; ++i) {
      seekers.best[i] = i < seekers.count ? -kInfinity : kInfinity;
      seekers.index[i] = 0;
    }
    for (std::ptrdiff_t i = 0; i < seekers.count; ++i) seekers.first[i] = highest_bound(seekers, i);
    for (std::ptrdiff_t i = 0; i < seekers.count; ++i) {
      const std::ptrdiff_t tile = seekers.first[i];
      if (tile < 0 || seen_[tile]) continue;
      visit(tile, seekers, true);
      seen_[tile] = true;
    }
    for (std::ptrdiff_t tile = 0; tile < count(); ++tile) {
      if (largest_[tile] > -kInfinity) visit(tile, seekers, false);
    }
  }

 private:
  std::ptrdiff_t count() const { return static_cast<std::ptrdiff_t>(rows_) * columns_; }

  // The tile of a person's largest bound; -1 where there is none above -inf.
  std::ptrdiff_t highest_bound(const Seekers& seekers, std::ptrdiff_t person) {
    Floats most = broadcast(-kInfinity);
    for (std::ptrdiff_t i = 0; i < padded_; i += kLanes) {
      Floats squares{};
      for (int t = 0; t < tag_count_; ++t) {
        const float mean = seekers.means[t * seekers.padded + person];
        squares += gap(load_at(low_, t, i) - mean, mean - load_at(high_, t, i));
      }
      const Floats bound = fit(vector_at(largest_ + i), squares);
      store(bounds_ + i, bound);
      most = larger(bound, most);
    }
    const float highest = largest_lane(most);
    if (highest == -kInfinity) return -1;
    std::ptrdiff_t tile = 0;
    while (!(bounds_[tile] >= highest)) ++tile;
    return tile;
  }

  // Square of how far outside of a range a value lies, of what it lacks on either side; NaN counts as 0.
  static Floats gap(Floats below, Floats above) {
    const Floats away = larger(below, larger(above, Floats{}));
    return away * away;
  }

  static Floats fit(Floats heat, Floats squares) {
    return larger(heat - rounded(square_root(squares)), broadcast(-kInfinity));
  }

  static float largest_lane(Floats v) {
    float most = -kInfinity;
    for (int lane = 0; lane < kLanes; ++lane) most = v[lane] > most ? v[lane] : most;
    return most;
  }

  static Floats vector_at(const float* from) { return edgepose::EDGEPOSE_ISA::load(from); }

  Floats load_at(const float* ranges, int t, std::ptrdiff_t tile) const {
    return vector_at(ranges + t * padded_ + tile);
  }

  // Whether a tile's bound reaches anybody's best; the bounds go to the seekers.
  bool reaches(std::ptrdiff_t tile, const Seekers& seekers) const {
    bool any = false;
    for (std::ptrdiff_t i = 0; i < seekers.padded; i += kLanes) {
      Floats squares{};
      for (int t = 0; t < tag_count_; ++t) {
        const Floats mean = vector_at(seekers.means + t * seekers.padded + i);
        squares += gap(low_[t * padded_ + tile] - mean, mean - high_[t * padded_ + tile]);
      }
      const Floats bound = fit(broadcast(largest_[tile]), squares);
      store(seekers.bounds + i, bound);
      any |= any_reaches(bound, vector_at(seekers.best + i));
    }
    return any;
  }

  // Looks for better places in a tile; with `first`, for those alone that look there first.
  void visit(std::ptrdiff_t tile, Seekers& seekers, bool first) {
    if (!reaches(tile, seekers)) return;
    bool has_heat = false, has_tags = false;
    if (peaks_[tile] < 0) {
      evaluate_heat(tile);
      has_heat = true;
      if (!reaches(tile, seekers)) return;
    }
    for (std::ptrdiff_t i = 0; i < seekers.count; ++i) {
      if (seekers.bounds[i] < seekers.best[i] ||
          (first ? seekers.first[i] != tile : seekers.first[i] == tile))
        continue;
      if (no_distance(tile, seekers, i)) {
        if (seekers.bounds[i] > -kInfinity) seekers.take(i, seekers.bounds[i], peaks_[tile]);
        continue;
      }
      if (!has_heat) evaluate_heat(tile);
      if (!has_tags) evaluate_tags(tile);
      has_heat = has_tags = true;
      match(tile, seekers, i);
    }
  }

  // Whether a person's distance rounds to 0 all over a tile: then its fit there is the heat itself. Another
  // distance will not do, even if it is one: heats that differ may have fits that round to the same.
  bool no_distance(std::ptrdiff_t tile, const Seekers& seekers, std::ptrdiff_t person) const {
    if (!finite_[tile]) return false;
    Floats far{};
    for (int t = 0; t < tag_count_; ++t) {
      const float mean = seekers.means[t * seekers.padded + person];
      const float below = low_[t * padded_ + tile] - mean, above = mean - high_[t * padded_ + tile];
      const float furthest = below < above ? below : above;
      far += broadcast(furthest) * furthest;
    }
    return rounded(square_root(far))[0] == 0;
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
    for (int i = 0; i < kArea; i += kLanes) most = larger(vector_at(heat_ + i), most);
    const float best = largest_lane(most);
    int at = 0;
    while (heat_[at] != best) ++at;
    largest_[tile] = best;
    peaks_[tile] = static_cast<std::ptrdiff_t>(a.top + at / kTile) * width_ + a.left + at % kTile;
  }

  void evaluate_tags(std::ptrdiff_t tile) {
    const Area a = area(tile);
    const bool whole = a.right - a.left == kTile && a.bottom - a.top == kTile;
    for (int t = 0; t < tag_count_; ++t) {
      float* to = tags_ + t * kArea;
      for (int i = 0; i < kArea && !whole; ++i) to[i] = 0;
      planes_.tags[t].start_rows();
      for (int y = a.top; y < a.bottom; ++y, to += kTile) planes_.tags[t].final_row(y, a.left, a.right, to);
    }
  }

  // Seeks a person's joint among the pixels of the tile that was evaluated.
  void match(std::ptrdiff_t tile, Seekers& seekers, std::ptrdiff_t person) const {
    const Area a = area(tile);
    for (int i = 0; i < kArea; i += kLanes) {
      const Floats heat = vector_at(heat_ + i), best = broadcast(seekers.best[person]);
      if (!any_reaches(heat, best)) continue;
      Floats squares{};
      for (int t = 0; t < tag_count_; ++t) {
        const Floats away = vector_at(tags_ + t * kArea + i) - seekers.means[t * seekers.padded + person];
        squares += away * away;
      }
      const Floats fits = fit(heat, squares);
      if (!any_reaches(fits, best)) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (!(fits[lane] > -kInfinity) || fits[lane] < seekers.best[person]) continue;
        const int at = i + lane;
        seekers.take(person, fits[lane],
                     static_cast<std::ptrdiff_t>(a.top + at / kTile) * width_ + a.left + at % kTile);
      }
    }
  }

  Planes& planes_;
  int tag_count_, height_, width_, rows_, columns_;
  std::ptrdiff_t padded_;
  float* largest_;         // heat: a bound, and exact once evaluated
  float* bounds_;          // of one person
  std::ptrdiff_t* peaks_;  // the first pixel of the largest heat; -1: not evaluated
  bool* finite_;           // whether all tags are finite
  bool* seen_;             // by those who looked there first
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

// Puts a joint at a pixel, if the final heatmap is above 0 there.
void fill(const Planes& planes, int joint, std::ptrdiff_t index, float* entry) {
  const int width = planes.maps->width;
  const int x = static_cast<int>(index % width), y = static_cast<int>(index / width);
  const float value = planes.sample_heat(joint, y, x);
  if (!(value > 0)) return;
  float dx, dy;
  quarter_towards(planes, joint, x, y, &dx, &dy);
  entry[0] = (static_cast<float>(x) + 0.5f) + dx;
  entry[1] = (static_cast<float>(y) + 0.5f) + dy;
  entry[2] = value;
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
  const auto tags = static_cast<std::size_t>(maps.tag_count);
  float* means = arena.take<float>(persons.count * tags);
  bool* known = arena.take<bool>(persons.count);
  std::size_t* who = arena.take<std::size_t>(persons.count);
  Seekers seekers(persons.count, maps.tag_count, arena);
  if (arena.counting()) return arena.used();
  for (std::size_t i = 0; i < persons.count; ++i) {
    float* mean = means + i * tags;
    known[i] = mean_tag(planes, persons, persons.data + static_cast<std::ptrdiff_t>(i) * size, mean);
    for (std::size_t t = 0; t < tags; ++t) known[i] &= mean[t] == mean[t];
  }
  for (int joint = 0; joint < maps.joints; ++joint) {
    const auto entry = [&](std::size_t i) {
      return persons.data + static_cast<std::ptrdiff_t>(i) * size + joint * persons.stride;
    };
    seekers.count = 0;
    for (std::size_t i = 0; i < persons.count; ++i) {
      if (known[i] && entry(i)[2] == 0) who[seekers.count++] = i;
    }
    if (seekers.count == 0) continue;
    for (std::size_t t = 0; t < tags; ++t) {
      float* to = seekers.means + static_cast<std::ptrdiff_t>(t) * seekers.padded;
      for (std::ptrdiff_t i = 0; i < seekers.padded; ++i)
        to[i] = i < seekers.count ? means[who[i] * tags + t] : 0;
    }
    tiles.load(joint);
    tiles.search(seekers);
    for (std::ptrdiff_t i = 0; i < seekers.count; ++i) {
      if (seekers.best[i] > -kInfinity) fill(planes, joint, seekers.index[i], entry(who[i]));
    }
  }
  return arena.used();
}

}  // namespace edgepose::EDGEPOSE_ISA

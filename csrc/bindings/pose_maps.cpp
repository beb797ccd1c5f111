// edgepose/kernels/native.py checks the options and takes PoseMaps apart, whose constructor has checked
// them; here stands only what keeps memory safe.
#include "pose_maps.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace edgepose::bindings {
namespace {

using IntArray = py::array_t<std::int32_t>;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

const KernelTable& (*table)();

// Working memory of a thread, kept from call to call up to a size.
class Scratch {
 public:
  void* reserve(std::size_t size) {
    if (size > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(::operator new(size, kAlignment)));
      size_ = size;
    }
    return memory_.get();
  }
  void release() {
    if (size_ <= kMostKept) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::size_t kMostKept = std::size_t{64} << 20;
  struct Delete {
    void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<char, Delete> memory_;
  std::size_t size_ = 0;
};

thread_local Scratch scratch;

// Runs a kernel, without the GIL, in as much memory as it asks for.
template <class Kernel>
void run(const Kernel& kernel) {
  const py::gil_scoped_release release;
  void* memory = scratch.reserve(kernel(nullptr));
  kernel(memory);
  scratch.release();
}

// Checked maps, kept alive.
class PoseMapsArgument {
 public:
  PoseMapsArgument(const py::sequence& passes, std::pair<int, int> size, const Indices& flip) : flip_(flip) {
    int tag_count = 0, scale_count = 0;
    std::vector<std::pair<std::size_t, std::size_t>> parts;
    for (const py::handle item : passes) {
      const auto pass = py::reinterpret_borrow<py::tuple>(item);
      const auto heatmaps = pass[0].cast<py::tuple>(), tags = pass[1].cast<py::tuple>();
      for (const py::handle map : heatmaps) add("heatmaps", map);
      for (const py::handle map : tags) add("tags", map);
      if (heatmaps.empty()) reject("heatmaps", describe(heatmaps), "one array or more");
      const bool flipped = pass[2].cast<bool>();
      runs_.push_back(
          {nullptr, static_cast<int>(heatmaps.size()), nullptr, static_cast<int>(tags.size()), flipped});
      tag_count += static_cast<int>(tags.size());
      scale_count += !flipped;
    }
    if (runs_.empty() || runs_[0].flipped || size.first < 1 || size.second < 1) {
      reject("maps", describe(passes), "a PoseMaps");
    }
    const Maps* next = maps_.data();
    const auto joints = static_cast<int>(maps_[0].count);
    for (PoseRun& run : runs_) {
      run.heatmaps = next;
      for (int i = 0; i < run.heatmap_count; ++i, ++next) check(*next, joints, false);
      run.tags = next;
      for (int i = 0; i < run.tag_count; ++i, ++next) check(*next, joints, true);
    }
    bool usable = flip_.ndim() == 1 && flip_.shape(0) == joints;
    for (int i = 0; usable && i < joints; ++i) usable = flip_.at(i) >= 0 && flip_.at(i) < joints;
    if (!usable) reject("flip_permutation", describe(flip_), "a permutation of the joints");
    all_ = {
        runs_.data(), static_cast<int>(runs_.size()), scale_count, tag_count, size.first, size.second, joints,
        flip_.data()};
  }
  PoseMapsArgument(const PoseMapsArgument&) = delete;
  PoseMapsArgument& operator=(const PoseMapsArgument&) = delete;

  const PoseMaps& get() const { return all_; }

 private:
  void add(const char* name, py::handle value) {
    arrays_.push_back(joint_maps_argument(name, value));
    maps_.push_back(joint_maps_of(arrays_.back()));
  }

  static void check(const Maps& maps, int joints, bool one) {
    const auto wanted = static_cast<std::size_t>(joints);
    if (maps.count != wanted && !(one && maps.count == 1))
      reject("maps", "maps of other joints", "a PoseMaps");
  }

  Indices flip_;
  std::vector<py::array> arrays_;
  std::vector<Maps> maps_;
  std::vector<PoseRun> runs_;
  PoseMaps all_{};
};

py::tuple aggregate_nms_topk(const py::sequence& passes, std::pair<int, int> size, const Indices& flip,
                             int window, int top, double threshold) {
  const PoseMapsArgument maps(passes, size, flip);
  const PoseMaps& all = maps.get();
  if (window < 1 || window % 2 == 0) reject("window", std::to_string(window), "an odd number");
  if (top < 1) reject("top", std::to_string(top), "a positive number");
  const py::ssize_t k = all.joints, t = all.tag_count;
  IntArray xy(Shape{k, top, 2}), count(Shape{k});
  FloatArray scores(Shape{k, top}), tags(Shape{k, top, t});
  const Peaks out{
      all.joints,          top, all.tag_count, xy.mutable_data(), scores.mutable_data(), tags.mutable_data(),
      count.mutable_data()};
  const PeakOptions options{window, top, threshold};
  run([&](void* memory) { return table().aggregate_nms_topk(all, options, out, memory); });
  return py::make_tuple(xy, scores, tags, count);
}

py::tuple group(const IntArray& xy, const FloatArray& scores, const FloatArray& tags, const IntArray& count,
                const Indices& joint_order, double tag_threshold, bool use_detection_val,
                bool ignore_too_much, int max_persons, bool official) {
  const py::ssize_t k = scores.ndim() == 2 ? scores.shape(0) : 0, top = k ? scores.shape(1) : 0;
  const py::ssize_t t = tags.ndim() == 3 ? tags.shape(2) : 0;
  bool usable = k > 0 && t > 0 && xy.size() == 2 * k * top && tags.size() == k * top * t &&
                count.size() == k && joint_order.size() == k && max_persons > 0;
  py::ssize_t total = 0;
  for (py::ssize_t i = 0; usable && i < k; ++i) {
    usable = count.at(i) >= 0 && count.at(i) <= top && joint_order.at(i) >= 0 && joint_order.at(i) < k;
    total += count.at(i);
  }
  if (!usable) reject("peaks", "arrays that do not fit together", "a Peaks");
  const Peaks peaks{static_cast<int>(k),
                    static_cast<int>(top),
                    static_cast<int>(t),
                    const_cast<std::int32_t*>(xy.data()),
                    const_cast<float*>(scores.data()),
                    const_cast<float*>(tags.data()),
                    const_cast<std::int32_t*>(count.data())};
  const GroupOptions options{joint_order.data(), tag_threshold, use_detection_val,
                             ignore_too_much,    max_persons,   official};
  const py::ssize_t most = official || total < max_persons ? total : max_persons;
  const py::ssize_t size = k * (3 + t);
  const std::unique_ptr<float[]> data(new float[static_cast<std::size_t>(most * size)]);
  Persons persons{data.get(), 0, static_cast<int>(k), static_cast<int>(3 + t)};
  bool truncated = false;
  run([&](void* memory) { return table().group(peaks, options, persons, &truncated, memory); });
  FloatArray result(Shape{static_cast<py::ssize_t>(persons.count), k, 3 + t});
  std::copy_n(data.get(), result.size(), result.mutable_data());
  return py::make_tuple(result, truncated);
}

using Step = std::size_t (*KernelTable::*)(const PoseMaps&, const Persons&, void*);

// A kernel that changes a copy of the persons.
FloatArray changed(Step step, const py::sequence& passes, std::pair<int, int> size, const Indices& flip,
                   const FloatArray& persons, bool tagged) {
  const PoseMapsArgument maps(passes, size, flip);
  const PoseMaps& all = maps.get();
  const bool usable = persons.ndim() == 3 && persons.shape(1) == all.joints && persons.shape(2) >= 3 &&
                      (!tagged || all.tag_count > 0);
  if (!usable) reject("persons", describe(persons), "persons that fit the maps");
  FloatArray result(Shape(persons.shape(), persons.shape() + 3));
  std::copy_n(persons.data(), persons.size(), result.mutable_data());
  const Persons all_persons{result.mutable_data(), static_cast<std::size_t>(result.shape(0)), all.joints,
                            static_cast<int>(result.shape(2))};
  if (all_persons.count == 0) return result;
  run([&](void* memory) { return (table().*step)(all, all_persons, memory); });
  return result;
}

FloatArray adjust(const py::sequence& passes, std::pair<int, int> size, const Indices& flip,
                  const FloatArray& persons) {
  return changed(&KernelTable::adjust, passes, size, flip, persons, false);
}

FloatArray refine(const py::sequence& passes, std::pair<int, int> size, const Indices& flip,
                  const FloatArray& persons) {
  return changed(&KernelTable::refine, passes, size, flip, persons, true);
}

}  // namespace

void define_pose_maps(py::module_& m, const KernelTable& (*kernels)()) {
  table = kernels;
  m.def("aggregate_nms_topk", &aggregate_nms_topk, py::arg("passes"), py::arg("size"),
        py::arg("flip_permutation"), py::arg("window"), py::arg("top"), py::arg("threshold"));
  m.def("group", &group, py::arg("xy").noconvert(), py::arg("scores").noconvert(),
        py::arg("tags").noconvert(), py::arg("count").noconvert(), py::arg("joint_order"),
        py::arg("tag_threshold"), py::arg("use_detection_val"), py::arg("ignore_too_much"),
        py::arg("max_persons"), py::arg("official"));
  m.def("adjust", &adjust, py::arg("passes"), py::arg("size"), py::arg("flip_permutation"),
        py::arg("persons").noconvert());
  m.def("refine", &refine, py::arg("passes"), py::arg("size"), py::arg("flip_permutation"),
        py::arg("persons").noconvert());
}

}  // namespace edgepose::bindings

// edgepose/kernels/cuda_bottomup.py is the module that checks shapes and options and holds the memory.
#include "cuda_pose_maps.hpp"

#include <cstddef>
#include <cstdint>

#include "../cuda/launch.hpp"
#include "../cuda/pose_kernels.hpp"
#include "addresses.hpp"

namespace edgepose::bindings {
namespace {

namespace py = pybind11;

using cuda::FinalMaps;
using cuda::GroupTask;
using cuda::PersonsTask;
using cuda::PlaneSource;

// Adds where the fields of the structs lie that Python fills in.
void add_layouts(py::dict layouts) {
  py::dict maps, plane;
  maps["data"] = offsetof(Maps, data);
  maps["half"] = offsetof(Maps, half);
  maps["count"] = offsetof(Maps, count);
  maps["height"] = offsetof(Maps, height);
  maps["width"] = offsetof(Maps, width);
  maps[""] = sizeof(Maps);
  plane["parts"] = offsetof(PlaneSource, parts);
  plane["count"] = offsetof(PlaneSource, count);
  plane["height"] = offsetof(PlaneSource, height);
  plane["width"] = offsetof(PlaneSource, width);
  plane["final_height"] = offsetof(PlaneSource, final_height);
  plane["final_width"] = offsetof(PlaneSource, final_width);
  plane["flipped"] = offsetof(PlaneSource, flipped);
  plane["same_size"] = offsetof(PlaneSource, same_size);
  plane[""] = sizeof(PlaneSource);
  layouts["maps"] = maps;
  layouts["plane"] = plane;
}

FinalMaps final_maps(Address planes, Address on_host, Address flip, int runs, int scales, int tag_count,
                     int heat_parts, int height, int width, int joints) {
  return {at<const PlaneSource>(planes),
          at<const PlaneSource>(planes) + runs,
          at<const PlaneSource>(on_host),
          at<const std::int64_t>(flip),
          runs,
          scales,
          tag_count,
          height,
          width,
          joints,
          heat_parts};
}

Peaks peaks_at(int joints, int top, int tag_count, Address xy, Address scores, Address tags, Address count) {
  return {joints,
          top,
          tag_count,
          at<std::int32_t>(xy),
          at<float>(scores),
          at<float>(tags),
          at<std::int32_t>(count)};
}

void find_peaks(const FinalMaps& maps, int window, int top, double threshold, const Peaks& out,
                Address scratch, Address stream) {
  cuda::find_peaks(maps, {window, top, threshold}, out, at<void>(scratch), stream_of(stream));
}

GroupTask group_task(const Peaks& peaks, int limit, int left_out_from, Address joint_order,
                     double tag_threshold, bool use_detection_val, bool ignore_too_much, int max_persons,
                     bool official, Address persons, Address scores, int rows, Address counts) {
  return {peaks,
          limit,
          left_out_from,
          {at<const std::int64_t>(joint_order), tag_threshold, use_detection_val, ignore_too_much,
           max_persons, official},
          at<float>(persons),
          at<float>(scores),
          rows,
          at<cuda::GroupCounts>(counts)};
}

PersonsTask persons_task(Address persons, int rows, int joints, int stride, Address count, bool adjust,
                         bool refine, const Peaks* peaks) {
  return {at<float>(persons),      rows, joints, stride, at<const std::int32_t>(count), adjust, refine,
          peaks ? *peaks : Peaks{}};
}

}  // namespace

void define_cuda_pose_maps(py::module_& m) {
  add_layouts(m.attr("LAYOUTS"));
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<FinalMaps>(m, "FinalMaps")
      .def(py::init(&final_maps), py::arg("planes"), py::arg("on_host"), py::arg("flip"), py::arg("runs"),
           py::arg("scales"), py::arg("tag_count"), py::arg("heat_parts"), py::arg("height"),
           py::arg("width"), py::arg("joints"));
  py::class_<Peaks>(m, "Peaks")
      .def(py::init(&peaks_at), py::arg("joints"), py::arg("top"), py::arg("tag_count"), py::arg("xy"),
           py::arg("scores"), py::arg("tags"), py::arg("count"));
  py::class_<GroupTask>(m, "GroupTask")
      .def(py::init(&group_task), py::arg("peaks"), py::arg("limit"), py::arg("left_out_from"),
           py::arg("joint_order"), py::arg("tag_threshold"), py::arg("use_detection_val"),
           py::arg("ignore_too_much"), py::arg("max_persons"), py::arg("official"), py::arg("persons"),
           py::arg("scores"), py::arg("rows"), py::arg("counts"));
  py::class_<PersonsTask>(m, "PersonsTask")
      .def(py::init(&persons_task), py::arg("persons"), py::arg("rows"), py::arg("joints"), py::arg("stride"),
           py::arg("count"), py::arg("adjust"), py::arg("refine"), py::arg("peaks").none(true));
  m.def(
      "find_peaks_scratch",
      [](const FinalMaps& maps, int window, int top, double threshold) {
        return cuda::plan_peaks(maps, {window, top, threshold}).bytes;
      },
      py::arg("maps"), py::arg("window"), py::arg("top"), py::arg("threshold"));
  m.def("find_peaks", &find_peaks, unlocked, py::arg("maps"), py::arg("window"), py::arg("top"),
        py::arg("threshold"), py::arg("out"), py::arg("scratch"), py::arg("stream"));
  m.def("group_scratch", &cuda::group_scratch, py::arg("task"));
  m.def(
      "group",
      [](const GroupTask& task, Address scratch, Address stream) {
        cuda::group(task, at<void>(scratch), stream_of(stream));
      },
      unlocked, py::arg("task"), py::arg("scratch"), py::arg("stream"));
  m.def("settle_scratch", &cuda::settle_scratch, py::arg("maps"), py::arg("task"));
  m.def(
      "settle",
      [](const FinalMaps& maps, const PersonsTask& task, Address scratch, Address stream) {
        cuda::settle(maps, task, at<void>(scratch), stream_of(stream));
      },
      unlocked, py::arg("maps"), py::arg("task"), py::arg("scratch"), py::arg("stream"));
}

}  // namespace edgepose::bindings

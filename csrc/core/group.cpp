#include "group.hpp"

#include <new>

#include "assignment.hpp"

namespace edgepose::EDGEPOSE_ISA {
namespace {

class Grouping {
 public:
  Grouping(const Peaks& peaks, const GroupOptions& options, Persons& out, Arena& arena)
      : peaks_(peaks), options_(options), out_(out), tags_(static_cast<std::size_t>(peaks.tag_count)) {
    std::size_t candidates = 0, total = 0;
    for (int joint = 0; joint < peaks.joints; ++joint) {
      const auto count = static_cast<std::size_t>(peaks.count[joint]);
      total += count;
      candidates = count > candidates ? count : candidates;
    }
    const auto most = static_cast<std::size_t>(options.max_persons);
    const std::size_t references = total < most ? total : most;
    const std::size_t persons = options.official ? total : references;
    sums_ = arena.take<float>(persons * tags_);
    members_ = arena.take<int>(persons);
    keys_ = arena.take<float>(persons);
    means_ = arena.take<double>(references * tags_);
    distance_ = arena.take<double>(candidates * references);
    joined_ = arena.take<int>(candidates);
    if (options.official) {
      const std::size_t size = candidates > references ? candidates : references;
      munkres_ = arena.take<Munkres>(1);
      const Munkres munkres(size, arena);
      if (!arena.counting()) new (munkres_) Munkres(munkres);
    } else {
      const bool wide = candidates <= references;
      costs_ = arena.take<PairCost>(candidates * references);
      column_of_ = arena.take<int>(wide ? references : candidates);
      paths_ = arena.take<ShortestPaths>(1);
      const std::size_t size = candidates > references ? candidates : references;
      const ShortestPaths paths(size, size, arena);
      if (!arena.counting()) new (paths_) ShortestPaths(paths);
    }
  }

  bool run() {
    out_.count = 0;
    for (int i = 0; i < peaks_.joints; ++i) place(static_cast<int>(options_.joint_order[i]));
    return truncated_;
  }

 private:
  void place(int joint) {
    const int count = peaks_.count[joint];
    const int persons = static_cast<int>(out_.count);
    const int references = persons < options_.max_persons ? persons : options_.max_persons;
    for (int i = 0; i < count; ++i) joined_[i] = -1;
    if (references > 0 && count > 0) {
      if (options_.ignore_too_much && references == options_.max_persons) return;
      measure(joint, count, references);
      if (options_.official) {
        assign_official(joint, count, references);
      } else {
        assign_optimal(joint, count, references);
      }
      for (int i = 0; i < count; ++i) {
        if (joined_[i] >= 0 && !(distance_at(i, references)[joined_[i]] < options_.tag_threshold))
          joined_[i] = -1;
      }
    }
    for (int i = 0; i < count; ++i) {
      if (joined_[i] >= 0) {
        const int person = joined_[i];
        write(person, joint, i);
        add_tags(person, joint, i);
      } else {
        start(joint, i);
      }
    }
  }

  double* distance_at(int candidate, int references) {
    return distance_ + static_cast<std::ptrdiff_t>(candidate) * references;
  }

  const float* tags_of(int joint, int i) const {
    return peaks_.tags + (static_cast<std::size_t>(joint) * static_cast<std::size_t>(peaks_.top) +
                          static_cast<std::size_t>(i)) *
                             tags_;
  }

  float score_of(int joint, int i) const {
    return peaks_.scores[static_cast<std::ptrdiff_t>(joint) * peaks_.top + i];
  }

  void measure(int joint, int count, int references) {
    for (int j = 0; j < references; ++j) {
      for (std::size_t t = 0; t < tags_; ++t) {
        const float mean = sums_[static_cast<std::size_t>(j) * tags_ + t] / static_cast<float>(members_[j]);
        means_[t * static_cast<std::size_t>(references) + static_cast<std::size_t>(j)] = mean;
      }
    }
    for (int i = 0; i < count; ++i) {
      double* __restrict to = distance_at(i, references);
      for (int j = 0; j < references; ++j) to[j] = 0;
      for (std::size_t t = 0; t < tags_; ++t) {
        const double tag = tags_of(joint, i)[t];
        const double* mean = means_ + t * static_cast<std::size_t>(references);
        for (int j = 0; j < references; ++j) to[j] += (tag - mean[j]) * (tag - mean[j]);
      }
      for (int j = 0; j < references; ++j) to[j] = usable_distance(to[j]);
    }
  }

  void assign_official(int joint, int count, int references) {
    const int size = count > references ? count : references;
    double* to = munkres_->costs();
    for (int i = 0; i < size; ++i) {
      const double* distance = distance_at(i, references);
      const double score = i < count && options_.use_detection_val ? usable_score(score_of(joint, i)) : 0;
      for (int j = 0; j < size; ++j, ++to) {
        if (i >= count) {
          *to = 0;
        } else if (j >= references) {
          *to = kUnrealCost;
        } else {
          *to = options_.use_detection_val ? nearest_whole(distance[j]) * 100 - score : distance[j];
        }
      }
    }
    const int* column_of = munkres_->solve(size);
    for (int i = 0; i < count; ++i) joined_[i] = column_of[i] < references ? column_of[i] : -1;
  }

  void assign_optimal(int joint, int count, int references) {
    for (int i = 0; i < count; ++i) {
      const double value = nearest_whole(usable_score(score_of(joint, i)) * kFixedPoint);
      const double* distance = distance_at(i, references);
      PairCost* to = costs_ + static_cast<std::ptrdiff_t>(i) * references;
      for (int j = 0; j < references; ++j) {
        const double second = nearest_whole(distance[j] * kFixedPoint);
        const double first =
            options_.use_detection_val ? nearest_whole(distance[j]) * 100 * kFixedPoint - value : second;
        to[j] = pair_cost(static_cast<std::int64_t>(first), static_cast<std::int64_t>(second));
      }
    }
    if (count <= references) {
      paths_->solve(
          count, references,
          [&](int i, int j) { return costs_[static_cast<std::ptrdiff_t>(i) * references + j]; }, joined_);
      return;
    }
    paths_->solve(
        references, count,
        [&](int j, int i) { return costs_[static_cast<std::ptrdiff_t>(i) * references + j]; }, column_of_);
    for (int j = 0; j < references; ++j) joined_[column_of_[j]] = j;
  }

  float* entry(int person, int joint) {
    return out_.data + (static_cast<std::ptrdiff_t>(person) * out_.joints + joint) * out_.stride;
  }

  void write(int person, int joint, int i) {
    float* to = entry(person, joint);
    const std::int32_t* xy = peaks_.xy + (static_cast<std::ptrdiff_t>(joint) * peaks_.top + i) * 2;
    to[0] = static_cast<float>(xy[0]);
    to[1] = static_cast<float>(xy[1]);
    to[2] = score_of(joint, i);
    const float* tags = tags_of(joint, i);
    for (std::size_t t = 0; t < tags_; ++t) to[3 + t] = tags[t];
  }

  void add_tags(int person, int joint, int i) {
    float* sums = sums_ + static_cast<std::size_t>(person) * tags_;
    const float* tags = tags_of(joint, i);
    for (std::size_t t = 0; t < tags_; ++t) sums[t] += tags[t];
    ++members_[person];
  }

  // A new person, or in the official assignment the one that began with the same tag.
  void start(int joint, int i) {
    const float* tags = tags_of(joint, i);
    const int persons = static_cast<int>(out_.count);
    int person = options_.official ? 0 : persons;
    while (person < persons && keys_[person] != tags[0]) ++person;  // NaN equals nothing
    if (person == persons) {
      if (!options_.official && persons == options_.max_persons) {
        truncated_ = true;
        return;
      }
      ++out_.count;
      keys_[person] = tags[0];
      float* to = entry(person, 0);
      for (std::ptrdiff_t at = 0; at < static_cast<std::ptrdiff_t>(out_.joints) * out_.stride; ++at)
        to[at] = 0;
    }
    write(person, joint, i);
    for (std::size_t t = 0; t < tags_; ++t) sums_[static_cast<std::size_t>(person) * tags_ + t] = tags[t];
    members_[person] = 1;
  }

  const Peaks& peaks_;
  const GroupOptions& options_;
  Persons& out_;
  std::size_t tags_;
  bool truncated_ = false;
  float* sums_;       // persons x t: their tag vectors, added up
  int* members_;      // how many these are
  float* keys_;       // the first tag that made the person
  double* means_;     // t x references
  double* distance_;  // candidates x references
  int* joined_;       // reference of each candidate, or -1
  PairCost* costs_ = nullptr;
  int* column_of_ = nullptr;
  ShortestPaths* paths_ = nullptr;
  Munkres* munkres_ = nullptr;
};

}  // namespace

std::size_t group(const Peaks& peaks, const GroupOptions& options, Persons& out, bool* truncated,
                  void* scratch) {
  Arena arena(scratch);
  Grouping grouping(peaks, options, out, arena);
  if (!arena.counting()) *truncated = grouping.run();
  return arena.used();
}

}  // namespace edgepose::EDGEPOSE_ISA

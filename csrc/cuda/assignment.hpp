// Assignment of rows to columns by one warp, as edgepose/kernels/reference_grouping.py specifies it.
#pragma once

#include "../core/arena.hpp"
#include "../core/costs.hpp"
#include "launch.hpp"
#include "warp_reduce.hpp"

namespace edgepose::cuda {

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

// The least of some costs, and the lowest of the columns that cost it.
struct Nearest {
  PairCost cost;
  int column;  // a lane without one: kNoColumn
};

constexpr int kNoColumn = 0x7fffffff;

// The nearest of the lanes' columns.
__device__ inline Nearest nearest_of_warp(const Nearest& mine) {
  const bool there = mine.column != kNoColumn;
  // With the sign turned, so that unsigned numbers have the order of signed ones.
  auto high = static_cast<unsigned long long>(mine.cost >> 64) ^ 1ull << 63;
  auto low = static_cast<unsigned long long>(mine.cost);
  const unsigned long long least_high = warp_least(there ? high : ~0ull);
  unsigned tied = __ballot_sync(kWholeWarp, there && high == least_high);
  if (tied & (tied - 1)) {
    const bool of_these = there && high == least_high;
    const unsigned long long least_low = warp_least(of_these ? low : ~0ull);
    tied = __ballot_sync(kWholeWarp, of_these && low == least_low);
  }
  const bool best = tied >> this_lane() & 1u;
  int source = __ffs(static_cast<int>(tied)) - 1;
  if (tied & (tied - 1)) {
    const int lowest = warp_least(best ? mine.column : kNoColumn);
    source = __ffs(static_cast<int>(__ballot_sync(kWholeWarp, best && mine.column == lowest))) - 1;
  }
  const int column = __shfl_sync(kWholeWarp, mine.column, source);
  high = __shfl_sync(kWholeWarp, high, source);
  low = __shfl_sync(kWholeWarp, low, source);
  const auto bits = static_cast<unsigned __int128>(high ^ 1ull << 63) << 64 | low;
  return {static_cast<PairCost>(bits), column};
}

// What lane `source` has.
__device__ inline PairCost shuffled(PairCost value, int source) {
  const auto high = __shfl_sync(kWholeWarp, static_cast<unsigned long long>(value >> 64), source);
  const auto low = __shfl_sync(kWholeWarp, static_cast<unsigned long long>(value), source);
  return static_cast<PairCost>(static_cast<unsigned __int128>(high) << 64 | low);
}

// `optimal_assignment` of the reference for no more than a warp's columns, each lane has one: from row `from`
// on, after rows that all took the first of their nearest columns. row_at: the row of the lane's column, or
// -1. of_row: shared, one per row, set for the rows before. Returns the row of the lane's column, or -1.
template <class Cost>
__device__ int assign_by_lanes(int from, int rows, int columns, int row_at, PairCost* of_row,
                               const Cost& cost) {
  const int lane = this_lane();
  const bool there = lane < columns;
  PairCost of_column = 0;
  for (int entering = from; entering < rows; ++entering) {
    PairCost nearest = there ? cost(entering, lane) - of_column : 0;
    int before = -1;
    bool settled = false;
    Nearest here{};
    while (true) {
      here = nearest_of_warp({nearest, there && !settled ? lane : kNoColumn});
      const int row = __shfl_sync(kWholeWarp, row_at, here.column);
      if (row < 0) break;
      settled |= lane == here.column;
      if (!there || settled) continue;
      const PairCost length = here.cost - of_row[row] + cost(row, lane) - of_column;
      if (length < nearest) {
        nearest = length;
        before = here.column;
      }
    }
    __syncwarp();  // all have read the potentials
    if (lane == 0) of_row[entering] = here.cost;
    if (settled) {
      const PairCost slack = here.cost - nearest;
      of_row[row_at] += slack;
      of_column -= slack;
    }
    __syncwarp();
    for (int column = here.column; column >= 0;) {
      const int next = __shfl_sync(kWholeWarp, before, column);
      const int row = next < 0 ? entering : __shfl_sync(kWholeWarp, row_at, next);
      if (lane == column) row_at = row;
      column = next;
    }
  }
  return row_at;
}

#endif

// `optimal_assignment` of the reference; `core/assignment.hpp` has the same for one thread.
class WarpPaths {
 public:
  EDGEPOSE_HD WarpPaths(std::size_t most_rows, std::size_t most_columns, Arena& arena)
      : of_row_(arena.take<PairCost>(most_rows)),
        of_column_(arena.take<PairCost>(most_columns)),
        nearest_(arena.take<PairCost>(most_columns)),
        before_(arena.take<int>(most_columns)),
        row_at_(arena.take<int>(most_columns)),
        settled_(arena.take<bool>(most_columns)) {}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

  // cost(row, column); no more rows than columns. column_of: rows. One warp calls it.
  template <class Cost>
  __device__ void solve(int rows, int columns, const Cost& cost, int* column_of) {
    for (int column = this_lane(); column < columns; column += kWarpSize) {
      of_column_[column] = 0;
      row_at_[column] = -1;
    }
    __syncwarp();
    for (int row = 0; row < rows; ++row) enter(row, columns, cost);
    for (int column = this_lane(); column < columns; column += kWarpSize) {
      if (row_at_[column] >= 0) column_of[row_at_[column]] = column;
    }
    __syncwarp();
  }

 private:
  // Lane l has the columns l, l + 32 and so on to itself.
  template <class Cost>
  __device__ void enter(int entering, int columns, const Cost& cost) {
    for (int column = this_lane(); column < columns; column += kWarpSize) {
      nearest_[column] = cost(entering, column) - of_column_[column];
      before_[column] = -1;
      settled_[column] = false;
    }
    Nearest here{};
    while (true) {
      Nearest mine{0, kNoColumn};
      for (int column = this_lane(); column < columns; column += kWarpSize) {
        if (settled_[column]) continue;
        if (mine.column == kNoColumn || nearest_[column] < mine.cost) mine = {nearest_[column], column};
      }
      here = nearest_of_warp(mine);
      const int row = row_at_[here.column];
      if (row < 0) break;
      if (here.column % kWarpSize == this_lane()) settled_[here.column] = true;
      const PairCost base = here.cost - of_row_[row];
      for (int column = this_lane(); column < columns; column += kWarpSize) {
        if (settled_[column]) continue;
        const PairCost length = base + cost(row, column) - of_column_[column];
        if (length < nearest_[column]) {
          nearest_[column] = length;
          before_[column] = here.column;
        }
      }
    }
    if (this_lane() == 0) of_row_[entering] = here.cost;
    for (int column = this_lane(); column < columns; column += kWarpSize) {
      if (!settled_[column]) continue;
      const PairCost slack = here.cost - nearest_[column];
      of_row_[row_at_[column]] += slack;
      of_column_[column] -= slack;
    }
    __syncwarp();
    if (this_lane() == 0) {
      int column = here.column;
      for (; before_[column] >= 0; column = before_[column]) row_at_[column] = row_at_[before_[column]];
      row_at_[column] = entering;
    }
    __syncwarp();
  }
#endif

 private:
  PairCost *of_row_, *of_column_, *nearest_;
  int *before_, *row_at_;
  bool* settled_;
};

// `munkres_assignment` of the reference: every comparison with zero is exact.
class WarpMunkres {
 public:
  EDGEPOSE_HD WarpMunkres(std::size_t most, Arena& arena)
      : cost_(arena.take<double>(most * most)),
        star_of_row_(arena.take<int>(most)),
        star_of_column_(arena.take<int>(most)),
        prime_of_row_(arena.take<int>(most)),
        row_covered_(arena.take<bool>(most)),
        column_covered_(arena.take<bool>(most)) {}

#if defined(__CUDACC__) || defined(EDGEPOSE_EMULATION)

  // The matrix to fill in, size x size, before `solve`.
  __device__ double* costs() { return cost_; }

  // The column of each row, by the square matrix's size. One warp calls it.
  __device__ const int* solve(int size) {
    n_ = size;
    reduce_rows();
    star_zeros();
    while (!all_covered()) augment();
    return star_of_row_;
  }

 private:
  __device__ double* row(int i) { return cost_ + static_cast<std::ptrdiff_t>(i) * n_; }

  // Lane l works on columns l, l + 32 and so on.
  __device__ void reduce_rows() {
    for (int i = 0; i < n_; ++i) {
      double* c = row(i);
      double least = static_cast<double>(kInfinity);
      for (int j = this_lane(); j < n_; j += kWarpSize) least = c[j] < least ? c[j] : least;
      least = warp_least(least);
      for (int j = this_lane(); j < n_; j += kWarpSize) c[j] -= least;
    }
  }

  __device__ void star_zeros() {
    for (int i = this_lane(); i < n_; i += kWarpSize) star_of_row_[i] = star_of_column_[i] = -1;
    __syncwarp();
    for (int i = 0; i < n_; ++i) {
      int first = kNoColumn;
      for (int j = this_lane(); j < n_; j += kWarpSize) {
        if (first == kNoColumn && row(i)[j] == 0 && star_of_column_[j] < 0) first = j;
      }
      first = warp_least(first);
      if (this_lane() == 0 && first != kNoColumn) {
        star_of_row_[i] = first;
        star_of_column_[first] = i;
      }
      __syncwarp();
    }
  }

  // Covers the columns that have a star and nothing else; whether that is all of them.
  __device__ bool all_covered() {
    bool all = true;
    for (int i = this_lane(); i < n_; i += kWarpSize) {
      column_covered_[i] = star_of_column_[i] >= 0;
      row_covered_[i] = false;
      prime_of_row_[i] = -1;
      all &= column_covered_[i];
    }
    __syncwarp();
    return __all_sync(kWholeWarp, all);
  }

  // The last zero of the first row that has one, rows and columns taken cyclically from a cell on.
  __device__ bool find_zero(int* at_row, int* at_column) {
    for (int step = 0; step < n_; ++step) {
      const int i = *at_row + step < n_ ? *at_row + step : *at_row + step - n_;
      if (row_covered_[i]) continue;
      int least = kNoColumn;  // the place in the order of search
      for (int j = this_lane(); j < n_; j += kWarpSize) {
        const int place = j < *at_column ? *at_column - 1 - j : *at_column + n_ - 1 - j;
        if (row(i)[j] == 0 && !column_covered_[j] && place < least) least = place;
      }
      least = warp_least(least);
      if (least == kNoColumn) continue;
      *at_row = i;
      *at_column = least < *at_column ? *at_column - 1 - least : *at_column + n_ - 1 - least;
      return true;
    }
    return false;
  }

  __device__ void shift_costs() {
    double least = kInfinity;
    for (int i = 0; i < n_; ++i) {
      if (row_covered_[i]) continue;
      for (int j = this_lane(); j < n_; j += kWarpSize) {
        if (!column_covered_[j] && row(i)[j] < least) least = row(i)[j];
      }
    }
    least = warp_least(least);
    for (int i = 0; i < n_; ++i) {
      double* c = row(i);
      for (int j = this_lane(); j < n_; j += kWarpSize) {
        if (row_covered_[i]) c[j] += least;
        if (!column_covered_[j]) c[j] -= least;
      }
    }
  }

  // Adds a star.
  __device__ void augment() {
    int i = 0, j = 0;
    while (true) {
      if (!find_zero(&i, &j)) {
        shift_costs();
        i = j = 0;
        continue;
      }
      const int star = star_of_row_[i];
      __syncwarp();  // all have read it
      if (this_lane() == 0) prime_of_row_[i] = j;
      if (star < 0) break;
      j = star;
      if (this_lane() == 0) {
        row_covered_[i] = true;
        column_covered_[j] = false;
      }
      __syncwarp();
    }
    if (this_lane() == 0) {
      while (i >= 0) {
        j = prime_of_row_[i];
        const int before = star_of_column_[j];
        star_of_row_[i] = j;
        star_of_column_[j] = i;
        i = before;
      }
    }
    __syncwarp();
  }
#endif

 private:
  int n_ = 0;
  double* cost_;
  int *star_of_row_, *star_of_column_, *prime_of_row_;
  bool *row_covered_, *column_covered_;
};

}  // namespace edgepose::cuda

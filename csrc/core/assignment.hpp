// Assignment of rows to columns at least total cost, as edgepose/kernels/reference_grouping.py specifies it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.hpp"
#include "costs.hpp"
#include "simd.hpp"

namespace edgepose::EDGEPOSE_ISA {

// `optimal_assignment` of the reference.
class ShortestPaths {
 public:
  ShortestPaths(std::size_t most_rows, std::size_t most_columns, Arena& arena)
      : of_row_(arena.take<PairCost>(most_rows)),
        of_column_(arena.take<PairCost>(most_columns)),
        nearest_(arena.take<PairCost>(most_columns)),
        before_(arena.take<int>(most_columns)),
        order_(arena.take<int>(most_columns)),
        row_at_(arena.take<int>(most_columns)) {}

  // cost(row, column); no more rows than columns. column_of: rows.
  template <class Cost>
  void solve(int rows, int columns, const Cost& cost, int* column_of) {
    for (int column = 0; column < columns; ++column) {
      of_column_[column] = 0;
      row_at_[column] = -1;
    }
    for (int row = 0; row < rows; ++row) enter(row, columns, cost);
    for (int column = 0; column < columns; ++column) {
      if (row_at_[column] >= 0) column_of[row_at_[column]] = column;
    }
  }

 private:
  template <class Cost>
  void enter(int entering, int columns, const Cost& cost) {
    for (int column = 0; column < columns; ++column) {
      nearest_[column] = cost(entering, column) - of_column_[column];
      before_[column] = -1;
      order_[column] = column;
    }
    // order_: the settled columns, then the others in ascending order
    int settled = 0, here;
    while (true) {
      int best = settled;
      for (int i = settled + 1; i < columns; ++i) {
        if (nearest_[order_[i]] < nearest_[order_[best]]) best = i;
      }
      here = order_[best];
      if (row_at_[here] < 0) break;
      for (int i = best; i > settled; --i) order_[i] = order_[i - 1];
      order_[settled++] = here;
      const int row = row_at_[here];
      const PairCost base = nearest_[here] - of_row_[row];
      for (int i = settled; i < columns; ++i) {
        const int column = order_[i];
        const PairCost length = base + cost(row, column) - of_column_[column];
        if (length < nearest_[column]) {
          nearest_[column] = length;
          before_[column] = here;
        }
      }
    }
    of_row_[entering] = nearest_[here];
    for (int i = 0; i < settled; ++i) {
      const int column = order_[i];
      const PairCost slack = nearest_[here] - nearest_[column];
      of_row_[row_at_[column]] += slack;
      of_column_[column] -= slack;
    }
    for (; before_[here] >= 0; here = before_[here]) row_at_[here] = row_at_[before_[here]];
    row_at_[here] = entering;
  }

  PairCost *of_row_, *of_column_, *nearest_;
  int *before_, *order_, *row_at_;
};

// `munkres_assignment` of the reference: every comparison with zero is exact.
class Munkres {
 public:
  Munkres(std::size_t most, Arena& arena)
      : cost_(arena.take<double>(most * most)),
        star_of_row_(arena.take<int>(most)),
        star_of_column_(arena.take<int>(most)),
        prime_of_row_(arena.take<int>(most)),
        row_covered_(arena.take<bool>(most)),
        column_covered_(arena.take<bool>(most)) {}

  // The matrix to fill in, size x size, before `solve`.
  double* costs() { return cost_; }

  // The column of each row, by the square matrix's size.
  const int* solve(int size) {
    n_ = size;
    reduce_rows();
    star_zeros();
    while (!all_covered()) augment();
    return star_of_row_;
  }

 private:
  double* row(int i) { return cost_ + static_cast<std::ptrdiff_t>(i) * n_; }

  void reduce_rows() {
    for (int i = 0; i < n_; ++i) {
      double* c = row(i);
      double least = c[0];
      for (int j = 1; j < n_; ++j) least = c[j] < least ? c[j] : least;
      for (int j = 0; j < n_; ++j) c[j] -= least;
    }
  }

  void star_zeros() {
    for (int i = 0; i < n_; ++i) star_of_row_[i] = star_of_column_[i] = -1;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) {
        if (row(i)[j] == 0 && star_of_column_[j] < 0) {
          star_of_row_[i] = j;
          star_of_column_[j] = i;
          break;
        }
      }
    }
  }

  // Covers the columns that have a star and nothing else; whether that is all of them.
  bool all_covered() {
    bool all = true;
    for (int i = 0; i < n_; ++i) {
      column_covered_[i] = star_of_column_[i] >= 0;
      row_covered_[i] = false;
      prime_of_row_[i] = -1;
      all &= column_covered_[i];
    }
    return all;
  }

  // The last zero of the first row that has one, rows and columns taken cyclically from a cell on.
  bool find_zero(int* at_row, int* at_column) {
    for (int step = 0; step < n_; ++step) {
      const int i = *at_row + step < n_ ? *at_row + step : *at_row + step - n_;
      if (row_covered_[i]) continue;
      const double* c = row(i);
      const auto zero = [&](int j) { return c[j] == 0 && !column_covered_[j]; };
      int found = -1;
      for (int j = *at_column - 1; j >= 0 && found < 0; --j) found = zero(j) ? j : -1;
      for (int j = n_ - 1; j >= *at_column && found < 0; --j) found = zero(j) ? j : -1;
      if (found < 0) continue;
      *at_row = i;
      *at_column = found;
      return true;
    }
    return false;
  }

  void shift_costs() {
    double least = kInfinity;
    for (int i = 0; i < n_; ++i) {
      const double* c = row(i);
      for (int j = 0; j < n_ && !row_covered_[i]; ++j) {
        if (!column_covered_[j] && c[j] < least) least = c[j];
      }
    }
    for (int i = 0; i < n_; ++i) {
      double* c = row(i);
      for (int j = 0; j < n_; ++j) {
        if (row_covered_[i]) c[j] += least;
        if (!column_covered_[j]) c[j] -= least;
      }
    }
  }

  // Adds a star.
  void augment() {
    int i = 0, j = 0;
    while (true) {
      if (!find_zero(&i, &j)) {
        shift_costs();
        i = j = 0;
        continue;
      }
      prime_of_row_[i] = j;
      if (star_of_row_[i] < 0) break;
      j = star_of_row_[i];
      row_covered_[i] = true;
      column_covered_[j] = false;
    }
    while (i >= 0) {
      j = prime_of_row_[i];
      const int before = star_of_column_[j];
      star_of_row_[i] = j;
      star_of_column_[j] = i;
      i = before;
    }
  }

  int n_ = 0;
  double* cost_;
  int *star_of_row_, *star_of_column_, *prime_of_row_;
  bool *row_covered_, *column_covered_;
};

}  // namespace edgepose::EDGEPOSE_ISA

#include "core/ordered_product.h"

#include <algorithm>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ordered_product.cpp"
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kDepth = 256;  // terms of one sum; see the header
// Sums of kRows rows and kVectors vectors of outputs stay in registers: 24 of 32 for AVX-512, 12 of 16 for
// AVX2.
constexpr int64_t kRows = 6;
constexpr int64_t kVectors = HWY_MAX_BYTES >= 64 ? 4 : 2;
constexpr int64_t kMaxWidth = kVectors * HWY_MAX_BYTES / static_cast<int64_t>(sizeof(float));

int64_t panel_width() { return kVectors * static_cast<int64_t>(hn::Lanes(D())); }

// Some terms of some outputs of w, [depth][panel_width()]: packed, or where they are.
struct PackedPanel {
  const float* data;
  int64_t width;
  const float* row(int64_t k) const { return data + k * width; }
};
struct PanelInPlace {
  const OrderedFactor& w;
  int64_t first, column;
  const float* row(int64_t k) const {
    const int64_t at = first + k;
    return w.matrix.row(w.channels.empty() ? at : w.channels[static_cast<size_t>(at)]) + column;
  }
};

// y rows += x rows . panel
template <int64_t kCount, class Panel>
HWY_INLINE void add_tile(const float* const* x, const Panel& panel, int64_t depth, float* const* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sums[kCount][kVectors];
  for (int64_t r = 0; r < kCount; ++r)
    for (int64_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  for (int64_t k = 0; k < depth; ++k) {
    const float* from = panel.row(k);
    V w[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) w[v] = hn::LoadU(d, from + v * lanes);
    for (int64_t r = 0; r < kCount; ++r) {
      const V factor = hn::Set(d, x[r][k]);
      for (int64_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, w[v], sums[r][v]);
    }
  }
  for (int64_t r = 0; r < kCount; ++r)
    for (int64_t v = 0; v < kVectors; ++v) {
      float* to = y[r] + v * lanes;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sums[r][v]), d, to);
    }
}

template <class Panel>
HWY_INLINE void add_tile(int64_t count, const float* const* x, const Panel& panel, int64_t depth,
                         float* const* y) {
  static_assert(kRows == 6);
  switch (count) {
    case 1:
      return add_tile<1>(x, panel, depth, y);
    case 2:
      return add_tile<2>(x, panel, depth, y);
    case 3:
      return add_tile<3>(x, panel, depth, y);
    case 4:
      return add_tile<4>(x, panel, depth, y);
    case 5:
      return add_tile<5>(x, panel, depth, y);
    default:
      return add_tile<6>(x, panel, depth, y);
  }
}

// to[k][j] = from[j][k] for 4 x 4 elements.
HWY_INLINE void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t j = 0; j < 4; ++j)
    for (int64_t k = 0; k < 4; ++k) to[k * to_stride + j] = from[j * from_stride + k];
#else
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<uint64_t, decltype(d)> pairs;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const auto c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, to + to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, to + 2 * to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, to + 3 * to_stride);
#endif
}

// panel[k][j] = matrix(n + j, k0 + k)
void pack_transposed(Matrix<const float> matrix, int64_t k0, int64_t depth, int64_t n, int64_t width,
                     int64_t full, float* panel) {
  int64_t j = 0;
  for (; j + 4 <= width; j += 4) {
    const float* from = matrix.row(n + j) + k0;
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4) transpose_block(from + k, matrix.stride, panel + k * full + j, full);
    for (; k < depth; ++k)
      for (int64_t i = 0; i < 4; ++i) panel[k * full + j + i] = from[i * matrix.stride + k];
  }
  for (; j < width; ++j)
    for (int64_t k = 0; k < depth; ++k) panel[k * full + j] = matrix.row(n + j)[k0 + k];
}

// Outputs beyond `width` are zeros.
PackedPanel pack(const OrderedFactor& w, int64_t k0, int64_t depth, int64_t n, int64_t width, float* panel) {
  const int64_t full = panel_width();
  if (width < full) std::fill_n(panel, depth * full, 0.0f);
  if (w.transposed) {
    pack_transposed(w.matrix, k0, depth, n, width, full, panel);
  } else {
    const PanelInPlace rows{w, k0, n};
    for (int64_t k = 0; k < depth; ++k) std::copy_n(rows.row(k), width, panel + k * full);
  }
  return {panel, full};
}

// How many of the terms from k on belong to one sum.
int64_t depth_from(int64_t k, int64_t terms, std::span<const int32_t> channels) {
  if (channels.empty()) return std::min(kDepth, terms - k);
  const auto rest = channels.subspan(static_cast<size_t>(k));
  const int64_t end = (rest.front() / kDepth + 1) * kDepth;
  return std::ranges::lower_bound(rest, end) - rest.begin();
}

class Product {
 public:
  Product(const Matrix<const float>& x, const OrderedFactor& w, std::span<float* const> y_rows)
      : x_(x), w_(w), y_rows_(y_rows) {}

  void add() {
    HWY_ALIGN float panel[kDepth * kMaxWidth];
    const int64_t full = panel_width();
    const bool packing_pays = w_.transposed || x_.rows > kRows;
    for (int64_t n = 0; n < w_.outputs(); n += full) {
      const int64_t width = std::min(full, w_.outputs() - n);
      for (int64_t k = 0; k < x_.cols;) {
        const int64_t depth = depth_from(k, x_.cols, w_.channels);
        if (packing_pays || width < full)
          add_panel(pack(w_, k, depth, n, width, panel), k, depth, n, width);
        else
          add_panel(PanelInPlace{w_, k, n}, k, depth, n, width);
        k += depth;
      }
    }
  }

 private:
  // All rows of y, outputs [n, n + width).
  template <class Panel>
  void add_panel(const Panel& panel, int64_t k, int64_t depth, int64_t n, int64_t width) {
    const int64_t full = panel_width();
    HWY_ALIGN float narrow[kRows * kMaxWidth];  // stands in for rows that end within the panel
    for (int64_t t = 0; t < x_.rows; t += kRows) {
      const int64_t count = std::min(kRows, x_.rows - t);
      const float* from[kRows];
      float* to[kRows];
      float* place[kRows];
      for (int64_t r = 0; r < count; ++r) {
        from[r] = x_.row(t + r) + k;
        to[r] = place[r] = y_rows_[static_cast<size_t>(t + r)] + n;
        if (width == full) continue;
        to[r] = narrow + r * full;
        std::fill(std::copy_n(place[r], width, to[r]), to[r] + full, 0.0f);
      }
      add_tile(count, from, panel, depth, to);
      for (int64_t r = 0; r < count && width < full; ++r) std::copy_n(to[r], width, place[r]);
    }
  }

  const Matrix<const float>& x_;
  const OrderedFactor& w_;
  std::span<float* const> y_rows_;
};

// Rows with few terms each: a term costs a load of its weights, which for dense rows serves several rows at
// once.
class SparseProduct {
 public:
  SparseProduct(std::span<const SparseRow> x, Matrix<const float> w, std::span<float* const> y_rows)
      : x_(x), w_(w), y_rows_(y_rows), next_(x.size(), 0), end_(x.size(), 0) {}

  void add() {
    HWY_ALIGN float panel[kDepth * kPanelFloats];
    const int64_t full = kSparseVectors * static_cast<int64_t>(hn::Lanes(D()));
    for (int64_t k = 0; k < w_.rows; k += kDepth) {
      const int64_t depth = std::min(kDepth, w_.rows - k);
      const bool packing_pays = find_terms(k + depth) > 2 * depth;
      for (int64_t n = 0; n < w_.cols; n += full) {
        const int64_t width = std::min(full, w_.cols - n);
        if (width == full && !packing_pays) {
          add_panel(w_.row(k) + n, w_.stride, k, n, full);
          continue;
        }
        if (width < full) std::fill_n(panel, depth * full, 0.0f);
        for (int64_t j = 0; j < depth; ++j) std::copy_n(w_.row(k + j) + n, width, panel + j * full);
        add_panel(panel, full, k, n, width);
      }
      next_ = end_;
    }
  }

 private:
  static constexpr int64_t kSparseVectors = 8;
  static constexpr int64_t kPanelFloats =
      kSparseVectors * HWY_MAX_BYTES / static_cast<int64_t>(sizeof(float));

  // Ends of the rows' terms below k; returns how many terms that are.
  int64_t find_terms(int64_t k) {
    int64_t terms = 0;
    for (size_t r = 0; r < x_.size(); ++r) {
      const auto rest = x_[r].channels.subspan(next_[r]);
      end_[r] = next_[r] + static_cast<size_t>(std::ranges::lower_bound(rest, k) - rest.begin());
      terms += static_cast<int64_t>(end_[r] - next_[r]);
    }
    return terms;
  }

  // All rows of y, outputs [n, n + width). panel: row j holds the weights of channel k + j.
  void add_panel(const float* panel, int64_t stride, int64_t k, int64_t n, int64_t width) {
    const D d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    HWY_ALIGN float narrow[kPanelFloats];
    for (size_t r = 0; r < x_.size(); ++r) {
      if (next_[r] == end_[r]) continue;
      V sums[kSparseVectors];
      for (int64_t v = 0; v < kSparseVectors; ++v) sums[v] = hn::Zero(d);
      for (size_t j = next_[r]; j < end_[r]; ++j) {
        const float* from = panel + (x_[r].channels[j] - k) * stride;
        const V factor = hn::Set(d, x_[r].values[j]);
        for (int64_t v = 0; v < kSparseVectors; ++v)
          sums[v] = hn::MulAdd(factor, hn::LoadU(d, from + v * lanes), sums[v]);
      }
      float* to = y_rows_[r] + n;
      if (width == kSparseVectors * lanes) {
        for (int64_t v = 0; v < kSparseVectors; ++v)
          hn::StoreU(hn::Add(hn::LoadU(d, to + v * lanes), sums[v]), d, to + v * lanes);
      } else {
        for (int64_t v = 0; v < kSparseVectors; ++v) hn::StoreU(sums[v], d, narrow + v * lanes);
        for (int64_t i = 0; i < width; ++i) to[i] += narrow[i];
      }
    }
  }

  std::span<const SparseRow> x_;
  Matrix<const float> w_;
  std::span<float* const> y_rows_;
  std::vector<size_t> next_, end_;  // of the terms of each row that the present sums take
};

void AddSparseProduct(std::span<const SparseRow> x, const Matrix<const float>& w,
                      std::span<float* const> y_rows) {
  SparseProduct(x, w, y_rows).add();
}

void AddOrderedProduct(const Matrix<const float>& x, const OrderedFactor& w, std::span<float* const> y_rows) {
  Product(x, w, y_rows).add();
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace grinqh {

HWY_EXPORT(AddOrderedProduct);
HWY_EXPORT(AddSparseProduct);

void add_ordered_product(Matrix<const float> x, const OrderedFactor& w, std::span<float* const> y_rows) {
  HWY_DYNAMIC_DISPATCH(AddOrderedProduct)(x, w, y_rows);
}

void add_ordered_product(std::span<const SparseRow> x, Matrix<const float> w,
                         std::span<float* const> y_rows) {
  HWY_DYNAMIC_DISPATCH(AddSparseProduct)(x, w, y_rows);
}

}  // namespace grinqh
#endif

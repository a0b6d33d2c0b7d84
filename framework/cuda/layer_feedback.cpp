#include "cuda/layer_feedback.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/error.h"
#include "cuda/column_feedback.h"
#include "cuda/layer_nested.h"
#include "cuda/memory.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kSlabWeights = int64_t{1} << 28;
constexpr int64_t kSlabRows = int64_t{1} << 18;

template <class T>
Matrix<const T> row_of(std::span<const T> values) {
  return {values.data(), 1, static_cast<int64_t>(values.size())};
}

// Slabs of rows, and what all of them share.
class Layer {
 public:
  Layer(const FeedbackTask& task, const float* weight, Solver& solver, Transfers& transfers, Stream stream)
      : task_(task),
        weight_(weight),
        solver_(solver),
        transfers_(transfers),
        stream_(stream),
        in_(task.weight.cols),
        slab_rows_(std::min({kSlabRows, std::max<int64_t>(1, kSlabWeights / in_), task.weight.rows})),
        upper_(moved<float>(task.factor.upper.view())),
        drift_(moved<float>(task.options.drift)),
        current_(slab_rows_ * in_, stream),
        errors_(slab_rows_ * kFeedbackColumns, stream),
        codes_(slab_rows_ * in_, stream) {}

  void round(const AffineRounding& rounding) {
    const int64_t groups = rounding.grids.cols;
    const bool snapshots = rounding.fit && task_.options.block > kFeedbackColumns;
    const Array<float> snapshot(snapshots ? slab_rows_ * in_ : 0, stream_);
    const Array<int64_t> inputs = moved(row_of(rounding.inputs));
    const Array<AffineGrid> grids(slab_rows_ * groups, stream_);
    const Array<uint32_t> too_large(1, stream_);
    fill_zero(too_large.data(), sizeof(uint32_t), stream_);
    const float* fit_to = !rounding.fit ? nullptr : snapshots ? snapshot.data() : current_.data();
    const AffineColumns columns{rounding.rule.plain(), rounding.group, groups,       fit_to,
                                inputs.data(),         codes_.data(),  grids.data(), too_large.data()};
    for_slabs([&](int64_t begin, int64_t end) {
      const Matrix<AffineGrid> here = rounding.grids.rows_between(begin, end);
      if (!rounding.fit) transfers_.upload<AffineGrid>(here, grids.data(), stream_);
      walk(end - begin, columns, snapshot.data());
      uint32_t refused = 0;
      to_host(too_large.data(), &refused, sizeof(refused), stream_);
      if (refused) refuse_scale(rounding.layer, std::bit_cast<float>(refused));
      transfers_.download(codes_.data(), rounding.codes.rows_between(begin, end), stream_);
      if (rounding.fit) transfers_.download(grids.data(), here, stream_);
    });
  }

  void round(const NestedRounding& rounding) {
    const Array<uint16_t> scales = moved(row_of(rounding.scales)), minima = moved(row_of(rounding.minima));
    const Array<float> positions = moved(rounding.positions), shares = moved(rounding.shares);
    NestedColumns columns{places_of(rounding, scales.data(), minima.data()), positions.data(), shares.data(),
                          static_cast<int>(rounding.positions.rows), codes_.data()};
    LayerPrefixes prefixes(rounding, rounding.sums, transfers_, stream_);
    for_slabs([&](int64_t begin, int64_t end) {
      columns.places.first_row = begin;
      walk(end - begin, columns, nullptr);
      prefixes.add(current_.data(), begin, end - begin, in_);
      transfers_.download(codes_.data(), rounding.codes.rows_between(begin, end), stream_);
      if (!rounding.compensated.empty())
        transfers_.download(current_.data(), rounding.compensated.rows_between(begin, end), stream_);
    });
  }

  void round(const HostRounding&) { check(false, "a callback rounds on the host"); }

 private:
  template <class T>
  Array<T> moved(Matrix<const T> from) const {
    Array<T> to(from.rows * from.cols, stream_);
    transfers_.upload(from, to.data(), stream_);
    return to;
  }

  template <class Body>
  void for_slabs(const Body& body) {
    for (int64_t begin = 0; begin < task_.weight.rows; begin += slab_rows_) {
      const int64_t end = std::min(begin + slab_rows_, task_.weight.rows);
      check_call(cudaMemcpyAsync(current_.data(), weight_ + begin * in_,
                                 static_cast<size_t>((end - begin) * in_) * sizeof(float),
                                 cudaMemcpyDeviceToDevice, stream_),
                 "cudaMemcpyAsync on the device");
      body(begin, end);
    }
  }

  View current(int64_t rows, int64_t begin, int64_t end) const {
    return View{current_.data(), rows, in_, in_, Type::f32}.cols_between(begin, end);
  }
  // Rows of a matrix of pairs of columns, right of the block.
  ConstView later(const Array<float>& pairs, int64_t first, int64_t last) const {
    const View all{pairs.data(), in_, in_, in_, Type::f32};
    return all.rows_between(first, last).cols_between(last, in_);
  }

  // All columns of a slab. snapshot: gets the weights as they are when a block begins, or null.
  template <class Columns>
  void walk(int64_t rows, const Columns& columns, float* snapshot) {
    const int64_t block = task_.options.block;
    for (int64_t first = 0; first < in_; first += block) {
      if (snapshot)
        check_call(cudaMemcpyAsync(snapshot, current_.data(), static_cast<size_t>(rows * in_) * sizeof(float),
                                   cudaMemcpyDeviceToDevice, stream_),
                   "cudaMemcpyAsync on the device");
      const int64_t last = std::min(first + block, in_);
      for (int64_t begin = first; begin < last; begin += kFeedbackColumns)
        round_columns(rows, begin, std::min(begin + kFeedbackColumns, last), columns);
    }
  }

  template <class Columns>
  void round_columns(int64_t rows, int64_t begin, int64_t end, const Columns& columns) {
    round_block({rows, in_, begin, static_cast<int>(end - begin), current_.data(), upper_.data(),
                 drift_.data(), errors_.data()},
                columns, stream_);
    if (end == in_) return;
    const View rest = current(rows, end, in_);
    const ConstView errors{errors_.data(), rows, end - begin, kFeedbackColumns, Type::f32};
    solver_.multiply(errors, false, later(upper_, begin, end), false, rest, -1.0f, 1.0f);
    if (drift_.count() > 0)
      solver_.multiply(current(rows, begin, end), false, later(drift_, begin, end), false, rest, 1.0f, 1.0f);
  }

  const FeedbackTask& task_;
  const float* weight_;  // [rows, in]
  Solver& solver_;
  Transfers& transfers_;
  Stream stream_;
  int64_t in_, slab_rows_;
  Array<float> upper_, drift_;     // [in, in]
  Array<float> current_, errors_;  // [slab_rows, in], [slab_rows, kFeedbackColumns]
  Array<uint8_t> codes_;           // [slab_rows, in]
};

}  // namespace

void round_layer(const FeedbackTask& task, const float* weight, Solver& solver, Transfers& transfers,
                 Stream stream) {
  if (task.weight.empty()) return;
  Layer layer(task, weight, solver, transfers, stream);
  std::visit([&](const auto& rounding) { layer.round(rounding); }, task.rounding);
}

}  // namespace grinqh::cuda

#include "quant/live_layer.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

int64_t source(InputOrder order, int64_t place) {
  return order.empty() ? place : order[static_cast<size_t>(place)];
}

void pick_row(const float* from, InputOrder order, int64_t count, float* to) {
  if (order.empty()) {
    std::copy_n(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[order[static_cast<size_t>(i)]];
  }
}

}  // namespace

MatrixBuffer<float> pick_columns(Matrix<const float> from, InputOrder order) {
  MatrixBuffer<float> to(from.rows, from.cols);
  parallel_for(from.rows, [&](int64_t r) { pick_row(from.row(r), order, from.cols, to.row(r)); });
  return to;
}

MatrixBuffer<float> pick_pairs(Matrix<const float> from, InputOrder order) {
  MatrixBuffer<float> to(from.rows, from.cols);
  parallel_for(from.rows,
               [&](int64_t i) { pick_row(from.row(source(order, i)), order, from.cols, to.row(i)); });
  return to;
}

MatrixBuffer<float> live_moments(std::span<const float> second_moment, int64_t in, InputOrder order) {
  check(static_cast<int64_t>(second_moment.size()) == in * in, "second moments of the layer's inputs");
  MatrixBuffer<float> moments = pick_pairs({second_moment.data(), in, in}, order);
  for (int64_t i = 0; i < in; ++i)
    if (moments.row(i)[i] == 0) moments.row(i)[i] = 1;
  return moments;
}

std::shared_ptr<const InverseFactor> live_factor(const LayerStats& stats, std::string_view statistic,
                                                 int64_t in, double damping) {
  return stats.derive<InverseFactor>(statistic, fmt::format("inverse factor, damping {}", damping), [&] {
    return inverse_cholesky(live_moments(stats.at(statistic), in), damping);
  });
}

Matrix<const float> live_weight(Matrix<const float> weight, std::span<const float> second_moment,
                                InputOrder order, MatrixBuffer<float>& storage) {
  const int64_t in = weight.cols;
  std::vector<int64_t> dead;
  for (int64_t i = 0; i < in; ++i)
    if (second_moment[static_cast<size_t>(source(order, i) * (in + 1))] == 0) dead.push_back(i);
  if (dead.empty() && order.empty()) return weight;
  storage = pick_columns(weight, order);
  for (int64_t r = 0; r < weight.rows; ++r)
    for (const int64_t i : dead) storage.row(r)[i] = 0;
  return storage;
}

LiveLayer live_layer(Matrix<const float> weight, std::span<const float> second_moment, InputOrder order) {
  LiveLayer layer;
  const Matrix<const float> live = live_weight(weight, second_moment, order, layer.weight);
  if (layer.weight.size() == 0) layer.weight = pick_columns(live, {});
  layer.moments = live_moments(second_moment, weight.cols, order);
  return layer;
}

}  // namespace grinqh

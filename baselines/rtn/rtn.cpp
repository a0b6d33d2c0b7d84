// Round to nearest: each group of consecutive inputs of a row gets its own affine grid. The grid is the one
// of the GPTQ authors' quantizer: asymmetric ranges always include zero, zero points are integers.
#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"
#include "kernels/group_affine/layout.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

struct Grid {
  uint16_t scale;  // float16, as it is stored
  uint8_t zero;
};

class Rtn final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    bool symmetric = false;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("symmetric", symmetric, "no zero points: the range is centred on zero");
    }
  };

  explicit Rtn(Options options) : options_(options) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    const GroupAffineShape shape{w.rows, w.cols, options_.bits, options_.group, options_.symmetric};
    MatrixBuffer<uint8_t> codes(w.rows, w.cols), zeros(w.rows, shape.groups());
    MatrixBuffer<uint16_t> scales(w.rows, shape.groups());
    parallel_for(w.rows, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const int64_t begin = g * shape.group_size(), end = std::min(begin + shape.group_size(), w.cols);
        const std::span group =
            w.row_span(row).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
        const Grid grid = find_grid(group, task.id);
        scales.row(row)[g] = grid.scale;
        zeros.row(row)[g] = grid.zero;
        for (int64_t i = begin; i < end; ++i) codes.row(row)[i] = round_to(w(row, i), grid);
      }
    });
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros);
  }

 private:
  int top_code() const { return (1 << options_.bits) - 1; }

  Grid find_grid(std::span<const float> group, const std::string& layer) const {
    const auto [lowest, highest] = std::ranges::minmax(group);
    float low = std::min(lowest, 0.0f), high = std::max(highest, 0.0f);
    if (options_.symmetric) {
      high = std::max(-low, high);
      low = -high;
    }
    if (low == 0 && high == 0) low = -1, high = 1;
    const float exact = (high - low) / static_cast<float>(top_code());
    // Below the smallest float16 a scale would vanish; such weights all round to zero.
    const uint16_t scale = std::max<uint16_t>(to_half(exact), 1);
    if (!std::isfinite(from_half(scale)))
      bad_input("{}: a scale of {} does not fit into float16", layer, exact);
    if (options_.symmetric) return {scale, static_cast<uint8_t>(1 << (options_.bits - 1))};
    const float zero = std::nearbyint(-low / from_half(scale));
    return {scale, static_cast<uint8_t>(std::clamp(zero, 0.0f, static_cast<float>(top_code())))};
  }

  uint8_t round_to(float value, Grid grid) const {
    const float code = std::nearbyint(value / from_half(grid.scale)) + static_cast<float>(grid.zero);
    return static_cast<uint8_t>(std::clamp(code, 0.0f, static_cast<float>(top_code())));
  }

  Options options_;
};

const Register<Quantizer, Rtn> plugin{"rtn", "round to nearest, group-wise affine"};

}  // namespace
}  // namespace grinqh

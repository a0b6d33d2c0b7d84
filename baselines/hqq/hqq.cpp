// HQQ (Badri and Shaji): affine grids whose real-valued zero points are found by half-quadratic splitting of
// a sparse norm of the error, without any data.
#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"
#include "kernels/group_affine/layout.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

constexpr float kSmallestScale = 1.0f / 2e4f;  // the authors' bound
constexpr float kLargestZero = 6e4f;           // float16 ends at 65504

// weight = scale (code - zero), both float16 as they are stored.
struct Grid {
  uint16_t scale, zero;
};

class Hqq final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 64;
    int iterations = 20;
    double norm = 0.7, beta = 10.0;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20},
        "consecutive inputs that share a scale and a zero point; 0: per output channel");
      v("iterations", iterations, Range{0, 1000}, "most improvements of a zero point; 0: the range's own");
      v("norm", norm, Range{0.01, 1}, "p of the l_p norm of the error");
      v("beta", beta, Range{1e-6, 1e6}, "weight of the quadratic term, for weights as they are");
    }
  };

  explicit Hqq(Options options) : options_(options) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    GroupAffineShape shape{w.rows, w.cols, options_.bits, options_.group};
    shape.real_zeros = true;
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    MatrixBuffer<uint16_t> scales(w.rows, shape.groups()), zeros(w.rows, shape.groups());
    parallel_for(w.rows, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const std::span<const float> group = shape.group_of(w.row_span(row), g);
        Grid grid = of_range(group, task.id);
        improve(group, grid);
        scales.row(row)[g] = grid.scale;
        zeros.row(row)[g] = grid.zero;
        uint8_t* to = codes.row(row) + g * shape.group_size();
        for (const float value : group) *to++ = static_cast<uint8_t>(code_of(value, grid));
      }
    });
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros.view());
  }

 private:
  float top_code() const { return static_cast<float>((1 << options_.bits) - 1); }

  float code_of(float value, const Grid& grid) const {
    return std::clamp(std::nearbyint(value / from_half(grid.scale) + from_half(grid.zero)), 0.0f, top_code());
  }

  // From the least to the greatest weight; zero need not be among them.
  Grid of_range(std::span<const float> group, const std::string& layer) const {
    const auto [low, high] = std::ranges::minmax(group);
    const float exact = std::max({(high - low) / top_code(), std::abs(low) / kLargestZero, kSmallestScale});
    const uint16_t scale = to_half(exact);
    if (!std::isfinite(from_half(scale)))
      bad_input("{}: a scale of {} does not fit into float16", layer, exact);
    return {scale, to_half(-low / from_half(scale))};
  }

  double mean_error(std::span<const float> group, const Grid& grid) const {
    const float scale = from_half(grid.scale), zero = from_half(grid.zero);
    double sum = 0;
    for (const float value : group)
      sum += static_cast<double>(std::abs(value - scale * (code_of(value, grid) - zero)));
    return sum / static_cast<double>(group.size());
  }

  // Proximal operator of the l_p norm, p <= 1, as the authors approximate it.
  float shrink(float error) const {
    const auto p = static_cast<float>(options_.norm), beta = static_cast<float>(options_.beta);
    const float size = std::abs(error);
    return size == 0 ? 0.0f : std::copysign(std::max(size - std::pow(size, p - 1.0f) / beta, 0.0f), error);
  }

  // Alternates between the error's sparse part e and the zero point that fits W - e best for the codes, as
  // long as the mean error falls.
  void improve(std::span<const float> group, Grid& grid) const {
    const float scale = from_half(grid.scale);
    double least = mean_error(group, grid);
    for (int i = 0; i < options_.iterations; ++i) {
      const float zero = from_half(grid.zero);
      double sum = 0;
      for (const float value : group) {
        const float code = code_of(value, grid);
        const float sparse = shrink(value - scale * (code - zero));
        sum += static_cast<double>(code - (value - sparse) / scale);
      }
      const Grid next{grid.scale, to_half(static_cast<float>(sum / static_cast<double>(group.size())))};
      const double error = mean_error(group, next);
      if (!(error < least)) return;
      least = error;
      grid = next;
    }
  }

  Options options_;
};

const Register<Quantizer, Hqq> plugin{"hqq", "real-valued zero points by half-quadratic splitting, no data"};

}  // namespace
}  // namespace grinqh

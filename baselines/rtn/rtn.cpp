// Round to nearest: each group of consecutive inputs of a row gets its own affine grid.
#include "core/parallel.h"
#include "kernels/group_affine/layout.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

class Rtn final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    int64_t group = 128;
    bool symmetric = false;
    ClipSearch clip;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code");
      v("group", group, Range{0, 1 << 20}, "consecutive inputs that share a scale; 0: per output channel");
      v("symmetric", symmetric, "no zero points: the range is centred on zero");
      clip.fields(v);
    }
  };

  explicit Rtn(Options options) : options_(options) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Matrix<const float> w = task.weight;
    const GroupAffineShape shape{w.rows, w.cols, options_.bits, options_.group, options_.symmetric};
    const AffineGridRule rule{options_.bits, options_.symmetric, options_.clip};
    MatrixBuffer<uint8_t> codes(w.rows, w.cols);
    MatrixBuffer<AffineGrid> grids(w.rows, shape.groups());
    parallel_for(w.rows, [&](int64_t row) {
      for (int64_t g = 0; g < shape.groups(); ++g) {
        const std::span<const float> group = shape.group_of(w.row_span(row), g);
        grids.row(row)[g] = rule.fit(group, task.id);
        rule.round(group, grids.row(row)[g], codes.row(row) + g * shape.group_size());
      }
    });
    return make_group_affine(shape, codes, grids);
  }

 private:
  Options options_;
};

const Register<Quantizer, Rtn> plugin{"rtn", "round to nearest, group-wise affine"};

}  // namespace
}  // namespace grinqh

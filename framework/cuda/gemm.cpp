#include "cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "cuda/memory.h"
#include "cuda/ops.h"

namespace grinqh::cuda {

namespace {

constexpr size_t kWorkspace = size_t{64} << 20;

// Products below this take the library's first choice, as do those so large that a trial costs more than it
// can win; between, the choices are timed once.
constexpr double kFlopsWorthTiming = 5e10, kFlopsTooManyToTime = 2.5e12;
constexpr int64_t kRowsWorthTiming = 4096;  // whole batches; what is left at a text's end comes once
constexpr int kCandidates = 6;

void check_blas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("cuBLASLt: {}: {}", call, cublasLtGetStatusString(status));
}

cudaDataType_t data_type(Type type) { return type == Type::f32 ? CUDA_R_32F : CUDA_R_16BF; }

template <class T, cublasStatus_t (*destroy)(T)>
struct Destroy {
  void operator()(T handle) const { destroy(handle); }
};
template <class T, cublasStatus_t (*destroy)(T)>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy<T, destroy>>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// The greatest power of two up to 256 that divides an address: kernels are chosen by it.
uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

// A product as cuBLASLt sees it. It counts columns first, so that a row-major y = a b is its y^T = b^T a^T:
// `first` is the operand whose index becomes the column of y, and a matrix stored as [K, .] is transposed
// for the second operand, not for the first.
struct Product {
  ConstView first, second;
  bool first_by_k, second_by_k;  // whether rows of the stored matrix are the summed index
  int64_t m, n, k;               // columns of y, rows of y, summed index
  View y;
  float alpha, beta;

  auto key() const {
    return std::tuple(m, n, k, first_by_k, second_by_k, first.type, y.type, first.stride, second.stride,
                      y.stride, beta == 0, alignment(first.data), alignment(second.data), alignment(y.data));
  }
  double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};

Layout make_layout(const ConstView& v) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_blas(cublasLtMatrixLayoutCreate(&layout, data_type(v.type), static_cast<uint64_t>(v.cols),
                                        static_cast<uint64_t>(v.rows), v.stride),
             "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

// Everything that a call needs beside the pointers; made once a shape.
struct Recipe {
  Operation operation;
  Layout first, second, y;
  cublasLtMatmulAlgo_t algorithm;
};

class Stopwatch {
 public:
  Stopwatch() {
    check_call(cudaEventCreate(&begin_), "cudaEventCreate");
    check_call(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <class Body>
  float milliseconds(Stream stream, const Body& body) {
    check_call(cudaEventRecord(begin_, stream), "cudaEventRecord");
    body();
    check_call(cudaEventRecord(end_, stream), "cudaEventRecord");
    check_call(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float elapsed = 0;
    check_call(cudaEventElapsedTime(&elapsed, begin_, end_), "cudaEventElapsedTime");
    return elapsed;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

struct Gemm::State {
  cublasLtHandle_t handle = nullptr;
  Bytes workspace{static_cast<int64_t>(kWorkspace)};
  std::map<decltype(Product().key()), Recipe> recipes;

  State() {
    check_call(cudaStreamSynchronize(nullptr), "the workspace of products");  // other streams will use it
    check_blas(cublasLtCreate(&handle), "cublasLtCreate");
  }
  ~State() { cublasLtDestroy(handle); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void run(const Product& product, Stream stream) {
    if (product.m == 0 || product.n == 0) return;
    if (product.k == 0) return scale_only(product, stream);
    if (product.first.type == Type::f32 && product.y.type == Type::bf16) return run_rounded(product, stream);
    const auto [at, added] = recipes.try_emplace(product.key());
    if (added) {
      try {
        prepare(product, at->second, stream);
      } catch (...) {
        recipes.erase(at);
        throw;
      }
    }
    launch(product, at->second, at->second.algorithm, product.y.data, stream);
  }

 private:
  // An empty sum: y = beta y.
  static void scale_only(const Product& product, Stream stream) {
    check(product.beta == 0 || product.beta == 1, "a product over nothing scales by 0 or 1");
    if (product.beta == 1) return;
    const View& y = product.y;
    const auto size = static_cast<size_t>(size_of(y.type));
    check_call(cudaMemset2DAsync(y.data, static_cast<size_t>(y.stride) * size, 0,
                                 static_cast<size_t>(y.cols) * size, static_cast<size_t>(y.rows), stream),
               "cudaMemset2DAsync");
  }

  // cuBLASLt has no f32 product with a bf16 result.
  void run_rounded(const Product& product, Stream stream) {
    const int64_t stride = (product.y.cols + 3) / 4 * 4;
    const Array<float> exact(product.y.rows * stride, stream);
    Product inner = product;
    inner.y = {exact.data(), product.y.rows, product.y.cols, stride, Type::f32};
    if (product.beta != 0) copy(product.y, inner.y, stream);
    run(inner, stream);
    copy(inner.y, product.y, stream);
  }

  void launch(const Product& product, const Recipe& recipe, const cublasLtMatmulAlgo_t& algorithm, void* out,
              Stream stream) {
    check_blas(
        cublasLtMatmul(handle, recipe.operation.get(), &product.alpha, product.first.data, recipe.first.get(),
                       product.second.data, recipe.second.get(), &product.beta, product.y.data,
                       recipe.y.get(), out, recipe.y.get(), &algorithm, workspace.data(), kWorkspace, stream),
        "cublasLtMatmul");
  }

  void prepare(const Product& product, Recipe& recipe, Stream stream) {
    // CUBLAS_COMPUTE_32F: float32 products for f32 (TF32 is another compute type), float32 sums for bf16.
    cublasLtMatmulDesc_t operation = nullptr;
    check_blas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    recipe.operation.reset(operation);
    const auto set_transposed = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
      const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      check_blas(cublasLtMatmulDescSetAttribute(operation, which, &op, sizeof(op)),
                 "cublasLtMatmulDescSetAttribute");
    };
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, !product.first_by_k);
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, product.second_by_k);
    recipe.first = make_layout(product.first);
    recipe.second = make_layout(product.second);
    recipe.y = make_layout(product.y);
    const std::vector<cublasLtMatmulHeuristicResult_t> found = candidates(product, recipe);
    recipe.algorithm = found.front().algo;
    const bool worth = product.flops() >= kFlopsWorthTiming && product.flops() <= kFlopsTooManyToTime;
    if (worth && product.n % kRowsWorthTiming == 0 && found.size() > 1)
      recipe.algorithm = fastest(product, recipe, found, stream);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Product& product, const Recipe& recipe) {
    cublasLtMatmulPreference_t raw = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&raw), "cublasLtMatmulPreferenceCreate");
    const Preference preference(raw);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      check_blas(cublasLtMatmulPreferenceSetAttribute(raw, which, &value, sizeof(value)),
                 "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(product.first.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(product.second.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(product.y.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(product.y.data));
    // Where the choice is timed it may differ from run to run, the bits of the result must not: sums in one
    // piece, in the order of K. Elsewhere sums may be cut, but parts are added in float32, not in y's type.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, product.flops() >= kFlopsWorthTiming
                                                        ? uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE}
                                                        : uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, recipe.operation.get(), recipe.first.get(), recipe.second.get(), recipe.y.get(),
        recipe.y.get(), raw, kCandidates, found.data(), &count);
    found.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<size_t>(count) : 0);
    std::erase_if(found, [](const auto& each) { return each.state != CUBLAS_STATUS_SUCCESS; });
    if (found.empty())
      fail("cuBLASLt: no algorithm for a product of {} x {} x {} ({})", product.n, product.m, product.k,
           cublasLtGetStatusString(status));
    return found;
  }

  // Waits for the stream. With beta the trials write elsewhere, so that y stays what it was; where memory
  // does not allow for that, the first choice holds.
  cublasLtMatmulAlgo_t fastest(const Product& product, const Recipe& recipe,
                               const std::vector<cublasLtMatmulHeuristicResult_t>& found, Stream stream) {
    Bytes scratch;
    void* out = product.y.data;
    if (product.beta != 0) {
      const int64_t size = product.y.rows * product.y.stride * size_of(product.y.type);
      if (size > memory_state().free / 2) return found.front().algo;
      scratch = Bytes(size, stream);
      out = scratch.data();
    }
    // Clocks wander under load: each choice is timed beside the first, and has to beat it every time.
    constexpr double kFlopsOfATrial = 1.2e12;
    constexpr int kRounds = 3;
    constexpr float kWorthwhile = 0.97f;
    const int repeats = static_cast<int>(std::clamp(kFlopsOfATrial / product.flops(), 1.0, 20.0));
    Stopwatch watch;
    const auto time = [&](const cublasLtMatmulAlgo_t& algorithm) {
      return watch.milliseconds(stream, [&] {
        for (int i = 0; i < repeats; ++i) launch(product, recipe, algorithm, out, stream);
      });
    };
    for (const auto& each : found) launch(product, recipe, each.algo, out, stream);  // loads their code
    const cublasLtMatmulAlgo_t& first = found.front().algo;
    cublasLtMatmulAlgo_t best = first;
    float least = kWorthwhile;
    for (size_t i = 1; i < found.size(); ++i) {
      float worst = 0;
      for (int round = 0; round < kRounds; ++round) {
        const float yardstick = time(first);
        worst = std::max(worst, time(found[i].algo) / yardstick);
        if (worst >= least) break;
      }
      if (worst < least) least = worst, best = found[i].algo;
    }
    return best;
  }
};

Gemm::Gemm() : state_(std::make_unique<State>()) {}
Gemm::~Gemm() = default;

void Gemm::nt(ConstView x, ConstView w, View y, float alpha, float beta, Stream stream) {
  check(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows && x.type == w.type, "Gemm::nt: shapes");
  state_->run({w, x, false, false, w.rows, x.rows, x.cols, y, alpha, beta}, stream);
}

void Gemm::nn(ConstView x, ConstView w, View y, float alpha, float beta, Stream stream) {
  check(x.cols == w.rows && y.rows == x.rows && y.cols == w.cols && x.type == w.type, "Gemm::nn: shapes");
  state_->run({w, x, true, false, w.cols, x.rows, x.cols, y, alpha, beta}, stream);
}

void Gemm::tn(ConstView a, ConstView b, View y, float alpha, float beta, Stream stream) {
  check(a.rows == b.rows && y.rows == a.cols && y.cols == b.cols && a.type == b.type, "Gemm::tn: shapes");
  state_->run({b, a, true, true, b.cols, a.cols, a.rows, y, alpha, beta}, stream);
}

}  // namespace grinqh::cuda

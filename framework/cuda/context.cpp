#include "cuda/context.h"

#include "core/error.h"
#include "cuda/ops.h"

namespace grinqh::cuda {

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::string device_description(int index) {
  cudaDeviceProp properties;
  check_call(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  int driver = 0, runtime = 0;
  check_call(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_call(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const auto version = [](int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); };
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}, driver for CUDA {}, runtime {}",
                     properties.name, static_cast<double>(properties.totalGlobalMem) / (1 << 30),
                     properties.major, properties.minor, version(driver), version(runtime));
}

Context::Context(const DeviceChoice& choice) : choice_(choice) {
  check_call(cudaSetDevice(choice.index), "cudaSetDevice");
  check_call(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  // Freed memory stays in the pool: activations of the same sizes come again with every block.
  cudaMemPool_t pool = nullptr;
  check_call(cudaDeviceGetDefaultMemPool(&pool, choice.index), "cudaDeviceGetDefaultMemPool");
  uint64_t everything = ~uint64_t{0};
  check_call(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &everything),
             "cudaMemPoolSetAttribute");
  gemm_ = std::make_unique<Gemm>();
  transfers_ = std::make_unique<Transfers>();
}

Context::~Context() {
  cudaStreamSynchronize(stream_);
  gemm_.reset();
  transfers_.reset();
  cudaStreamDestroy(stream_);
}

void Context::synchronize() const { check_call(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

Tensor Context::tensor(int64_t rows, int64_t cols, Type type) const {
  const int64_t stride = padded(cols);
  auto owner = std::make_shared<Bytes>(rows * stride * size_of(type), stream_);
  const View whole{owner->data(), rows, cols, stride, type};
  return Tensor(std::move(owner), activations(whole));
}

void Context::copy(ConstActivations from, Activations to) const {
  check(from.rows == to.rows && from.cols == to.cols, "a copy of the same shape");
  if (from.empty()) return;
  const auto copy_2d = [&](const void* source, int64_t source_stride, void* target, int64_t target_stride,
                           cudaMemcpyKind kind) {
    check_call(cudaMemcpy2DAsync(target, static_cast<size_t>(target_stride) * sizeof(float), source,
                                 static_cast<size_t>(source_stride) * sizeof(float),
                                 static_cast<size_t>(from.cols) * sizeof(float),
                                 static_cast<size_t>(from.rows), kind, stream_),
               "cudaMemcpy2DAsync");
    if (kind != cudaMemcpyDeviceToDevice) synchronize();
  };
  if (from.device == Device::cuda && to.device == Device::cuda) {
    cuda::copy(view(from), view(to), stream_);
  } else if (from.device == Device::cuda) {
    Bytes storage;
    const ConstView source = in_type(*this, view(from), Type::f32, storage);
    const Matrix<float> target = to.matrix();
    copy_2d(source.data, source.stride, target.data, target.stride, cudaMemcpyDeviceToHost);
  } else {
    const Matrix<const float> source = from.matrix();
    const View target = view(to);
    if (target.type == Type::f32)
      return copy_2d(source.data, source.stride, target.data, target.stride, cudaMemcpyHostToDevice);
    const Tensor staged = tensor(from.rows, from.cols, Type::f32);
    const View part = view(staged.view());
    copy_2d(source.data, source.stride, part.data, part.stride, cudaMemcpyHostToDevice);
    cuda::copy(part, target, stream_);
  }
}

namespace {

template <class V, class A>
V view_of(const A& x) {
  check(x.device == Device::cuda, "activations on a CUDA device");
  return {x.data, x.rows, x.cols, x.stride, x.type == DType::f32 ? Type::f32 : Type::bf16};
}

}  // namespace

View view(Activations x) { return view_of<View>(x); }
ConstView view(ConstActivations x) { return view_of<ConstView>(x); }

Activations activations(View x) {
  return {x.data, x.rows, x.cols, x.stride, x.type == Type::f32 ? DType::f32 : DType::bf16, Device::cuda};
}

ConstView in_type(const Context& context, ConstView x, Type type, Bytes& storage) {
  if (x.type == type) return x;
  const int64_t stride = padded(x.cols);
  storage = context.bytes(x.rows * stride * size_of(type));
  const View converted{storage.data(), x.rows, x.cols, stride, type};
  cuda::copy(x, converted, context.stream());
  return converted;
}

}  // namespace grinqh::cuda

#include "cuda/graph_timer.h"

#include <algorithm>

namespace grinqh::cuda {

namespace {

constexpr int kWarmReplays = 3;
constexpr int64_t kPool = int64_t{1} << 29;  // ten times the L2 of an H100
constexpr int64_t kMostCopies = 512;

// The capture ends, and events and graphs go, whatever throws.
class Graph {
 public:
  Graph(int64_t calls, const std::function<void(int64_t)>& call, Stream stream) {
    check_call(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    try {
      for (int64_t i = 0; i < calls; ++i) call(i);
    } catch (...) {
      cudaStreamEndCapture(stream, &graph_);
      if (graph_) cudaGraphDestroy(graph_);
      cudaGetLastError();
      throw;
    }
    check_call(cudaStreamEndCapture(stream, &graph_), "cudaStreamEndCapture");
    check_call(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
    check_call(cudaEventCreate(&begin_), "cudaEventCreate");
    check_call(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Graph() {
    if (begin_) cudaEventDestroy(begin_);
    if (end_) cudaEventDestroy(end_);
    if (executable_) cudaGraphExecDestroy(executable_);
    if (graph_) cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  double replay(Stream stream) const {
    check_call(cudaEventRecord(begin_, stream), "cudaEventRecord");
    check_call(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch");
    check_call(cudaEventRecord(end_, stream), "cudaEventRecord");
    check_call(cudaEventSynchronize(end_), "a replay of timed calls");
    float milliseconds = 0;
    check_call(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) * 1e3;
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

std::vector<double> time_in_graph(int64_t calls, const std::function<void(int64_t)>& call, int repetitions,
                                  Stream stream) {
  check_call(cudaStreamSynchronize(stream), "what came before timed calls");
  const Graph graph(calls, call, stream);
  for (int i = 0; i < kWarmReplays; ++i) graph.replay(stream);
  std::vector<double> samples;
  for (int i = 0; i < repetitions; ++i) samples.push_back(graph.replay(stream) / static_cast<double>(calls));
  return samples;
}

int64_t copies_beyond_caches(int64_t bytes) {
  return std::clamp<int64_t>((kPool + bytes - 1) / std::max<int64_t>(bytes, 1), 2, kMostCopies);
}

int64_t calls_in_graph(int64_t copies, int64_t bytes) {
  constexpr double kGraph = 1500, kBytes = 3e6, kLaunch = 1;  // about, in microseconds and bytes each
  const double round = static_cast<double>(copies) * (static_cast<double>(bytes) / kBytes + kLaunch);
  return copies * std::max<int64_t>(1, static_cast<int64_t>(kGraph / round));
}

}  // namespace grinqh::cuda

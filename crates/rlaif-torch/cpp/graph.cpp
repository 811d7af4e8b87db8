// CUDA graphs: a stretch of work on the GPU recorded once and replayed with one call.
//
// This layer is built against a libtorch without CUDA, and its headers need CUDA's. The class itself,
// at::cuda::CUDAGraph, lies in libtorch_cuda, which `rlaif_cuda_load` has opened, so its functions
// are looked up there by name, and its object lives in memory that is larger than it has ever been.
// Streams come through libtorch's device-generic interface.
#include "common.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <optional>
#include <utility>

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace {

using Pool = std::pair<unsigned long long, unsigned long long>;

struct Api {
  void (*construct)(void*, bool);
  void (*destroy)(void*);
  void (*begin)(void*, Pool, int);
  void (*end)(void*);
  void (*replay)(void*);
};

std::optional<Api> find_api() {
#ifdef __linux__
  const auto symbol = [](const char* name) { return dlsym(RTLD_DEFAULT, name); };
  void* construct = symbol("_ZN2at4cuda9CUDAGraphC1Eb");
  void* destroy = symbol("_ZN2at4cuda9CUDAGraphD1Ev");
  void* begin = symbol("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
  void* end = symbol("_ZN2at4cuda9CUDAGraph11capture_endEv");
  void* replay = symbol("_ZN2at4cuda9CUDAGraph6replayEv");
  if (construct && destroy && begin && end && replay) {
    return Api{reinterpret_cast<void (*)(void*, bool)>(construct),
               reinterpret_cast<void (*)(void*)>(destroy),
               reinterpret_cast<void (*)(void*, Pool, int)>(begin),
               reinterpret_cast<void (*)(void*)>(end), reinterpret_cast<void (*)(void*)>(replay)};
  }
#endif
  return std::nullopt;
}

const Api& api() {
  static const std::optional<Api> found = find_api();
  TORCH_CHECK(found, "this libtorch has no CUDA graphs, or CUDA is not loaded");
  return *found;
}

// Mirrors cudaStreamCaptureModeThreadLocal: other threads may continue their work.
constexpr int kThreadLocal = 1;

class Graph {
 public:
  explicit Graph(c10::DeviceIndex device)
      : guard_(c10::DeviceType::CUDA),
        device_(c10::DeviceType::CUDA, device),
        side_(guard_.getStreamFromGlobalPool(device_)) {
    api().construct(object_, false);
  }
  ~Graph() {
    leave();
    try {
      api().destroy(object_);
    } catch (...) {
      // A graph that cannot be freed is left to the end of the process.
    }
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // From here until `leave` work goes to a stream of its own: the default one cannot be recorded.
  void enter() {
    guard_.synchronizeDevice(device_.index());
    before_ = guard_.exchangeStream(side_);
  }
  void begin() {
    guard_.synchronizeDevice(device_.index());
    api().begin(object_, Pool{0, 0}, kThreadLocal);
    recording_ = true;
  }
  void end() {
    recording_ = false;
    api().end(object_);
  }
  void leave() noexcept {
    try {
      if (recording_) end();
    } catch (...) {
      // What failed while it was recorded fails again when recording ends.
    }
    try {
      if (before_) guard_.exchangeStream(*before_);
    } catch (...) {
    }
    before_.reset();
  }
  void replay() { api().replay(object_); }

 private:
  alignas(64) unsigned char object_[4096];
  c10::impl::VirtualGuardImpl guard_;
  c10::Device device_;
  c10::Stream side_;
  std::optional<c10::Stream> before_;
  bool recording_ = false;
};

}  // namespace

int32_t rlaif_graph_new(int32_t device, void** graph) noexcept {
  return rlaif::guarded([&] { *graph = new Graph(static_cast<c10::DeviceIndex>(device)); });
}
void rlaif_graph_free(void* graph) noexcept { delete static_cast<Graph*>(graph); }
int32_t rlaif_graph_enter(void* graph) noexcept {
  return rlaif::guarded([&] { static_cast<Graph*>(graph)->enter(); });
}
int32_t rlaif_graph_begin(void* graph) noexcept {
  return rlaif::guarded([&] { static_cast<Graph*>(graph)->begin(); });
}
int32_t rlaif_graph_end(void* graph) noexcept {
  return rlaif::guarded([&] { static_cast<Graph*>(graph)->end(); });
}
void rlaif_graph_leave(void* graph) noexcept { static_cast<Graph*>(graph)->leave(); }
int32_t rlaif_graph_replay(void* graph) noexcept {
  return rlaif::guarded([&] { static_cast<Graph*>(graph)->replay(); });
}

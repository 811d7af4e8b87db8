// Thread counts, and the floating-point mode of every thread that computes.
#include "common.hpp"
#include "parallel.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <future>
#include <limits>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <dlfcn.h>
#include <sys/resource.h>
#endif

namespace {

// Runs `body` once in each thread of libtorch's intra-op pool for the calling thread, and sums
// what it returns. The parallel region is libtorch's own, reached through a TensorIterator: one
// compiled here could belong to another OpenMP runtime, and so to other threads.
template <class F>
float sum_over_threads(const F& body) {
  at::Tensor results = at::zeros({at::get_num_threads()}, at::kFloat);
  auto iter = at::TensorIterator::nullary_op(results);
  iter.for_each(
      [&](char** data, const int64_t* strides, int64_t inner, int64_t outer) {
        for (int64_t j = 0; j < outer; ++j)
          for (int64_t i = 0; i < inner; ++i)
            *reinterpret_cast<float*>(data[0] + j * strides[1] + i * strides[0]) = body();
      },
      /*grain_size=*/1);
  float total = 0;
  for (int64_t i = 0; i < results.numel(); ++i) total += results.const_data_ptr<float>()[i];
  return total;
}

// Whether a product below the smallest normal number is kept in the running thread.
float keeps_denormals() {
  volatile float smallest = std::numeric_limits<float>::min();
  volatile float half = 0.5F;
  const float product = smallest * half;
  // Compared as bits: under denormals-are-zero a comparison with zero hides the number.
  uint32_t bits = 0;
  static_assert(sizeof(bits) == sizeof(product));
  std::memcpy(&bits, &product, sizeof(bits));
  return bits != 0 ? 1.0F : 0.0F;
}

#if defined(__linux__)
template <class F>
F found(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}
#endif

#if defined(__linux__)
// GCC's OpenMP runtime lets threads without work spin for some milliseconds, unless it manages more
// threads than there are processors: then for microseconds. On an idle machine spinning is faster than
// sleeping; beside another busy process it takes the time that the program's own work needs. There is no
// call to change it, and the environment is read before `main`. But as long as a second team of threads
// exists, which sleeps, the runtime is careful. So a team is kept while the process is interrupted often.
class Caution {
 public:
  bool enable() {
    // A user who sets these has a reason.
    for (const char* name : {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}) {
      if (std::getenv(name)) return false;
    }
    parallel_ = found<Parallel>("GOMP_parallel");
    processors_ = found<int (*)()>("omp_get_num_procs");
    last_ = now();
    interrupted_ = interruptions();
    enabled_.store(parallel_ && processors_);
    return enabled_.load();
  }

  // To be called before parallel work; cheap.
  void look() {
    if (!enabled_.load(std::memory_order_relaxed)) return;
    const int64_t time = now();
    int64_t next = next_.load(std::memory_order_relaxed);
    if (time < next || !next_.compare_exchange_strong(next, time + kPeriod)) return;
    const std::lock_guard<std::mutex> lock(looking_);
    const int64_t count = interruptions();
    if ((count - interrupted_) * kSecond > kMany * (time - last_)) careful_until_ = time + kCareful;
    interrupted_ = count;
    last_ = time;
    const bool careful = time < careful_until_;
    if (careful != team_.joinable()) careful ? start() : stop();
  }

 private:
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static constexpr int64_t kSecond = 1'000'000'000;
  // How often it looks, how many interruptions in a second are many, and how long it stays careful: then
  // it tries again how things are, which costs a period.
  static constexpr int64_t kPeriod = kSecond / 20;
  static constexpr int64_t kMany = 40;
  static constexpr int64_t kCareful = 2 * kSecond;

  static int64_t now() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }

  // How often a thread of this process had to leave a processor to another one.
  static int64_t interruptions() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
  }

  void start() {
    is_wanted_ = true;
    std::promise<void> ready;
    auto is_ready = ready.get_future();
    team_ = std::thread([this, &ready] {
      parallel_([](void*) {}, nullptr, static_cast<unsigned>(processors_()) + 1, 0);
      ready.set_value();
      // The team lives as long as the thread that made it.
      std::unique_lock<std::mutex> lock(wanting_);
      unwanted_.wait(lock, [this] { return !is_wanted_; });
    });
    is_ready.get();
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(wanting_);
      is_wanted_ = false;
    }
    unwanted_.notify_one();
    team_.join();
  }

  Parallel parallel_ = nullptr;
  int (*processors_)() = nullptr;
  std::atomic<bool> enabled_{false};
  std::atomic<int64_t> next_{0};
  std::mutex looking_;
  int64_t last_ = 0, interrupted_ = 0, careful_until_ = 0;
  std::thread team_;
  std::mutex wanting_;
  std::condition_variable unwanted_;
  bool is_wanted_ = false;
};

// Never destroyed: a thread may still be in it when the process ends.
Caution& caution() {
  static Caution& one = *new Caution;
  return one;
}
#endif

bool sleep_soon() {
#if defined(__linux__)
  // LLVM's and Intel's runtimes have a call, in milliseconds.
  if (const auto block_after = found<void (*)(int)>("kmp_set_blocktime")) {
    if (std::getenv("KMP_BLOCKTIME") || std::getenv("OMP_WAIT_POLICY")) return false;
    block_after(1);
    return true;
  }
  return caution().enable();
#else
  return false;
#endif
}

}  // namespace

int32_t rlaif_sleep_soon(int32_t* done) noexcept {
  return rlaif::guarded([&] {
    static const bool is_done = sleep_soon();
    *done = is_done;
  });
}

void rlaif::before_parallel_work() {
#if defined(__linux__)
  caution().look();
#endif
}

int32_t rlaif_set_intra_threads(int32_t n) noexcept {
  return rlaif::guarded([&] { at::set_num_threads(n); });
}

int32_t rlaif_set_inter_threads(int32_t n) noexcept {
  return rlaif::guarded([&] { at::set_num_interop_threads(n); });
}

int32_t rlaif_intra_threads() noexcept { return at::get_num_threads(); }
int32_t rlaif_inter_threads() noexcept { return at::get_num_interop_threads(); }

int32_t rlaif_set_flush_denormals(int32_t on, int32_t* supported) noexcept {
  return rlaif::guarded([&] {
    const float refused = sum_over_threads(
        [&] { return at::globalContext().setFlushDenormal(on != 0) ? 0.0F : 1.0F; });
    *supported = refused == 0;
  });
}

int32_t rlaif_threads_keeping_denormals(int32_t* count) noexcept {
  return rlaif::guarded([&] { *count = static_cast<int32_t>(sum_over_threads(keeps_denormals)); });
}

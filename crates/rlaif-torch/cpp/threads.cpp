// Thread counts, and the floating-point mode of every thread that computes.
#include "common.hpp"
#include "parallel.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <chrono>
#include <cinttypes>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <limits>
#include <mutex>
#include <string>
#include <thread>

#if defined(__linux__)
#include <dirent.h>
#include <dlfcn.h>
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
// exists, which sleeps, the runtime is careful. So a team is kept while this process's threads wait for
// processors. The number of interruptions would not tell: a process of low priority interrupts often and
// takes nothing.
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
    waited_ = waited();
    enabled_.store(parallel_ && processors_ && waited_ >= 0);
    return enabled_.load();
  }

  // To be called before parallel work; cheap.
  void look() {
    if (!enabled_.load(std::memory_order_relaxed)) return;
    const int64_t time = now();
    int64_t next = next_.load(std::memory_order_relaxed);
    if (time < next || !next_.compare_exchange_strong(next, time + kPeriod)) return;
    const std::lock_guard<std::mutex> lock(looking_);
    const int64_t waited_until_now = waited();
    if ((waited_until_now - waited_) * 100 > kMuch * (time - last_)) careful_until_ = time + kCareful;
    waited_ = waited_until_now;
    last_ = time;
    const bool careful = time < careful_until_;
    if (careful != team_.joinable()) careful ? start() : stop();
  }

 private:
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static constexpr int64_t kSecond = 1'000'000'000;
  // How often it looks, which percentage of that time is much waiting, and how long it stays careful: then
  // it tries again how things are, which costs a period. On two cores threads that spin wait 1 to 5 % of
  // the time alone, and 60 to 90 % beside one busy process. At 30 % spinning is still the faster way.
  static constexpr int64_t kPeriod = kSecond / 10;
  static constexpr int64_t kMuch = 45;
  static constexpr int64_t kCareful = 2 * kSecond;

  static int64_t now() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }

  // How long the threads of this process that still live have waited for a processor that others had, in
  // nanoseconds summed over threads; -1 where the kernel does not tell it.
  static int64_t waited() {
    int64_t sum = 0;
    bool is_told = false;
    DIR* const tasks = opendir("/proc/self/task");
    if (!tasks) return -1;
    while (const dirent* const task = readdir(tasks)) {
      if (task->d_name[0] == '.') continue;
      const std::string path = std::string("/proc/self/task/") + task->d_name + "/schedstat";
      // The thread may have ended meanwhile.
      FILE* const file = std::fopen(path.c_str(), "re");
      if (!file) continue;
      int64_t waited = 0;
      if (std::fscanf(file, "%*d %" SCNd64, &waited) == 1) {
        sum += waited;
        is_told = true;
      }
      std::fclose(file);
    }
    closedir(tasks);
    return is_told ? sum : -1;
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
  int64_t last_ = 0, waited_ = 0, careful_until_ = 0;
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

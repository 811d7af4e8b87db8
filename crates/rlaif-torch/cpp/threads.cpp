// Thread counts, and the floating-point mode of every thread that computes.
#include "common.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/zeros.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <future>
#include <limits>
#include <mutex>
#include <thread>

#if defined(__linux__)
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

// GCC's OpenMP runtime lets threads without work spin for some milliseconds, unless it manages more
// threads than there are processors: then for microseconds. Beside another busy process spinning takes
// the time that the program's own work needs. There is no call to change it, and the environment is read
// before `main`; but a second team of threads, which sleeps for ever, makes the runtime careful.
// LLVM's and Intel's runtimes have a call.
bool sleep_soon() {
#if defined(__linux__)
  // Who sets these has a reason.
  for (const char* name : {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}) {
    if (std::getenv(name)) return false;
  }
  if (const auto block_after = found<void (*)(int)>("kmp_set_blocktime")) {
    block_after(0);  // milliseconds
    return true;
  }
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  const auto parallel = found<Parallel>("GOMP_parallel");
  const auto processors = found<int (*)()>("omp_get_num_procs");
  if (!parallel || !processors) return false;
  std::promise<void> ready;
  auto is_ready = ready.get_future();
  std::thread([&ready, parallel, processors] {
    parallel([](void*) {}, nullptr, static_cast<unsigned>(processors()) + 1, 0);
    ready.set_value();
    // The team lives as long as the thread that made it.
    std::mutex mutex;
    std::condition_variable never;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) never.wait(lock);
  }).detach();
  is_ready.get();
  return true;
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

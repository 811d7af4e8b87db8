#include "work.hpp"

#include "common.hpp"
#include "parallel.hpp"
#include "tiles.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

namespace rlaif {

Work work;

}  // namespace rlaif

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Steps of the panels that a tile multiplies: both stay in the first cache.
constexpr int64_t kSteps = 256;
constexpr double kSeconds = 0.15;

// Operations in a second by the innermost kernel, operands in the first cache, on all threads at once.
double operations(const rlaif::ByRows<float>& kernel, int64_t per_step) {
  const rlaif::Tiles& t = rlaif::tiles();
  const int64_t threads = std::max(1, at::get_num_threads());
  std::vector<double> rates(threads);
  rlaif::parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> left(kSteps * t.rows), right(kSteps * t.columns), out(t.rows * t.columns);
    for (int64_t thread = begin; thread < end; ++thread) {
      const auto start = Clock::now();
      int64_t tiles = 0;
      do {
        for (int i = 0; i < 512; ++i) {
          kernel.of[1][t.rows](kSteps, left.data(), 0, right.data(),
                               {out.data(), t.columns, t.columns, true, nullptr});
        }
        tiles += 512;
      } while (seconds_since(start) < kSeconds);
      const auto done = static_cast<double>(2 * tiles * kSteps * t.rows * t.columns * per_step);
      rates[thread] = done / seconds_since(start);
    }
  });
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

// Bytes in a second that all threads at once read from memory.
double bytes() {
  // More than the caches of a thread hold.
  constexpr size_t kWords = size_t{8} << 20;
  const int64_t threads = std::max(1, at::get_num_threads());
  std::vector<double> rates(threads);
  rlaif::parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint64_t[]> words(new uint64_t[kWords]);
    std::memset(words.get(), 1, kWords * sizeof(uint64_t));
    for (int64_t thread = begin; thread < end; ++thread) {
      const auto start = Clock::now();
      int64_t passes = 0;
      volatile uint64_t sink = 0;
      do {
        uint64_t sum = 0;
        for (size_t i = 0; i < kWords; ++i) sum += words[i];
        sink = sink + sum;
        ++passes;
      } while (seconds_since(start) < kSeconds);
      rates[thread] = static_cast<double>(passes) * kWords * sizeof(uint64_t) / seconds_since(start);
    }
  });
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

}  // namespace

void rlaif_work(int64_t* operations, int64_t* bytes) noexcept {
  *operations = rlaif::work.operations.load(std::memory_order_relaxed);
  *bytes = rlaif::work.bytes.load(std::memory_order_relaxed);
}

int32_t rlaif_limits(int32_t kind, double* most_operations, double* most_bytes) noexcept {
  return rlaif::guarded([&] {
    const rlaif::Tiles& t = rlaif::tiles();
    switch (kind) {
      case kF32:
        *most_operations = operations(t.f32, 1);
        break;
      case kBf16:
        *most_operations = operations(t.half, t.pairs ? 2 : 1);
        break;
      default:
        TORCH_CHECK(false, "products of f32 or bf16 are measured, not of dtype number ", kind);
    }
    *most_bytes = bytes();
  });
}

// Thread counts, and the floating-point mode of every thread that computes.
#include "common.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/zeros.h>

#include <cstring>
#include <limits>

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

}  // namespace

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

#include "parallel.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>

namespace {

// Runs `body(part)` for each part in [0, parts), at most one per thread: a TensorIterator over
// that many bytes, whose places in memory tell the parts apart.
void in_parts(int64_t parts, c10::function_ref<void(int64_t)> body) {
  rlaif::before_parallel_work();
  at::Tensor places = at::empty({parts}, at::kByte);
  const char* first = static_cast<const char*>(places.const_data_ptr());
  auto iterator = at::TensorIterator::nullary_op(places);
  iterator.for_each(
      [&](char** data, const int64_t* strides, int64_t inner, int64_t outer) {
        for (int64_t j = 0; j < outer; ++j)
          for (int64_t i = 0; i < inner; ++i)
            body(data[0] + j * strides[1] + i * strides[0] - first);
      },
      /*grain_size=*/1);
}

}  // namespace

namespace rlaif {

void parallel_for(int64_t n, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  const int64_t parts =
      std::min<int64_t>(at::get_num_threads(), n / std::max<int64_t>(1, grain));
  if (parts <= 1 || at::in_parallel_region()) return body(0, n);
  in_parts(parts, [&](int64_t part) { body(n * part / parts, n * (part + 1) / parts); });
}

void parallel_tasks(int64_t n, c10::function_ref<void(int64_t)> body) {
  const int64_t parts = std::min<int64_t>(at::get_num_threads(), n);
  if (parts <= 1 || at::in_parallel_region()) {
    for (int64_t task = 0; task < n; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  in_parts(parts, [&](int64_t) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(task);
  });
}

}  // namespace rlaif

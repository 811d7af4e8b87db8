// Counts of what products of matrices do on the CPU, for shares of what the machine could do.
#pragma once

#include <atomic>
#include <cstdint>

namespace rlaif {

struct Work {
  std::atomic<int64_t> operations{0}, bytes{0};
};
extern Work work;

// A product [m, k] by [k, n] of elements of so many bytes: multiplications and additions, and the bytes
// of both operands and of the result, each once.
inline void count_product(int64_t m, int64_t n, int64_t k, int64_t size) {
  work.operations.fetch_add(2 * m * n * k, std::memory_order_relaxed);
  work.bytes.fetch_add((m * k + k * n + m * n) * size, std::memory_order_relaxed);
}

}  // namespace rlaif

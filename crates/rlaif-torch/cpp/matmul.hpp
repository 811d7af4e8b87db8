// Products of matrices on the CPU, faster than libtorch's where it leaves the processor idle.
#pragma once

#include <ATen/core/Tensor.h>

namespace rlaif {

enum class Into { kOverwrite, kAdd };

// Writes a b, or adds it, into `out`, of 2-D tensors; `bias`, where there is one, is added to each
// row. Rows of `out` are contiguous.
void matmul_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, Into into,
                 const at::Tensor& bias = {});

// a b, plus `bias` per row where there is one.
at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

// A matrix of f32 or bf16 where it lies; one of the strides is 1.
template <typename T>
struct Block {
  const T* data;
  int64_t row, column;  // strides
  Block t() const { return {data, column, row}; }
};

// out (+)= a b of sizes [m, k] and [k, n], rows of `out` being `stride` apart. In a parallel region
// it stays in the calling thread. Of f32 to f32, and of bf16 to either. In bf16, lines along the inner
// dimension begin at even strides, and of an odd k the element behind a line may be read, which must
// be a number: it is multiplied by the 0 that stands behind lines across.
template <typename T, typename Out>
void multiply_blocks(int64_t m, int64_t n, int64_t k, Block<T> a, Block<T> b, Out* out,
                     int64_t stride, Into into);

// x with its rows contiguous and all leading dimensions as one.
at::Tensor rows_of(const at::Tensor& x);

}  // namespace rlaif

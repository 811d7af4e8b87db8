// Attention by libtorch's operators.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace rlaif {

// Any kind and device; the result is `[B, T, heads * D]`. `q` is `[B, T, heads, D]`, `k` and `v` are
// `[B, S, kv, D]`.
at::Tensor composed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& mask,
                              bool causal, double scale, double dropout);

}  // namespace rlaif

#include "attention.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>

#include <limits>

namespace {

// What hides a key: finite, so that a query that sees nothing has finite weights, and small enough
// that a bias can be added.
double hidden(at::ScalarType kind) {
  if (kind == at::kHalf) return -32752.0;
  if (kind == at::kDouble) return std::numeric_limits<double>::lowest() / 2;
  return std::numeric_limits<float>::lowest() / 2;
}

}  // namespace

namespace rlaif {

at::Tensor composed_attention(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                              const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& mask,
                              bool causal, double scale, double dropout) {
  const int64_t b = q_in.size(0), t = q_in.size(1), heads = q_in.size(2), d = q_in.size(3);
  const int64_t s = k_in.size(1), kv = k_in.size(2);
  const auto spread = [&](const at::Tensor& x) {
    const auto y = x.transpose(1, 2);
    if (kv == heads) return y;
    return y.unsqueeze(2).expand({b, kv, heads / kv, s, d}).reshape({b, heads, s, d});
  };
  const auto q = q_in.transpose(1, 2), k = spread(k_in), v = spread(v_in);
  std::optional<at::Tensor> total = bias;
  if (mask) total = total ? total->add(*mask) : *mask;
  if (total && causal) {
    const auto ahead = at::full({t, s}, hidden(q.scalar_type()), q.options()).triu(1);
    total = total->add(ahead);
  }
  at::Tensor out;
  // A learned bias: with and without a graph alike, for what is computed twice must not differ by rounding.
  if (bias) {
    const auto flat = [&](const at::Tensor& x) { return x.reshape({b * heads, x.size(2), d}); };
    const auto start = total->expand({b, heads, t, s}).reshape({b * heads, t, s});
    const auto scores = at::baddbmm(start, flat(q), flat(k).transpose(1, 2), 1, scale);
    auto weights = scores.softmax(-1);
    if (dropout > 0) weights = at::dropout(weights, dropout, /*train=*/true);
    out = at::bmm(weights, flat(v)).view({b, heads, t, d});
  } else {
    out = at::scaled_dot_product_attention(q, k, v, total, dropout, causal && !total, scale);
  }
  return out.transpose(1, 2).reshape({b, t, heads * d});
}

}  // namespace rlaif

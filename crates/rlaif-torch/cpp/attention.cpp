// Scaled dot-product attention with a learned bias, and its gradients.
//
// libtorch's fused attention has no gradient for a bias, which T5 learns; without it the scores of
// all heads go through memory half a dozen times. Here a block of queries meets all its keys while
// the scores stay in the cache, and the backward pass computes them again from their normalisers
// (Dao et al., 2022, arXiv:2205.14135). Queries and keys are read where the projections wrote them,
// and heads that share keys share them here.
//
// Compiled like kernels.cpp, so that sums vectorise.
#include "common.hpp"
#include "matmul.hpp"
#include "parallel.hpp"
#include "vector.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace {

using rlaif::Block;
using rlaif::Into;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Most queries of a block.
constexpr int64_t kQueries = 128;

// An additive bias `[B, heads, T, S]` whose last stride is 1; other strides may be 0.
struct Bias {
  const float* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Bias() = default;
  explicit Bias(const at::Tensor& t) {
    if (!t.defined()) return;
    data = t.const_data_ptr<float>();
    const auto stride = [&](int64_t d) { return t.size(d) == 1 ? 0 : t.stride(d); };
    batch = stride(0);
    head = stride(1);
    row = stride(2);
  }
  const float* at(int64_t b, int64_t h, int64_t t) const {
    return data ? data + b * batch + h * head + t * row : nullptr;
  }
};

// x · scale + bias + mask, in place. Either may be null.
RLAIF_VECTOR void shift(float* x, float scale, const float* bias, const float* mask, int64_t n) {
  if (bias && mask) {
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] * scale + bias[i] + mask[i];
  } else if (bias || mask) {
    const float* one = bias ? bias : mask;
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] * scale + one[i];
  } else {
    for (int64_t i = 0; i < n; ++i) x[i] *= scale;
  }
}

// exp(x - normaliser), in place.
RLAIF_VECTOR void exponentials(float* x, float normaliser, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = rlaif::exponential(rlaif::floored(x[i] - normaliser));
}

// The softmax of a row, in place; its normaliser.
RLAIF_VECTOR float softmax(float* x, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = rlaif::exponential(rlaif::floored(x[i] - largest));
    sum += x[i];
  }
  const float inverse = 1.0f / sum;
  for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
  return largest + std::log(sum);
}

RLAIF_VECTOR float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// The gradient of scores from that of weights, in place, added to the bias's, and scaled.
RLAIF_VECTOR void score_gradient(float* dp, const float* p, float delta, float scale, float* dbias,
                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - delta);
  if (dbias) {
    for (int64_t i = 0; i < n; ++i) dbias[i] += dp[i];
  }
  for (int64_t i = 0; i < n; ++i) dp[i] *= scale;
}

// Sizes and strides of one attention; queries `[B, T, heads, D]`, keys and values
// `[B, S, kv, D]`, all contiguous.
struct Shape {
  int64_t batch, queries, heads, width, keys, kv;
  bool causal;
  float scale;

  Shape(const at::Tensor& q, const at::Tensor& k, bool causal, double scale)
      : batch(q.size(0)), queries(q.size(1)), heads(q.size(2)), width(q.size(3)), keys(k.size(1)),
        kv(k.size(2)), causal(causal), scale(static_cast<float>(scale)) {}

  int64_t blocks() const { return (queries + kQueries - 1) / kQueries; }
  // Queries of a block, blocks being even.
  int64_t step() const { return (queries + blocks() - 1) / blocks(); }
  int64_t group() const { return heads / kv; }
  int64_t query_row() const { return heads * width; }
  int64_t key_row() const { return kv * width; }
  int64_t query(int64_t b, int64_t t, int64_t h) const {
    return ((b * queries + t) * heads + h) * width;
  }
  int64_t key(int64_t b, int64_t h) const { return (b * keys * kv + h / group()) * width; }
  // Keys that queries before `end` see.
  int64_t seen(int64_t end) const { return causal ? std::min(keys, end) : keys; }
  // Keys that query t sees.
  int64_t seen_by(int64_t t) const { return seen(t + 1); }
};

// Scores of queries [t0, t1) of one head with biases, rows being `s.keys` apart.
void scores(const Shape& s, const float* q, const float* k, const Bias& bias, const Bias& mask,
            int64_t b, int64_t h, int64_t t0, int64_t t1, float* out) {
  const Block queries{q + s.query(b, t0, h), s.query_row(), 1};
  const Block keys{k + s.key(b, h), s.key_row(), 1};
  rlaif::multiply_blocks(t1 - t0, s.seen(t1), s.width, queries, keys.t(), out, s.keys,
                         Into::kOverwrite);
  for (int64_t t = t0; t < t1; ++t) {
    shift(out + (t - t0) * s.keys, s.scale, bias.at(b, h, t), mask.at(b, h, t), s.seen_by(t));
  }
}

// Weights of 0 for keys of the block that query t does not see.
void clear_unseen(const Shape& s, float* row, int64_t t, int64_t t1) {
  std::fill(row + s.seen_by(t), row + s.seen(t1), 0.0f);
}

struct Attention : torch::autograd::Function<Attention> {
  // `bias` is `[1, heads, T, S]`, `mask` as `Bias` takes it; either may be undefined.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const std::optional<at::Tensor>& bias_in,
                            const std::optional<at::Tensor>& mask_in, bool causal, double scale) {
    const auto q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    const auto bias_tensor = bias_in ? bias_in->contiguous() : at::Tensor();
    const auto mask_tensor = mask_in.value_or(at::Tensor());
    const Shape s(q, k, causal, scale);
    const auto out = at::empty_like(q);
    const auto normalisers = at::empty({s.batch, s.heads, s.queries}, q.options());
    const float* qp = q.const_data_ptr<float>();
    const float* kp = k.const_data_ptr<float>();
    const float* vp = v.const_data_ptr<float>();
    float* op = out.mutable_data_ptr<float>();
    float* np = normalisers.mutable_data_ptr<float>();
    const Bias bias(bias_tensor), mask(mask_tensor);
    rlaif::parallel_tasks(s.batch * s.heads * s.blocks(), [&](int64_t task) {
      const int64_t b = task / (s.heads * s.blocks());
      const int64_t h = task / s.blocks() % s.heads;
      const int64_t t0 = task % s.blocks() * s.step();
      const int64_t t1 = std::min(s.queries, t0 + s.step());
      if (t0 >= t1) return;
      static thread_local std::vector<float> p;
      p.resize((t1 - t0) * s.keys);
      scores(s, qp, kp, bias, mask, b, h, t0, t1, p.data());
      for (int64_t t = t0; t < t1; ++t) {
        float* row = p.data() + (t - t0) * s.keys;
        np[(b * s.heads + h) * s.queries + t] = softmax(row, s.seen_by(t));
        clear_unseen(s, row, t, t1);
      }
      rlaif::multiply_blocks(t1 - t0, s.width, s.seen(t1), {p.data(), s.keys, 1},
                             {vp + s.key(b, h), s.key_row(), 1}, op + s.query(b, t0, h),
                             s.query_row(), Into::kOverwrite);
    });
    ctx->save_for_backward({q, k, v, bias_tensor, mask_tensor, out, normalisers});
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["biased"] = bias_in.has_value();
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[5];
    const Shape s(q, k, ctx->saved_data["causal"].toBool(), ctx->saved_data["scale"].toDouble());
    const bool biased = ctx->saved_data["biased"].toBool();
    const auto dout = grads[0].contiguous();
    const auto dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    at::Tensor dbias;
    if (biased && ctx->needs_input_grad(3)) dbias = at::zeros(saved[3].sizes(), q.options());
    const float* qp = q.const_data_ptr<float>();
    const float* kp = k.const_data_ptr<float>();
    const float* vp = v.const_data_ptr<float>();
    const float* op = out.const_data_ptr<float>();
    const float* gp = dout.const_data_ptr<float>();
    const float* np = saved[6].const_data_ptr<float>();
    float* dqp = dq.mutable_data_ptr<float>();
    float* dkp = dk.mutable_data_ptr<float>();
    float* dvp = dv.mutable_data_ptr<float>();
    float* dbp = dbias.defined() ? dbias.mutable_data_ptr<float>() : nullptr;
    const Bias bias(saved[3]), mask(saved[4]);

    // The heads that share keys, in one row of the batch.
    const auto group = [&](int64_t b, int64_t g) {
      static thread_local std::vector<float> p, dp;
      p.resize(s.step() * s.keys);
      dp.resize(s.step() * s.keys);
      const Block keys{kp + s.key(b, g * s.group()), s.key_row(), 1};
      const Block values{vp + s.key(b, g * s.group()), s.key_row(), 1};
      float* dkeys = dkp + s.key(b, g * s.group());
      float* dvalues = dvp + s.key(b, g * s.group());
      // Keys past these have been given no gradient yet.
      int64_t begun = 0;
      for (int64_t h = g * s.group(); h < (g + 1) * s.group(); ++h) {
        for (int64_t t0 = 0; t0 < s.queries; t0 += s.step()) {
          const int64_t t1 = std::min(s.queries, t0 + s.step());
          const int64_t rows = t1 - t0, seen = s.seen(t1);
          const Block gradient{gp + s.query(b, t0, h), s.query_row(), 1};
          scores(s, qp, kp, bias, mask, b, h, t0, t1, p.data());
          rlaif::multiply_blocks(rows, seen, s.width, gradient, values.t(), dp.data(), s.keys,
                                 Into::kOverwrite);
          for (int64_t t = t0; t < t1; ++t) {
            float* weights = p.data() + (t - t0) * s.keys;
            float* dweights = dp.data() + (t - t0) * s.keys;
            const int64_t n = s.seen_by(t);
            exponentials(weights, np[(b * s.heads + h) * s.queries + t], n);
            const float delta = dot(gp + s.query(b, t, h), op + s.query(b, t, h), s.width);
            score_gradient(dweights, weights, delta, s.scale,
                           dbp ? dbp + (h * s.queries + t) * s.keys : nullptr, n);
            clear_unseen(s, weights, t, t1);
            clear_unseen(s, dweights, t, t1);
          }
          const Block weights{p.data(), s.keys, 1}, dscores{dp.data(), s.keys, 1};
          rlaif::multiply_blocks(rows, s.width, seen, dscores, keys, dqp + s.query(b, t0, h),
                                 s.query_row(), Into::kOverwrite);
          // What earlier blocks began is added to, the rest is written.
          const auto spread = [&](const Block& by, const Block& rows_of, float* to) {
            const auto part = [&](int64_t from, int64_t until, Into into) {
              if (from >= until) return;
              rlaif::multiply_blocks(until - from, s.width, rows, {by.data + from, 1, by.row},
                                     rows_of, to + from * s.key_row(), s.key_row(), into);
            };
            part(0, std::min(begun, seen), Into::kAdd);
            part(begun, seen, Into::kOverwrite);
          };
          spread(weights, gradient, dvalues);
          spread(dscores, {qp + s.query(b, t0, h), s.query_row(), 1}, dkeys);
          begun = std::max(begun, seen);
        }
      }
    };
    if (dbp) {
      // A head's bias serves all rows of the batch: one thread adds them up, in order.
      rlaif::parallel_tasks(s.kv, [&](int64_t g) {
        for (int64_t b = 0; b < s.batch; ++b) group(b, g);
      });
    } else {
      rlaif::parallel_tasks(s.batch * s.kv, [&](int64_t task) { group(task / s.kv, task % s.kv); });
    }
    variable_list result{dq, dk, dv, Variable(), Variable(), Variable(), Variable()};
    if (biased) result[3] = dbias;
    return result;
  }
};

// What hides a key: finite, so that a query that sees nothing has finite weights, and small enough
// that a bias can be added.
double hidden(at::ScalarType kind) {
  if (kind == at::kHalf) return -32752.0;
  if (kind == at::kDouble) return std::numeric_limits<double>::lowest() / 2;
  return std::numeric_limits<float>::lowest() / 2;
}

// Any kind and device, by libtorch's own operators.
at::Tensor composed(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
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

bool is_fused(const at::Tensor& t) {
  return t.device().is_cpu() && t.scalar_type() == at::kFloat && t.numel() > 0;
}

}  // namespace

extern "C" {

// `bias` and `mask` may be null.
int32_t rlaif_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                        const at::Tensor* bias, const at::Tensor* mask, int32_t causal,
                        double scale, double dropout, at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto optional = [](const at::Tensor* t) {
      return t ? std::optional<at::Tensor>(*t) : std::nullopt;
    };
    const int64_t b = q->size(0), t = q->size(1), heads = q->size(2), s = k->size(1);
    const std::vector<int64_t> full{b, heads, t, s};
    bool fused = rlaif::multiplies_blocks() && dropout == 0 && is_fused(*q) && is_fused(*k) &&
                 is_fused(*v) && (!bias || (is_fused(*bias) && bias->sizes() == at::IntArrayRef(
                                                                   {1, heads, t, s})));
    auto spread = optional(mask);
    if (spread) {
      fused = fused && is_fused(*spread) && !spread->requires_grad();
      if (fused) {
        if (spread->stride(-1) != 1) spread = spread->contiguous();
        spread = spread->expand(full);
        fused = spread->stride(3) == 1 || s == 1;
      }
    }
    auto learned = optional(bias);
    if (!fused) {
      *out = rlaif::give(
          composed(*q, *k, *v, learned, optional(mask), causal != 0, scale, dropout));
      return;
    }
    const auto result = Attention::apply(*q, *k, *v, learned, spread, causal != 0, scale);
    *out = rlaif::give(result.view({b, t, heads * q->size(3)}));
  });
}

}  // extern "C"

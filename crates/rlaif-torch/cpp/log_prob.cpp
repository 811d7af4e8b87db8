// Log-probabilities of given tokens and entropies from hidden states, without ever holding the
// logits of more than one chunk of rows: neither forward nor, since a chunk is computed again,
// backward.

#include "common.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// f32 logits of rows [begin, begin + rows) at a temperature.
at::Tensor logits_of(const at::Tensor& hidden, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, double temperature, int64_t begin,
                     int64_t rows) {
  auto logits = at::linear(hidden.narrow(0, begin, rows), weight, bias).to(at::kFloat);
  return temperature == 1.0 ? logits : logits.div_(temperature);
}

struct LinearLogProbs : torch::autograd::Function<LinearLogProbs> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& targets, double temperature, int64_t chunk) {
    const int64_t n = hidden.size(0);
    const auto wide = hidden.options().dtype(at::kFloat);
    auto log_probs = at::empty({n}, wide);
    auto entropies = at::empty({n}, wide);
    auto normalisers = at::empty({n}, wide);
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t rows = std::min(chunk, n - begin);
      auto logits = logits_of(hidden, weight, bias, temperature, begin, rows);
      const auto lse = at::logsumexp(logits, {1}, /*keepdim=*/true);
      const auto picked = logits.gather(1, targets.narrow(0, begin, rows).unsqueeze(1));
      log_probs.narrow(0, begin, rows).copy_(picked.sub(lse).squeeze(1));
      normalisers.narrow(0, begin, rows).copy_(lse.squeeze(1));
      // H = -sum p log p, from log p in place of the logits.
      logits.sub_(lse);
      const auto p = logits.exp();
      entropies.narrow(0, begin, rows).copy_(p.mul_(logits).sum(1).neg_());
    }
    ctx->save_for_backward(
        {hidden, weight, bias.value_or(at::Tensor()), targets, normalisers, entropies});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk"] = chunk;
    return {log_probs, entropies};
  }

  // With f the logits, p their softmax, y the target and H the entropy:
  //   d log p_y / d f_v = [v = y] - p_v        d H / d f_v = -p_v (log p_v + H)
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& hidden = saved[0];
    const auto& weight = saved[1];
    const auto bias =
        saved[2].defined() ? std::optional<at::Tensor>(saved[2]) : std::optional<at::Tensor>();
    const auto& targets = saved[3];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const int64_t chunk = ctx->saved_data["chunk"].toInt();
    const auto& dlog = grads[0];
    const auto& dentropy = grads[1];
    const bool hidden_wants = ctx->needs_input_grad(0);
    const bool weight_wants = ctx->needs_input_grad(1);
    const bool bias_wants = bias && ctx->needs_input_grad(2);

    const int64_t n = hidden.size(0);
    at::Tensor dhidden, dweight, dbias;
    if (hidden_wants) dhidden = at::empty_like(hidden);
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t rows = std::min(chunk, n - begin);
      const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, rows).unsqueeze(1); };
      auto log_p = logits_of(hidden, weight, bias, temperature, begin, rows);
      log_p.sub_(part(saved[4]));
      at::Tensor df;
      if (dentropy.defined()) {
        auto p = log_p.exp();
        df = log_p.add_(part(saved[5])).mul_(p).mul_(part(dentropy).neg());
        if (dlog.defined()) df.addcmul_(p, part(dlog), -1);
      } else {
        df = log_p.exp_().mul_(part(dlog).neg());
      }
      if (dlog.defined()) df.scatter_add_(1, part(targets), part(dlog));
      if (temperature != 1.0) df.div_(temperature);
      df = df.to(weight.scalar_type());
      if (hidden_wants) {
        auto out = dhidden.narrow(0, begin, rows);
        at::mm_out(out, df, weight);
      }
      if (weight_wants) {
        const auto h = hidden.narrow(0, begin, rows);
        if (!dweight.defined()) {
          dweight = at::mm(df.t(), h);
          // Sums over chunks in the weights' own kind would lose what a chunk adds.
          if (n > chunk) dweight = dweight.to(at::kFloat);
        } else if (dweight.scalar_type() == df.scalar_type()) {
          dweight.addmm_(df.t(), h);
        } else {
          dweight.add_(at::mm(df.t(), h));
        }
      }
      if (bias_wants) {
        const auto sum = df.sum(0, /*keepdim=*/false, at::kFloat);
        dbias = dbias.defined() ? dbias.add_(sum) : sum;
      }
    }
    if (dweight.defined()) dweight = dweight.to(weight.scalar_type());
    if (dbias.defined()) dbias = dbias.to(bias->scalar_type());
    return {dhidden, dweight, dbias, Variable(), Variable(), Variable()};
  }
};

}  // namespace

// `bias` may be null. `out` receives log-probabilities and entropies.
extern "C" int32_t rlaif_linear_log_probs(const at::Tensor* hidden, const at::Tensor* weight,
                                          const at::Tensor* bias, const at::Tensor* targets,
                                          double temperature, int64_t chunk,
                                          at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto results = LinearLogProbs::apply(
        *hidden, *weight, bias ? std::optional<at::Tensor>(*bias) : std::optional<at::Tensor>(),
        *targets, temperature, chunk);
    out[0] = rlaif::give(results[0]);
    out[1] = rlaif::give(results[1]);
  });
}

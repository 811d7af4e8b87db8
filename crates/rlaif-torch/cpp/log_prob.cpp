// Log-probabilities of given tokens and entropies from hidden states, without ever holding the
// logits of more than a chunk of rows: the backward pass computes a chunk again, unless all logits and
// their gradient take no more than a chunk, and are kept.

#include "common.hpp"
#include "matmul.hpp"
#include "softmax.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct LinearLogProbs : torch::autograd::Function<LinearLogProbs> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                               const at::Tensor& targets, double temperature, int64_t chunk) {
    const rlaif::BelowAutograd below;
    const int64_t n = hidden.size(0);
    const auto wide = hidden.options().dtype(at::kFloat);
    auto log_probs = at::empty({n}, wide);
    auto entropies = at::empty({n}, wide);
    auto normalisers = at::empty({n}, wide);
    const auto space = at::empty({std::min(n, chunk), weight.size(0)}, weight.options());
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t rows = std::min(chunk, n - begin);
      const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, rows); };
      const auto logits = space.narrow(0, 0, rows);
      rlaif::matmul_into(logits, part(hidden), weight.t(), rlaif::Into::kOverwrite,
                         bias.value_or(at::Tensor()));
      rlaif::softmax_statistics(logits, targets.narrow(0, begin, rows), temperature,
                                part(log_probs), part(entropies), part(normalisers));
    }
    ctx->save_for_backward({hidden, weight, bias.value_or(at::Tensor()), targets, normalisers,
                            entropies, 2 * n <= chunk ? space : at::Tensor()});
    ctx->set_materialize_grads(false);
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk"] = chunk;
    return {log_probs, entropies};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
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
    if (!dlog.defined() && !dentropy.defined()) return variable_list(6);
    const auto space = at::empty({std::min(n, chunk), weight.size(0)}, weight.options());
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t rows = std::min(chunk, n - begin);
      const auto part = [&](const at::Tensor& t) {
        return t.defined() ? t.narrow(0, begin, rows) : t;
      };
      const auto df = space.narrow(0, 0, rows);
      const auto& logits = saved[6].defined() ? saved[6] : df;
      if (!saved[6].defined()) {
        rlaif::matmul_into(df, part(hidden), weight.t(), rlaif::Into::kOverwrite,
                           bias.value_or(at::Tensor()));
      }
      rlaif::softmax_gradient(logits, df, part(targets), temperature, part(saved[4]), part(saved[5]),
                              part(dlog), part(dentropy));
      if (hidden_wants) {
        rlaif::matmul_into(part(dhidden), df, weight, rlaif::Into::kOverwrite);
      }
      if (weight_wants) {
        const auto h = hidden.narrow(0, begin, rows);
        if (!dweight.defined()) {
          dweight = rlaif::matmul(df.t(), h);
          // Sums over chunks in the weights' own kind would lose what a chunk adds.
          if (n > chunk) dweight = dweight.to(at::kFloat);
        } else if (dweight.scalar_type() == df.scalar_type()) {
          rlaif::matmul_into(dweight, df.t(), h, rlaif::Into::kAdd);
        } else {
          dweight.add_(rlaif::matmul(df.t(), h));
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

int32_t rlaif_linear_log_probs(const at::Tensor* hidden, const at::Tensor* weight,
                               const at::Tensor* bias, const at::Tensor* targets,
                               double temperature, int64_t chunk, at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto results = LinearLogProbs::apply(
        *hidden, *weight, bias ? std::optional<at::Tensor>(*bias) : std::optional<at::Tensor>(),
        *targets, temperature, chunk);
    out[0] = rlaif::give(results[0]);
    out[1] = rlaif::give(results[1]);
  });
}

// Linear layers that read one input: each layer's product apart, the input's gradient summed where
// it is computed, and what is added to the result added there.
#include "common.hpp"
#include "matmul.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct Linear : torch::autograd::Function<Linear> {
  // `biases` is as long as `weights`, or empty. The first output has `residual` added, if there is
  // one.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList weights,
                               at::TensorList biases, const std::optional<at::Tensor>& residual) {
    const rlaif::BelowAutograd below;
    // What is saved is x itself where it can be, so that a change of it is noticed.
    const auto whole = x.contiguous();
    const auto rows = rlaif::rows_of(whole);
    variable_list outputs;
    for (size_t i = 0; i < weights.size(); ++i) {
      auto size = x.sizes().vec();
      size.back() = weights[i].size(0);
      const auto bias = biases.empty() ? at::Tensor() : biases[i];
      auto into = rlaif::Into::kOverwrite;
      if (i == 0 && residual) {
        outputs.push_back(residual->clone(at::MemoryFormat::Contiguous));
        into = rlaif::Into::kAdd;
      } else {
        outputs.push_back(at::empty(size, x.options()));
      }
      rlaif::matmul_into(outputs.back().view({rows.size(0), size.back()}), rows, weights[i].t(), into, bias);
    }
    variable_list saved{whole};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    ctx->saved_data["residual"] = residual && residual->requires_grad();
    ctx->saved_data["biases"] = static_cast<int64_t>(biases.size());
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const auto saved = ctx->get_saved_variables();
    const auto x = rlaif::rows_of(saved[0]);
    const size_t count = saved.size() - 1;
    const auto biases = static_cast<size_t>(ctx->saved_data["biases"].toInt());
    // Undefined where nothing depends on an output.
    std::vector<at::Tensor> rows;
    for (const auto& grad : grads) rows.push_back(grad.defined() ? rlaif::rows_of(grad) : grad);

    variable_list result(1 + count + biases + 1);
    if (std::none_of(rows.begin(), rows.end(), [](const auto& t) { return t.defined(); })) {
      return result;
    }
    if (ctx->saved_data["residual"].toBool()) result.back() = grads[0];
    if (ctx->needs_input_grad(0)) {
      const auto dx = at::empty_like(x);
      auto into = rlaif::Into::kOverwrite;
      for (size_t i = 0; i < count; ++i) {
        if (!rows[i].defined()) continue;
        rlaif::matmul_into(dx, rows[i], saved[1 + i], into);
        into = rlaif::Into::kAdd;
      }
      result[0] = dx.view(saved[0].sizes());
    }
    for (size_t i = 0; i < count; ++i) {
      if (!rows[i].defined()) continue;
      if (ctx->needs_input_grad(1 + i)) result[1 + i] = rlaif::matmul(rows[i].t(), x);
      if (i < biases && ctx->needs_input_grad(1 + count + i)) {
        result[1 + count + i] = rows[i].sum(0);
      }
    }
    return result;
  }
};

bool is_fused(const at::Tensor& t) {
  return t.device().is_cpu() &&
         (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

}  // namespace

int32_t rlaif_linear(const at::Tensor* x, const at::Tensor* const* weights,
                     const at::Tensor* const* biases, size_t len, const at::Tensor* residual,
                     at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    std::vector<at::Tensor> w, b;
    const auto alike = [&](const at::Tensor& t) { return t.scalar_type() == x->scalar_type(); };
    bool fused = is_fused(*x) && x->numel() > 0 && (!residual || alike(*residual));
    for (size_t i = 0; i < len; ++i) {
      w.push_back(*weights[i]);
      fused = fused && alike(w.back()) && w.back().dim() == 2;
      if (biases) {
        b.push_back(*biases[i]);
        fused = fused && alike(b.back());
      }
    }
    variable_list results;
    if (fused) {
      results = Linear::apply(*x, at::TensorList(w), at::TensorList(b),
                              residual ? std::optional<at::Tensor>(*residual) : std::nullopt);
    } else {
      for (size_t i = 0; i < len; ++i) {
        results.push_back(
            at::linear(*x, w[i], biases ? std::optional<at::Tensor>(b[i]) : std::nullopt));
      }
      if (residual) results[0] = residual->add(results[0]);
    }
    for (size_t i = 0; i < len; ++i) out[i] = rlaif::give(results[i]);
  });
}

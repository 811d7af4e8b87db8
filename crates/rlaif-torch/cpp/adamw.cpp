// AdamW (Loshchilov and Hutter, 2019): a kernel of ours on the CPU, libtorch's fused ones elsewhere.
#include "common.hpp"
#include "optimizer.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <vector>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Elements of gradients that are converted to f32 at a time: few large launches count, and the
// temporary memory is bounded.
constexpr int64_t kDeviceChunk = int64_t{1} << 26;

struct Lists {
  Tensors params, grads, exp_avgs, exp_avg_sqs, steps;

  void step(const RlaifAdamWOptions& o) const {
    if (params.empty()) return;
    if (o.gradient != 1) at::_foreach_mul_(grads, o.gradient);
    at::_fused_adamw_(params, grads, exp_avgs, exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps, o.lr,
                      o.beta1, o.beta2, o.weight_decay, o.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
};

// The kernels walk memory element by element, so every operand must have one layout.
void check_slot(const RlaifAdamWSlot& s) {
  const Tensor& work = *s.exp_avg;
  const auto kind = s.param->scalar_type();
  TORCH_CHECK(s.remainder ? kind == at::kBFloat16
              : s.master  ? kind == at::kHalf || kind == at::kBFloat16
                          : kind == at::kFloat,
              "parameter changed its kind to ", kind, " since the optimizer was built");
  for (const Tensor* t : {s.param, s.master, s.remainder, s.exp_avg_sq}) {
    TORCH_CHECK(!t || (t->sizes() == work.sizes() && t->strides() == work.strides() &&
                       t->device() == work.device() && t->is_non_overlapping_and_dense()),
                "parameter changed its shape or device since the optimizer was built");
  }
}

Tensor laid_out_like(const Tensor& grad, const Tensor& param) {
  rlaif::check_dense(grad);
  TORCH_CHECK(grad.sizes() == param.sizes() && grad.device() == param.device() &&
                  grad.scalar_type() == param.scalar_type(),
              "gradient ", grad.scalar_type(), grad.sizes(), " on ", grad.device(),
              " for a parameter ", param.scalar_type(), param.sizes(), " on ", param.device());
  if (grad.strides() == param.strides()) return grad;
  return at::empty_like(param, grad.scalar_type()).copy_(grad);
}

// On the CPU; `t` counts this step.
rlaif::AdamWStep cpu_step(const RlaifAdamWSlot& s, const Tensor& grad, const RlaifAdamWOptions& o) {
  const double t = s.step->item<float>();
  return {s.param->mutable_data_ptr(),
          grad.const_data_ptr(),
          s.param->scalar_type(),
          s.remainder ? s.remainder->mutable_data_ptr<int16_t>() : nullptr,
          s.master ? s.master->mutable_data_ptr<float>() : nullptr,
          s.exp_avg->mutable_data_ptr<float>(),
          s.exp_avg_sq->mutable_data_ptr<float>(),
          s.param->numel(),
          static_cast<float>(1.0 - o.lr * o.weight_decay),
          static_cast<float>(o.lr / (1.0 - std::pow(o.beta1, t))),
          static_cast<float>(std::sqrt(1.0 - std::pow(o.beta2, t)))};
}

// What one device's fused calls take.
struct Bucket {
  c10::Device device;
  Lists lists;
  Tensors low, masters;
  int64_t converted = 0;

  void flush(const RlaifAdamWOptions& o) {
    lists.step(o);
    if (!low.empty()) at::_foreach_copy_(low, masters);
    lists = {};
    low.clear();
    masters.clear();
    converted = 0;
  }
};

Bucket& bucket_of(std::vector<Bucket>& buckets, c10::Device device) {
  for (Bucket& b : buckets)
    if (b.device == device) return b;
  return buckets.emplace_back(Bucket{device, {}, {}, {}});
}

void step(const RlaifAdamWSlot* slots, size_t len, const RlaifAdamWOptions& o) {
  const at::NoGradGuard no_grad;
  // Everything is checked before anything is written.
  std::vector<std::pair<const RlaifAdamWSlot*, Tensor>> work;
  for (size_t i = 0; i < len; ++i) {
    const Tensor& grad = slots[i].param->grad();
    if (!grad.defined()) continue;
    check_slot(slots[i]);
    work.emplace_back(&slots[i], laid_out_like(grad, *slots[i].param));
  }

  std::vector<Bucket> buckets;
  for (const auto& [slot, grad] : work)
    bucket_of(buckets, slot->param->device()).lists.steps.push_back(*slot->step);
  for (Bucket& b : buckets) {
    at::_foreach_add_(b.lists.steps, 1);
    b.lists.steps.clear();
  }

  std::vector<rlaif::AdamWStep> on_cpu;
  for (const auto& [slot, grad] : work) {
    if (slot->param->numel() == 0) continue;
    if (slot->param->is_cpu()) {
      on_cpu.push_back(cpu_step(*slot, grad, o));
      slot->param->unsafeGetTensorImpl()->bump_version();
      continue;
    }
    Bucket& b = bucket_of(buckets, slot->param->device());
    if (slot->master) {
      b.lists.params.push_back(*slot->master);
      b.lists.grads.push_back(grad.to(at::kFloat));
      b.low.push_back(*slot->param);
      b.masters.push_back(*slot->master);
      b.converted += grad.numel();
    } else {
      b.lists.params.push_back(*slot->param);
      b.lists.grads.push_back(grad);
    }
    b.lists.exp_avgs.push_back(*slot->exp_avg);
    b.lists.exp_avg_sqs.push_back(*slot->exp_avg_sq);
    b.lists.steps.push_back(*slot->step);
    if (b.converted >= kDeviceChunk) b.flush(o);
  }
  rlaif::adamw_step(on_cpu, o.beta1, o.beta2, o.eps, o.gradient);
  for (Bucket& b : buckets) b.flush(o);
}

}  // namespace

int32_t rlaif_adamw_step(const RlaifAdamWSlot* slots, size_t len,
                         const RlaifAdamWOptions* options) noexcept {
  return rlaif::guarded([&] { step(slots, len, *options); });
}

int32_t rlaif_is_dense(const at::Tensor* tensor) noexcept {
  return tensor->layout() == c10::kStrided && tensor->is_non_overlapping_and_dense();
}

// AdamW (Loshchilov and Hutter, 2019) with libtorch's fused kernels over lists of tensors.
#include "common.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <vector>

extern "C" {

// Mirrored by `Options` in src/ffi.rs.
struct RlaifAdamWOptions {
  double lr, beta1, beta2, eps, weight_decay;
};

// One parameter and its state; `master` is null where the parameter is stepped on itself.
// Mirrored by `Slot` in src/ffi.rs.
struct RlaifAdamWSlot {
  const at::Tensor *param, *master, *exp_avg, *exp_avg_sq, *step;
};

}  // extern "C"

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Elements of a gradient that are converted to f32 at a time. On the CPU the converted chunk stays
// in the cache; on a GPU few large launches count, and the temporary memory is bounded.
constexpr int64_t kCpuChunk = int64_t{1} << 18;
constexpr int64_t kDeviceChunk = int64_t{1} << 26;

struct Lists {
  Tensors params, grads, exp_avgs, exp_avg_sqs, steps;

  void step(const RlaifAdamWOptions& o) const {
    if (params.empty()) return;
    at::_fused_adamw_(params, grads, exp_avgs, exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps, o.lr,
                      o.beta1, o.beta2, o.weight_decay, o.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
};

// The fused kernels walk memory element by element, so every operand must have one layout.
void check_slot(const RlaifAdamWSlot& s) {
  const Tensor& work = s.master ? *s.master : *s.param;
  TORCH_CHECK(work.scalar_type() == at::kFloat, "parameter changed its kind to ",
              work.scalar_type(), " since the optimizer was built");
  for (const Tensor* t : {s.param, s.exp_avg, s.exp_avg_sq}) {
    TORCH_CHECK(t->sizes() == work.sizes() && t->strides() == work.strides() &&
                    t->device() == work.device() && t->is_non_overlapping_and_dense(),
                "parameter changed its shape or device since the optimizer was built");
  }
}

Tensor laid_out_like(const Tensor& grad, const Tensor& param) {
  rlaif::check_dense(grad);
  TORCH_CHECK(grad.sizes() == param.sizes() && grad.device() == param.device(), "gradient ",
              grad.sizes(), " on ", grad.device(), " for a parameter ", param.sizes(), " on ",
              param.device());
  if (grad.strides() == param.strides()) return grad;
  return at::empty_like(param, grad.scalar_type()).copy_(grad);
}

// The elements [begin, begin + len) in memory order.
Tensor span(const Tensor& t, int64_t begin, int64_t len) {
  return at::as_strided(t, {len}, {1}, t.storage_offset() + begin);
}

// A low-precision parameter on the CPU: convert, step and round chunk by chunk.
void step_cpu_master(const RlaifAdamWSlot& s, const Tensor& grad, Tensor& buffer,
                     const RlaifAdamWOptions& o) {
  const Tensor param = s.param->detach();
  const int64_t n = param.numel();
  for (int64_t begin = 0; begin < n; begin += kCpuChunk) {
    const int64_t len = std::min(kCpuChunk, n - begin);
    Tensor grad32 = span(buffer, 0, len);
    grad32.copy_(span(grad, begin, len));
    const Tensor master = span(*s.master, begin, len);
    Lists{{master},
          {grad32},
          {span(*s.exp_avg, begin, len)},
          {span(*s.exp_avg_sq, begin, len)},
          {*s.step}}
        .step(o);
    span(param, begin, len).copy_(master);
  }
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

  Tensor buffer;
  for (const auto& [slot, grad] : work) {
    if (slot->param->numel() == 0) continue;
    if (slot->master && slot->param->is_cpu()) {
      if (!buffer.defined()) buffer = at::empty({kCpuChunk}, at::kFloat);
      step_cpu_master(*slot, grad, buffer, o);
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
  for (Bucket& b : buckets) b.flush(o);
}

}  // namespace

extern "C" {

int32_t rlaif_adamw_step(const RlaifAdamWSlot* slots, size_t len,
                         const RlaifAdamWOptions* options) noexcept {
  return rlaif::guarded([&] { step(slots, len, *options); });
}

// 1 where a fused kernel may walk the tensor's memory: no gaps, no element twice.
int32_t rlaif_is_dense(const at::Tensor* tensor) noexcept {
  return tensor->layout() == c10::kStrided && tensor->is_non_overlapping_and_dense();
}

}  // extern "C"

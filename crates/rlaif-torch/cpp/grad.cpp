// Global gradient norm, clipping by it, and dropping gradients.
#include "common.hpp"
#include "optimizer.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

struct Bucket {
  rlaif::Kin kin;
  Tensors grads;
  std::vector<size_t> index;
};

std::vector<Bucket> gradients(const Tensor* const* params, size_t len) {
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < len; ++i) {
    const Tensor& grad = params[i]->grad();
    if (!grad.defined()) continue;
    rlaif::check_dense(grad);
    auto it = buckets.begin();
    while (it != buckets.end() && !it->kin.holds(grad)) ++it;
    if (it == buckets.end())
      it = buckets.insert(it, {{grad.device(), grad.scalar_type()}, {}, {}});
    it->grads.push_back(grad.detach());
    it->index.push_back(i);
  }
  return buckets;
}

// Norms of single tensors: low precision is summed in f32.
Tensors norms(const Tensors& tensors, const at::Scalar& order) {
  const auto dtype = c10::promoteTypes(tensors[0].scalar_type(), at::kFloat);
  return at::_foreach_norm(tensors, order, dtype);
}

// The elements of CPU tensors that a kernel of ours takes; nothing if there is one that it does not.
std::vector<rlaif::Elements> elements(const Bucket& b) {
  std::vector<rlaif::Elements> all;
  if (!b.kin.device.is_cpu() || !rlaif::is_cpu_kind(b.kin.dtype)) return all;
  for (const Tensor& g : b.grads) {
    if (!g.is_non_overlapping_and_dense()) return {};
    all.push_back({g.mutable_data_ptr(), g.numel(), b.kin.dtype});
  }
  return all;
}

Tensor norm_of(const Bucket& b) {
  const auto all = elements(b);
  if (!all.empty()) {
    return at::full({}, std::sqrt(rlaif::sum_of_squares(all)), at::kDouble);
  }
  return at::linalg_vector_norm(at::stack(norms(b.grads, 2)).to(at::kDouble));
}

void multiply(const Bucket& b, double factor) {
  const auto all = elements(b);
  if (all.empty()) {
    at::_foreach_mul_(b.grads, factor);
  } else {
    rlaif::scale(all, factor);
    for (const Tensor& g : b.grads) g.unsafeGetTensorImpl()->bump_version();
  }
}

// sqrt(sum of squares) over all gradients, 0-dim f64 on the first gradient's device.
Tensor total_norm(const std::vector<Bucket>& buckets) {
  if (buckets.empty()) return at::zeros({}, at::kDouble);
  Tensors all;
  for (const Bucket& b : buckets) {
    all.push_back(norm_of(b).to(buckets[0].kin.device));
  }
  return all.size() == 1 ? all[0] : at::linalg_vector_norm(at::stack(all));
}

// torch.nn.utils.clip_grad_norm_ adds this to the norm.
constexpr double kEpsilon = 1e-6;

}  // namespace

int32_t rlaif_grad_clip(const Tensor* const* params, size_t len, double max_norm, double* norm,
                        double* factor) noexcept {
  return rlaif::guarded([&] {
    const at::NoGradGuard no_grad;
    auto buckets = gradients(params, len);
    *norm = total_norm(buckets).item<double>();
    const double scale = max_norm / (*norm + kEpsilon);
    // Not finite: scaling would spread it over every gradient, and hide where it came from.
    const bool clips = std::isfinite(*norm) && scale < 1.0;
    if (factor) {
      *factor = clips ? scale : 1.0;
    } else if (clips) {
      for (const Bucket& b : buckets) multiply(b, scale);
    }
  });
}

int32_t rlaif_grad_clip_async(const Tensor* const* params, size_t len, double max_norm,
                              Tensor** norm) noexcept {
  return rlaif::guarded([&] {
    const at::NoGradGuard no_grad;
    auto buckets = gradients(params, len);
    const Tensor total = total_norm(buckets);
    const Tensor scale = total.add(kEpsilon).reciprocal().mul(max_norm).clamp_max(1.0);
    for (Bucket& b : buckets) {
      const auto dtype = c10::promoteTypes(b.kin.dtype, at::kFloat);
      at::_foreach_mul_(b.grads, scale.to(b.kin.device, dtype));
    }
    *norm = rlaif::give(total);
  });
}

int32_t rlaif_grad_non_finite(const Tensor* const* params, size_t len, uint8_t* flags) noexcept {
  return rlaif::guarded([&] {
    const at::NoGradGuard no_grad;
    for (const Bucket& b : gradients(params, len)) {
      // The largest magnitude is finite exactly where every element is; a sum could overflow.
      const double infinity = std::numeric_limits<double>::infinity();
      Bucket filled{b.kin, {}, {}};
      for (size_t i = 0; i < b.grads.size(); ++i) {
        if (b.grads[i].numel() == 0) continue;
        filled.grads.push_back(b.grads[i]);
        filled.index.push_back(b.index[i]);
      }
      if (filled.grads.empty()) continue;
      const Tensor finite = at::isfinite(at::stack(norms(filled.grads, infinity))).cpu();
      const bool* ok = finite.const_data_ptr<bool>();
      for (size_t i = 0; i < filled.index.size(); ++i) flags[filled.index[i]] = !ok[i];
    }
  });
}

int32_t rlaif_grad_drop(const Tensor* const* params, size_t len) noexcept {
  return rlaif::guarded([&] {
    for (size_t i = 0; i < len; ++i) {
      if (params[i]->grad().defined()) params[i]->mutable_grad().reset();
    }
  });
}

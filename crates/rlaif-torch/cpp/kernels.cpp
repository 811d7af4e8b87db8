// Kernels that libtorch lacks on the CPU, each with its own backward: RMS norm and rotary position
// embedding. One pass over memory instead of a chain of element-wise operations.
//
// This file is compiled with -fassociative-math and its companions, so that sums vectorise; NaN and
// infinity still propagate.

#include "common.hpp"
#include "parallel.hpp"
#include "vector.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Rows below this are not worth a thread of their own.
constexpr int64_t kGrain = 16384;

int64_t rows_per_task(int64_t width) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
}

// ---- RMS norm ------------------------------------------------------------------------------------

// What is scaled is rounded to T before the weight is applied, as transformers does.
template <typename T>
RLAIF_INLINE void rms_forward_body(const T* x, const T* w, T* y, float* scale, int64_t begin,
                                   int64_t end, int64_t width, float epsilon) {
  for (int64_t row = begin; row < end; ++row) {
    const T* in = x + row * width;
    T* out = y + row * width;
    float squares = 0;
    for (int64_t i = 0; i < width; ++i) {
      const float a = static_cast<float>(in[i]);
      squares += a * a;
    }
    const float r = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
    scale[row] = r;
    for (int64_t i = 0; i < width; ++i) {
      const T scaled = static_cast<T>(static_cast<float>(in[i]) * r);
      out[i] = static_cast<T>(static_cast<float>(scaled) * static_cast<float>(w[i]));
    }
  }
}
template <typename T>
constexpr auto rms_forward = rlaif::AtWidth<rms_forward_body<T>>::run;

template <typename T>
RLAIF_INLINE void rms_backward_body(const T* dy, const T* x, const T* w, const float* scale,
                                    const T* beside, T* dx, float* dw, int64_t begin, int64_t end,
                                    int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    const T* g = dy + row * width;
    const T* in = x + row * width;
    const T* other = beside ? beside + row * width : nullptr;
    T* out = dx + row * width;
    const float r = scale[row];
    float dot = 0;
    for (int64_t i = 0; i < width; ++i) {
      dot += static_cast<float>(g[i]) * static_cast<float>(w[i]) * static_cast<float>(in[i]);
    }
    const float pull = r * r * r * dot / static_cast<float>(width);
    for (int64_t i = 0; i < width; ++i) {
      const float a = static_cast<float>(in[i]);
      const float b = static_cast<float>(g[i]);
      const float c = other ? static_cast<float>(other[i]) : 0.0f;
      out[i] = static_cast<T>(r * b * static_cast<float>(w[i]) - pull * a + c);
      dw[i] += b * a * r;
    }
  }
}
template <typename T>
constexpr auto rms_backward = rlaif::AtWidth<rms_backward_body<T>>::run;

// The norm of x, and x itself for the residual beside it, whose gradient is added where the norm's
// is computed.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const at::Tensor& weight_in, double epsilon) {
    const rlaif::BelowAutograd below;
    const auto in = x.contiguous(), weight = weight_in.contiguous();
    const int64_t width = in.size(-1);
    const int64_t rows = in.numel() / width;
    const auto out = at::empty_like(in);
    const auto scale = at::empty({rows}, in.options().dtype(at::kFloat));
    rlaif::by_kind(in, [&](auto zero) {
      using T = decltype(zero);
      const T* xp = in.const_data_ptr<T>();
      const T* wp = weight.const_data_ptr<T>();
      T* yp = out.template mutable_data_ptr<T>();
      float* sp = scale.mutable_data_ptr<float>();
      rlaif::parallel_for(rows, rows_per_task(width), [&](int64_t begin, int64_t end) {
        rms_forward<T>(xp, wp, yp, sp, begin, end, width, static_cast<float>(epsilon));
      });
    });
    ctx->save_for_backward({in, weight, scale});
    ctx->set_materialize_grads(false);
    return {out, x};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const auto saved = ctx->get_saved_variables();
    const auto& x = saved[0];
    const auto& weight = saved[1];
    if (!grads[0].defined()) return {grads[1], Variable(), Variable()};
    const auto dy = grads[0].contiguous();
    const auto beside = grads[1].defined() ? grads[1].contiguous() : grads[1];
    const int64_t width = x.size(-1);
    const int64_t rows = x.numel() / width;
    const auto dx = at::empty_like(x);
    // Each task sums its rows apart, in a fixed division of the rows, so that the result does not
    // depend on which thread came first.
    const int64_t step = std::max(rows_per_task(width), (rows + 31) / 32);
    const int64_t tasks = std::max<int64_t>(1, (rows + step - 1) / step);
    const auto partial = at::zeros({tasks, width}, x.options().dtype(at::kFloat));
    rlaif::by_kind(x, [&](auto zero) {
      using T = decltype(zero);
      const T* gp = dy.const_data_ptr<T>();
      const T* xp = x.const_data_ptr<T>();
      const T* wp = weight.const_data_ptr<T>();
      const float* sp = saved[2].const_data_ptr<float>();
      const T* bp = beside.defined() ? beside.const_data_ptr<T>() : nullptr;
      T* dxp = dx.template mutable_data_ptr<T>();
      float* pp = partial.mutable_data_ptr<float>();
      rlaif::parallel_tasks(tasks, [&](int64_t task) {
        rms_backward<T>(gp, xp, wp, sp, bp, dxp, pp + task * width, task * step,
                        std::min(rows, (task + 1) * step), width);
      });
    });
    return {dx, partial.sum(0).to(weight.scalar_type()), Variable()};
  }
};

// Any kind and device, by libtorch's own operations and their gradients.
at::Tensor rms_norm_composed(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  // One kernel each way, where a chain of them would keep the host busy. In low precision it rounds
  // once, after the weight.
  if (x.is_cuda() && weight.is_cuda() && x.scalar_type() == weight.scalar_type()) {
    return std::get<0>(at::_fused_rms_norm(x, {x.size(-1)}, weight, epsilon));
  }
  const auto wide = x.to(at::kFloat);
  const auto scale = wide.square().mean({-1}, /*keepdim=*/true).add_(epsilon).rsqrt_();
  return wide.mul(scale).to(weight.scalar_type()).mul(weight);
}

// ---- Rotary position embedding -------------------------------------------------------------------

// `sign` is 1 forward and -1 backward: turning back is the gradient of turning.
template <typename T>
RLAIF_INLINE void rotate_rows_body(const T* x, const T* cos, const T* sin, T* y, int64_t begin,
                                   int64_t end, int64_t period, int64_t heads, int64_t width,
                                   float sign) {
  const int64_t half = width / 2;
  for (int64_t row = begin; row < end; ++row) {
    const T* c = cos + (row % period) * width;
    const T* s = sin + (row % period) * width;
    for (int64_t head = 0; head < heads; ++head) {
      const T* in = x + (row * heads + head) * width;
      T* out = y + (row * heads + head) * width;
      for (int64_t i = 0; i < half; ++i) {
        const float a = static_cast<float>(in[i]);
        const float b = static_cast<float>(in[half + i]);
        const float ca = static_cast<float>(c[i]);
        const float sa = sign * static_cast<float>(s[i]);
        out[i] = static_cast<T>(a * ca - b * sa);
        out[half + i] = static_cast<T>(b * ca + a * sa);
      }
    }
  }
}
template <typename T>
constexpr auto rotate_rows = rlaif::AtWidth<rotate_rows_body<T>>::run;

at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, float sign) {
  const auto in = x.contiguous();
  const int64_t width = in.size(-1);
  const int64_t heads = in.size(-2);
  const int64_t rows = in.numel() / (width * heads);
  const int64_t period = cos.numel() / width;
  auto out = at::empty_like(in);
  rlaif::by_kind(in, [&](auto zero) {
    using T = decltype(zero);
    const T* xp = in.const_data_ptr<T>();
    const T* cp = cos.const_data_ptr<T>();
    const T* sp = sin.const_data_ptr<T>();
    T* yp = out.template mutable_data_ptr<T>();
    rlaif::parallel_for(rows, rows_per_task(width * heads), [&](int64_t begin, int64_t end) {
      rotate_rows<T>(xp, cp, sp, yp, begin, end, period, heads, width, sign);
    });
  });
  return out;
}

struct Rope : torch::autograd::Function<Rope> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    const rlaif::BelowAutograd below;
    ctx->save_for_backward({cos, sin});
    return rotated(x, cos, sin, 1.0f);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const auto saved = ctx->get_saved_variables();
    return {rotated(grads[0], saved[0], saved[1], -1.0f), Variable(), Variable()};
  }
};

at::Tensor rope_composed(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  const auto turned = at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
  return x.mul(cos).add(turned.mul(sin));
}

}  // namespace

int32_t rlaif_rms_norm(const at::Tensor* x, const at::Tensor* weight, double epsilon,
                       at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto kind = x->scalar_type();
    const bool fused = x->device().is_cpu() && (kind == at::kFloat || kind == at::kBFloat16) &&
                       weight->scalar_type() == kind && x->numel() > 0;
    const auto results = fused ? RmsNorm::apply(*x, *weight, epsilon)
                               : variable_list{rms_norm_composed(*x, *weight, epsilon), *x};
    out[0] = rlaif::give(results[0]);
    out[1] = rlaif::give(results[1]);
  });
}

int32_t rlaif_rope(const at::Tensor* x, const at::Tensor* cos, const at::Tensor* sin,
                   at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto kind = x->scalar_type();
    const bool fused = x->device().is_cpu() && (kind == at::kFloat || kind == at::kBFloat16) &&
                       cos->scalar_type() == kind && x->numel() > 0;
    *out = rlaif::give(fused ? Rope::apply(*x, cos->contiguous(), sin->contiguous())
                             : rope_composed(*x, *cos, *sin));
  });
}

// Gated activations, act(gate) · up, one pass over memory each way.
//
// Compiled like kernels.cpp.
#include "common.hpp"
#include "parallel.hpp"
#include "vector.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/silu.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Elements below this are not worth a thread of their own.
constexpr int64_t kGrain = 16384;

// 1 / (1 + exp(-x)).
RLAIF_INLINE float sigmoid(float x) {
  const float y = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
  return 1.0f / (1.0f + rlaif::exponential(-y));
}

// The tanh approximation of GELU is x σ(2 z) with z = sqrt(2/π) (x + 0.044715 x³): both
// activations are x σ(u(x)), with derivative σ + x u' σ (1 - σ).
template <int32_t G>
RLAIF_INLINE float inner(float x) {
  return G == kSilu ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
}
template <int32_t G>
RLAIF_INLINE float inner_slope(float x) {
  return G == kSilu ? 1.0f : 1.5957691216f * (1.0f + 0.134145f * x * x);
}

template <int32_t G>
RLAIF_INLINE void forward_block_body(const float* gate, const float* up, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = gate[i];
    // An infinite gate: its sigmoid is that of the largest number, and no number stays none.
    out[i] = x * sigmoid(inner<G>(x)) * up[i];
  }
}
template <int32_t G>
constexpr auto forward_block = rlaif::AtWidth<forward_block_body<G>>::run;

template <int32_t G>
RLAIF_INLINE void backward_block_body(const float* dy, const float* gate, const float* up, float* dgate,
                                      float* dup, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = gate[i];
    const float g = dy[i];
    const float s = sigmoid(inner<G>(x));
    dup[i] = g * x * s;
    dgate[i] = g * up[i] * (s + x * inner_slope<G>(x) * s * (1.0f - s));
  }
}
template <int32_t G>
constexpr auto backward_block = rlaif::AtWidth<backward_block_body<G>>::run;

// Elements that are converted from bf16 at a time.
constexpr int64_t kBlock = 256;

using rlaif::narrow;
using rlaif::widen;

template <typename T, int32_t G>
void forward_span(const T* gate, const T* up, T* out, int64_t begin, int64_t end) {
  if constexpr (std::is_same_v<T, float>) {
    forward_block<G>(gate + begin, up + begin, out + begin, end - begin);
  } else {
    float x[kBlock], u[kBlock], y[kBlock];
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      widen(gate + i, x, n);
      widen(up + i, u, n);
      forward_block<G>(x, u, y, n);
      narrow(y, out + i, n);
    }
  }
}

template <typename T, int32_t G>
void backward_span(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t begin,
                   int64_t end) {
  if constexpr (std::is_same_v<T, float>) {
    backward_block<G>(dy + begin, gate + begin, up + begin, dgate + begin, dup + begin,
                      end - begin);
  } else {
    float g[kBlock], x[kBlock], u[kBlock], dx[kBlock], du[kBlock];
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      widen(dy + i, g, n);
      widen(gate + i, x, n);
      widen(up + i, u, n);
      backward_block<G>(g, x, u, dx, du, n);
      narrow(dx, dgate + i, n);
      narrow(du, dup + i, n);
    }
  }
}

[[noreturn]] void refuse(int64_t activation) {
  TORCH_CHECK(false, "no gate has the activation with the number ", activation);
}

// act(gate) by libtorch's operations.
at::Tensor activated(const at::Tensor& gate, int64_t activation) {
  switch (activation) {
    case kSilu:
      return at::silu(gate);
    case kGeluTanh:
      return at::gelu(gate, "tanh");
    default:
      refuse(activation);
  }
}

// Calls `run` with a zero of the tensor's kind and the gate as constants, and refuses other gates.
template <typename F>
void by_kind_and_gate(const at::Tensor& t, int64_t gate, F&& run) {
  rlaif::by_kind(t, [&](auto zero) {
    switch (gate) {
      case kSilu:
        run(zero, std::integral_constant<int32_t, kSilu>{});
        return;
      case kGeluTanh:
        run(zero, std::integral_constant<int32_t, kGeluTanh>{});
        return;
      default:
        refuse(gate);
    }
  });
}

struct Gated : torch::autograd::Function<Gated> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_in,
                            const at::Tensor& up_in, int64_t activation) {
    const rlaif::BelowAutograd below;
    const auto gate = gate_in.contiguous(), up = up_in.contiguous();
    const auto out = at::empty_like(gate);
    by_kind_and_gate(gate, activation, [&](auto zero, auto constant) {
      using T = decltype(zero);
      const T* gp = gate.const_data_ptr<T>();
      const T* up_p = up.const_data_ptr<T>();
      T* op = out.template mutable_data_ptr<T>();
      rlaif::parallel_for(gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
        forward_span<T, decltype(constant)::value>(gp, up_p, op, begin, end);
      });
    });
    ctx->save_for_backward({gate, up});
    ctx->saved_data["activation"] = activation;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const auto saved = ctx->get_saved_variables();
    const auto &gate = saved[0], &up = saved[1];
    const auto dy = grads[0].contiguous();
    const auto dgate = at::empty_like(gate), dup = at::empty_like(up);
    by_kind_and_gate(gate, ctx->saved_data["activation"].toInt(), [&](auto zero, auto constant) {
      using T = decltype(zero);
      const T* dp = dy.const_data_ptr<T>();
      const T* gp = gate.const_data_ptr<T>();
      const T* up_p = up.const_data_ptr<T>();
      T* dgp = dgate.template mutable_data_ptr<T>();
      T* dup_p = dup.template mutable_data_ptr<T>();
      rlaif::parallel_for(gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
        backward_span<T, decltype(constant)::value>(dp, gp, up_p, dgp, dup_p, begin, end);
      });
    });
    return {dgate, dup, Variable()};
  }
};

}  // namespace

int32_t rlaif_gated(const at::Tensor* gate, const at::Tensor* up, int32_t activation,
                    at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    TORCH_CHECK(gate->sizes() == up->sizes(), "a gate of size ", gate->sizes(),
                " on a tensor of size ", up->sizes());
    const auto kind = gate->scalar_type();
    const bool fused = gate->device().is_cpu() && up->scalar_type() == kind &&
                       (kind == at::kFloat || kind == at::kBFloat16) && gate->numel() > 0;
    if (fused) {
      *out = rlaif::give(Gated::apply(*gate, *up, activation));
    } else {
      *out = rlaif::give(activated(*gate, activation).mul(*up));
    }
  });
}

// The softmax over the vocabulary: a row fits the cache, so a row is read once and reduced there.
//
// Compiled like kernels.cpp, so that sums vectorise.
#include "common.hpp"
#include "softmax.hpp"
#include "parallel.hpp"
#include "vector.hpp"

#include <ATen/ops/logsumexp.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace {

using rlaif::exponential;
using rlaif::floored;

// Logits that are widened at a time.
constexpr int64_t kBlock = 512;

// The logits from `begin` on, in f32: themselves, or widened into `space`.
const float* wide(const float* logits, float*, int64_t) { return logits; }
const float* wide(const at::BFloat16* logits, float* space, int64_t n) {
  rlaif::widen(logits, space, n);
  return space;
}
void back(const float*, float*, int64_t) {}
void back(const float* numbers, at::BFloat16* to, int64_t n) { rlaif::narrow(numbers, to, n); }
float* place(float* out, float*) { return out; }
float* place(at::BFloat16*, float* space) { return space; }

RLAIF_INLINE float largest_of_body(const float* f, int64_t n, float largest) {
  for (int64_t v = 0; v < n; ++v) largest = f[v] > largest ? f[v] : largest;
  return largest;
}
constexpr auto largest_of = rlaif::AtWidth<largest_of_body>::run;

// With z = (f - largest) / t: adds the sums of e^z and of z e^z.
RLAIF_INLINE void sums_of_body(const float* f, int64_t n, float largest, float inverse, float* sum,
                               float* weighted) {
  float s = 0;
  float w = 0;
  for (int64_t v = 0; v < n; ++v) {
    const float z = floored((f[v] - largest) * inverse);
    const float e = exponential(z);
    s += e;
    w += e * z;
  }
  *sum += s;
  *weighted += w;
}
constexpr auto sums_of = rlaif::AtWidth<sums_of_body>::run;

RLAIF_INLINE void gradient_of_body(const float* f, float* df, int64_t n, float inverse,
                                   float normaliser, float entropy, float g_log, float g_entropy) {
  for (int64_t v = 0; v < n; ++v) {
    const float log_p = floored(f[v] * inverse - normaliser);
    const float p = exponential(log_p);
    df[v] = -p * (g_log + g_entropy * (log_p + entropy)) * inverse;
  }
}
constexpr auto gradient_of = rlaif::AtWidth<gradient_of_body>::run;

template <typename T>
void statistics(const T* logits, const int64_t* targets, float inverse, float* log_p,
                float* entropy, float* normaliser, int64_t begin, int64_t end, int64_t width) {
  float space[kBlock];
  for (int64_t row = begin; row < end; ++row) {
    const T* f = logits + row * width;
    const auto in_blocks = [&](auto&& run) {
      for (int64_t v = 0; v < width; v += kBlock) {
        const int64_t n = std::min(kBlock, width - v);
        run(wide(f + v, space, n), n);
      }
    };
    float largest = -std::numeric_limits<float>::infinity();
    in_blocks([&](const float* x, int64_t n) { largest = largest_of(x, n, largest); });
    float sum = 0;
    float weighted = 0;
    in_blocks([&](const float* x, int64_t n) { sums_of(x, n, largest, inverse, &sum, &weighted); });
    const float log_sum = std::log(sum);
    normaliser[row] = largest * inverse + log_sum;
    log_p[row] = (static_cast<float>(f[targets[row]]) - largest) * inverse - log_sum;
    entropy[row] = log_sum - weighted / sum;
  }
}

template <typename T>
void gradient(const T* logits, T* out, const int64_t* targets, float inverse,
              const float* normaliser, const float* entropy, const float* g_log,
              const float* g_entropy, int64_t begin, int64_t end, int64_t width) {
  float space[kBlock];
  for (int64_t row = begin; row < end; ++row) {
    const T* f = logits + row * width;
    T* df = out + row * width;
    const float a = g_log ? g_log[row] : 0.0f;
    const float b = g_entropy ? g_entropy[row] : 0.0f;
    for (int64_t v = 0; v < width; v += kBlock) {
      const int64_t n = std::min(kBlock, width - v);
      float* to = place(df + v, space);
      gradient_of(wide(f + v, space, n), to, n, inverse, normaliser[row], entropy[row], a, b);
      const int64_t target = targets[row] - v;
      if (target >= 0 && target < n) to[target] += a * inverse;
      back(to, df + v, n);
    }
  }
}

// A row is work enough for a thread.
constexpr int64_t kGrain = 1;

bool is_fused(const at::Tensor& logits) {
  const auto kind = logits.scalar_type();
  return logits.device().is_cpu() && logits.is_contiguous() &&
         (kind == at::kFloat || kind == at::kBFloat16);
}

}  // namespace

namespace rlaif {

void softmax_statistics(const at::Tensor& logits, const at::Tensor& targets, double temperature,
                        at::Tensor log_probs, at::Tensor entropies, at::Tensor normalisers) {
  if (is_fused(logits)) {
    const auto y = targets.contiguous();
    const float inverse = static_cast<float>(1.0 / temperature);
    rlaif::by_kind(logits, [&](auto zero) {
      using T = decltype(zero);
      rlaif::parallel_for(logits.size(0), kGrain, [&](int64_t begin, int64_t end) {
        statistics<T>(logits.const_data_ptr<T>(), y.const_data_ptr<int64_t>(), inverse,
                      log_probs.mutable_data_ptr<float>(), entropies.mutable_data_ptr<float>(),
                      normalisers.mutable_data_ptr<float>(), begin, end, logits.size(1));
      });
    });
    return;
  }
  auto f = logits.to(at::kFloat);
  if (temperature != 1.0) f = f.div(temperature);
  const auto lse = at::logsumexp(f, {1}, /*keepdim=*/true);
  log_probs.copy_(f.gather(1, targets.unsqueeze(1)).sub(lse).squeeze(1));
  normalisers.copy_(lse.squeeze(1));
  const auto log_p = f.sub(lse);
  entropies.copy_(log_p.exp().mul_(log_p).sum(1).neg_());
}

void softmax_gradient(const at::Tensor& logits, at::Tensor out, const at::Tensor& targets,
                      double temperature, const at::Tensor& normalisers, const at::Tensor& entropies,
                       const at::Tensor& g_log, const at::Tensor& g_entropy) {
  if (is_fused(logits)) {
    const auto y = targets.contiguous();
    const auto a = g_log.defined() ? g_log.contiguous() : g_log;
    const auto b = g_entropy.defined() ? g_entropy.contiguous() : g_entropy;
    const float inverse = static_cast<float>(1.0 / temperature);
    rlaif::by_kind(logits, [&](auto zero) {
      using T = decltype(zero);
      rlaif::parallel_for(logits.size(0), kGrain, [&](int64_t begin, int64_t end) {
        gradient<T>(logits.const_data_ptr<T>(), out.mutable_data_ptr<T>(), y.const_data_ptr<int64_t>(), inverse,
                    normalisers.const_data_ptr<float>(), entropies.const_data_ptr<float>(),
                    a.defined() ? a.const_data_ptr<float>() : nullptr,
                    b.defined() ? b.const_data_ptr<float>() : nullptr, begin, end, logits.size(1));
      });
    });
    return;
  }
  auto log_p = logits.to(at::kFloat);
  if (temperature != 1.0) log_p = log_p.div(temperature);
  log_p = log_p.sub(normalisers.unsqueeze(1));
  const auto p = log_p.exp();
  auto df = at::zeros_like(p);
  if (g_entropy.defined()) {
    df = log_p.add_(entropies.unsqueeze(1)).mul_(p).mul_(g_entropy.unsqueeze(1).neg());
  }
  if (g_log.defined()) {
    df.addcmul_(p, g_log.unsqueeze(1), -1);
    df.scatter_add_(1, targets.unsqueeze(1), g_log.unsqueeze(1));
  }
  if (temperature != 1.0) df.div_(temperature);
  out.copy_(df);
}

}  // namespace rlaif

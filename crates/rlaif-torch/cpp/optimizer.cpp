// Compiled like kernels.cpp.
#include "optimizer.hpp"
#include "parallel.hpp"
#include "vector.hpp"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace {

// Elements of one task, and of what is converted at a time: the latter stays in the first cache.
constexpr int64_t kPiece = int64_t{1} << 16;
constexpr int64_t kBlock = 512;

// Calls `run` with a zero of the kind, and refuses others than f32, bf16 and f16.
template <typename F>
void by_cpu_kind(c10::ScalarType kind, F&& run) {
  switch (kind) {
    case c10::kFloat:
      run(float{});
      return;
    case c10::kBFloat16:
      run(at::BFloat16{});
      return;
    case c10::kHalf:
      run(at::Half{});
      return;
    default:
      TORCH_CHECK_TYPE(false, "a tensor of Float, BFloat16 or Half is needed, this one is ", kind);
  }
}

// Refuses other kinds before the first element is written.
template <typename T>
void check_kinds(const std::vector<T>& all) {
  for (const auto& one : all) by_cpu_kind(one.kind, [](auto) {});
}

struct Rates {
  float beta1, beta2, fresh1, fresh2, epsilon, gradient, decay, step_size, correction;
};

RLAIF_INLINE void adamw_block_body(float* w, const float* g, float* m, float* v, int64_t n,
                                   const Rates& r) {
  const Rates k = r;
  for (int64_t i = 0; i < n; ++i) {
    const float grad = k.gradient * g[i];
    const float first = k.beta1 * m[i] + k.fresh1 * grad;
    const float second = k.beta2 * v[i] + k.fresh2 * grad * grad;
    m[i] = first;
    v[i] = second;
    const float root = std::sqrt(second) / k.correction + k.epsilon;
    w[i] = w[i] * k.decay - k.step_size * first / root;
  }
}
constexpr auto adamw_block = rlaif::AtWidth<adamw_block_body>::run;

// A weight is its upper half, to the nearest, and what is missing to it, which may be negative.
// Ties go up: to the even half they would leave a remainder that 16 bits cannot hold.
RLAIF_INLINE void join_body(const at::BFloat16* upper, const int16_t* remainder, float* w, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = (static_cast<uint32_t>(upper[i].x) << 16) +
                          static_cast<uint32_t>(static_cast<int32_t>(remainder[i]));
    std::memcpy(w + i, &bits, sizeof bits);
  }
}
constexpr auto join = rlaif::AtWidth<join_body>::run;

RLAIF_INLINE void split_body(const float* w, at::BFloat16* upper, int16_t* remainder, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, w + i, sizeof bits);
    const bool none = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t half = (bits + 0x8000) >> 16;
    upper[i].x = static_cast<uint16_t>(none ? 0x7fc0 : half);
    remainder[i] = static_cast<int16_t>(none ? 0 : bits - (half << 16));
  }
}
constexpr auto split = rlaif::AtWidth<split_body>::run;

RLAIF_INLINE void widen_half_body(const at::Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}
constexpr auto widen_half = rlaif::AtWidth<widen_half_body>::run;

RLAIF_INLINE void narrow_half_body(const float* from, at::Half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<at::Half>(from[i]);
}
constexpr auto narrow_half = rlaif::AtWidth<narrow_half_body>::run;

// Whether all bytes are zero.
RLAIF_INLINE bool none_body(const void* data, int64_t bytes) {
  const auto* x = static_cast<const uint8_t*>(data);
  uint8_t any = 0;
  for (int64_t i = 0; i < bytes; ++i) any |= x[i];
  return any == 0;
}
constexpr auto none = rlaif::AtWidth<none_body>::run;

// Whether a step changes nothing: without gradient so far, as the embeddings of tokens that have not
// been seen yet, most of a vocabulary. What is read to find out is a third of a step's memory.
bool stands_still(const rlaif::AdamWStep& s, int64_t begin, int64_t n, const Rates& rates) {
  const int64_t size = s.kind == c10::kFloat ? 4 : 2;
  const auto still = [&](int64_t at, int64_t count) {
    return none(static_cast<const char*>(s.grad) + at * size, count * size) &&
           none(s.exp_avg + at, count * 4) && none(s.exp_avg_sq + at, count * 4);
  };
  // The first few mostly tell.
  return rates.decay == 1.0f && rates.epsilon > 0 && still(begin, std::min<int64_t>(n, 16)) &&
         still(begin, n);
}

template <typename T>
void step_piece(const rlaif::AdamWStep& s, int64_t begin, int64_t end, const Rates& rates) {
  float g[kBlock], w[kBlock];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    if (stands_still(s, i, n, rates)) continue;
    float *m = s.exp_avg + i, *v = s.exp_avg_sq + i;
    auto* param = static_cast<T*>(s.param) + i;
    const auto* grad = static_cast<const T*>(s.grad) + i;
    if constexpr (std::is_same_v<T, float>) {
      adamw_block(param, grad, m, v, n, rates);
    } else if constexpr (std::is_same_v<T, at::BFloat16>) {
      rlaif::widen(grad, g, n);
      join(param, s.remainder + i, w, n);
      adamw_block(w, g, m, v, n, rates);
      split(w, param, s.remainder + i, n);
    } else {
      static_assert(std::is_same_v<T, at::Half>);
      widen_half(grad, g, n);
      adamw_block(s.master + i, g, m, v, n, rates);
      narrow_half(s.master + i, param, n);
    }
  }
}

RLAIF_INLINE double exact_squares_body(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double a = x[i];
    sum += a * a;
  }
  return sum;
}
constexpr auto exact_squares = rlaif::AtWidth<exact_squares_body>::run;

RLAIF_INLINE float fast_squares_body(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}
constexpr auto fast_squares = rlaif::AtWidth<fast_squares_body>::run;

// The sum of squares of a block. In f32, which is twice as fast, unless they are so small or so large
// that f32 may have lost some.
double squares(const float* x, int64_t n) {
  const float sum = fast_squares(x, n);
  if (sum > 1e-20f && sum < 1e30f) return sum;
  return sum == 0 && none(x, n * 4) ? 0 : exact_squares(x, n);
}

RLAIF_INLINE void multiply_body(const float* x, float* y, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}
constexpr auto multiply = rlaif::AtWidth<multiply_body>::run;

// A part of a list of arrays: what one task works on.
struct Piece {
  size_t of;
  int64_t begin, end;
};

template <typename T>
std::vector<Piece> pieces(const std::vector<T>& all) {
  std::vector<Piece> out;
  for (size_t i = 0; i < all.size(); ++i)
    for (int64_t begin = 0; begin < all[i].count; begin += kPiece)
      out.push_back({i, begin, std::min(all[i].count, begin + kPiece)});
  return out;
}

// Calls `run(numbers, n, back)` for blocks of a piece in f32; `back(numbers)` writes a block.
template <typename F>
void in_blocks(const rlaif::Elements& e, const Piece& piece, F&& run) {
  by_cpu_kind(e.kind, [&](auto zero) {
    using T = decltype(zero);
    float block[kBlock];
    for (int64_t i = piece.begin; i < piece.end; i += kBlock) {
      const int64_t n = std::min(kBlock, piece.end - i);
      T* x = static_cast<T*>(e.data) + i;
      if constexpr (std::is_same_v<T, float>) {
        run(x, n, [](float*) {});
      } else if constexpr (std::is_same_v<T, at::BFloat16>) {
        rlaif::widen(x, block, n);
        run(block, n, [&](float* from) { rlaif::narrow(from, x, n); });
      } else {
        static_assert(std::is_same_v<T, at::Half>);
        widen_half(x, block, n);
        run(block, n, [&](float* from) { narrow_half(from, x, n); });
      }
    }
  });
}

}  // namespace

namespace rlaif {

bool is_cpu_kind(c10::ScalarType kind) {
  return kind == c10::kFloat || kind == c10::kBFloat16 || kind == c10::kHalf;
}

void adamw_step(const std::vector<AdamWStep>& steps, double beta1, double beta2, double epsilon,
                double gradient) {
  check_kinds(steps);
  const auto work = pieces(steps);
  parallel_tasks(static_cast<int64_t>(work.size()), [&](int64_t task) {
    const Piece& piece = work[task];
    const AdamWStep& s = steps[piece.of];
    const Rates rates{static_cast<float>(beta1),       static_cast<float>(beta2),
                      static_cast<float>(1.0 - beta1), static_cast<float>(1.0 - beta2),
                      static_cast<float>(epsilon),     static_cast<float>(gradient),
                      s.decay,                         s.step_size,
                      s.correction};
    by_cpu_kind(s.kind, [&](auto zero) {
      step_piece<decltype(zero)>(s, piece.begin, piece.end, rates);
    });
  });
}

double sum_of_squares(const std::vector<Elements>& all) {
  check_kinds(all);
  const auto work = pieces(all);
  // Added in the order of the pieces, regardless of the thread that summed them.
  std::vector<double> sums(work.size());
  parallel_tasks(static_cast<int64_t>(work.size()), [&](int64_t task) {
    double sum = 0;
    in_blocks(all[work[task].of], work[task],
              [&](const float* x, int64_t n, auto&&) { sum += squares(x, n); });
    sums[task] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

void scale(const std::vector<Elements>& all, double factor) {
  check_kinds(all);
  const auto work = pieces(all);
  parallel_tasks(static_cast<int64_t>(work.size()), [&](int64_t task) {
    in_blocks(all[work[task].of], work[task], [&](float* x, int64_t n, auto&& back) {
      multiply(x, x, n, static_cast<float>(factor));
      back(x);
    });
  });
}

}  // namespace rlaif

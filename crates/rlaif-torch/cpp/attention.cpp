// Scaled dot-product attention with a learned bias, and its gradients.
//
// libtorch's fused attention has no gradient for a bias, which T5 learns; without it the scores of
// all heads go through memory half a dozen times. Here a block of queries meets all its keys while
// the scores stay in the cache, part by part if there are many, and the backward pass computes them again
// from their normalisers (Dao et al., 2022, arXiv:2205.14135). Queries and keys are read where the projections wrote them,
// and heads that share keys share them here.
//
// Compiled like kernels.cpp, so that sums vectorise.
#include "attention.hpp"
#include "common.hpp"
#include "matmul.hpp"
#include "parallel.hpp"
#include "tiles.hpp"
#include "vector.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace {

using c10::BFloat16;
using rlaif::Block;
using rlaif::Into;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Most queries of a block.
constexpr int64_t kQueries = 128;
// Most keys that a block of queries meets at once: their scores fit the second cache, with the panels of
// the products. And how many of more keys it meets at a time.
constexpr int64_t kMostKeys = 1024;
constexpr int64_t kKeys = 512;
// Rows of scores lie so much further apart, lest they all fall into the same places of the first cache.
constexpr int64_t kApart = 16;

// An additive bias `[B, heads, T, S]` whose last stride is 1; other strides may be 0.
struct Bias {
  const float* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Bias() = default;
  explicit Bias(const at::Tensor& t) {
    if (!t.defined()) return;
    data = t.const_data_ptr<float>();
    const auto stride = [&](int64_t d) { return t.size(d) == 1 ? 0 : t.stride(d); };
    batch = stride(0);
    head = stride(1);
    row = stride(2);
  }
  const float* at(int64_t b, int64_t h, int64_t t) const {
    return data ? data + b * batch + place(h, t) : nullptr;
  }
  // Where a row of the first of the batch begins.
  int64_t place(int64_t h, int64_t t) const { return h * head + t * row; }
};

// Scores of a block of queries to some of the keys: `count` rows, `stride` apart, of which query
// `first + i`, counted from the first of these keys, sees `seen(i)` of the `width` that some query of the
// block sees.
struct ScoreRows {
  float* x;
  int64_t stride, count, width, first, keys;
  bool causal;
  float scale;
  const float *bias, *mask;  // either may be null
  int64_t bias_row, mask_row;

  RLAIF_INLINE int64_t seen(int64_t i) const {
    return causal ? std::clamp<int64_t>(first + i + 1, 0, keys) : keys;
  }
  // x · scale + bias + mask of one row, in place.
  RLAIF_INLINE void shift(int64_t i, int64_t n) const {
    float* row = x + i * stride;
    const float *a = bias ? bias + i * bias_row : nullptr, *b = mask ? mask + i * mask_row : nullptr;
    if (a && b) {
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] * scale + a[j] + b[j];
    } else if (a || b) {
      const float* one = a ? a : b;
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] * scale + one[j];
    } else {
      for (int64_t j = 0; j < n; ++j) row[j] *= scale;
    }
  }
};

// Products become weights, 0 for keys that a query does not see; and the rows' normalisers.
RLAIF_INLINE void softmax_body(const ScoreRows& s, float* normalisers) {
  for (int64_t i = 0; i < s.count; ++i) {
    const int64_t n = s.seen(i);
    float* x = s.x + i * s.stride;
    s.shift(i, n);
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < n; ++j) largest = x[j] > largest ? x[j] : largest;
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) {
      x[j] = rlaif::exponential(rlaif::floored(x[j] - largest));
      sum += x[j];
    }
    const float inverse = 1.0f / sum;
    for (int64_t j = 0; j < n; ++j) x[j] *= inverse;
    for (int64_t j = n; j < s.width; ++j) x[j] = 0;
    normalisers[i] = largest + std::log(sum);
  }
}
constexpr auto softmax = rlaif::AtWidth<softmax_body>::run;

// Products become weights that are not divided by their sums yet: those of earlier keys are multiplied by
// `factors` if the largest product has grown.
RLAIF_INLINE void part_of_softmax_body(const ScoreRows& s, float* largest, float* sums,
                                       float* factors) {
  for (int64_t i = 0; i < s.count; ++i) {
    const int64_t n = s.seen(i);
    float* x = s.x + i * s.stride;
    s.shift(i, n);
    const float before = largest[i];
    float most = before;
    for (int64_t j = 0; j < n; ++j) most = x[j] > most ? x[j] : most;
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) {
      x[j] = rlaif::exponential(rlaif::floored(x[j] - most));
      sum += x[j];
    }
    for (int64_t j = n; j < s.width; ++j) x[j] = 0;
    // (Of nothing before, it multiplies zeros.)
    factors[i] = rlaif::exponential(rlaif::floored(before - most));
    largest[i] = most;
    sums[i] = sums[i] * factors[i] + sum;
  }
}
constexpr auto part_of_softmax = rlaif::AtWidth<part_of_softmax_body>::run;

// Multiplies rows of `width` by a factor each.
RLAIF_INLINE void scale_rows_body(float* rows, const float* factors, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i) {
    const float factor = factors[i];
    for (int64_t j = 0; j < width; ++j) rows[i * width + j] *= factor;
  }
}
constexpr auto scale_rows = rlaif::AtWidth<scale_rows_body>::run;

// Products become weights again, by their normalisers, and `dp`, the gradient of weights, that of
// products; that of scores is added to the bias's.
RLAIF_INLINE void softmax_backward_body(const ScoreRows& s, const float* normalisers,
                                        const float* deltas, float* dp, float* dbias) {
  for (int64_t i = 0; i < s.count; ++i) {
    const int64_t n = s.seen(i);
    float *p = s.x + i * s.stride, *g = dp + i * s.stride;
    const float normaliser = normalisers[i], delta = deltas[i];
    s.shift(i, n);
    for (int64_t j = 0; j < n; ++j) {
      p[j] = rlaif::exponential(rlaif::floored(p[j] - normaliser));
      g[j] = p[j] * (g[j] - delta);
    }
    if (dbias) {
      float* sum = dbias + i * s.bias_row;
      for (int64_t j = 0; j < n; ++j) sum[j] += g[j];
    }
    for (int64_t j = 0; j < n; ++j) g[j] *= s.scale;
    for (int64_t j = n; j < s.width; ++j) p[j] = g[j] = 0;
  }
}
constexpr auto softmax_backward = rlaif::AtWidth<softmax_backward_body>::run;

// Products of rows `stride` apart.
RLAIF_INLINE void float_dots_body(const float* a, const float* b, int64_t stride, int64_t count, int64_t width,
                       float* out) {
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < width; ++j) sum += a[i * stride + j] * b[i * stride + j];
    out[i] = sum;
  }
}
constexpr auto float_dots = rlaif::AtWidth<float_dots_body>::run;

RLAIF_INLINE void half_dots_body(const BFloat16* a, const BFloat16* b, int64_t stride, int64_t count,
                       int64_t width, float* out) {
  constexpr int64_t kPart = 64;
  float x[kPart], y[kPart];
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int64_t from = 0; from < width; from += kPart) {
      const int64_t part = std::min(kPart, width - from);
      rlaif::widen_here(a + i * stride + from, x, part);
      rlaif::widen_here(b + i * stride + from, y, part);
      for (int64_t j = 0; j < part; ++j) sum += x[j] * y[j];
    }
    out[i] = sum;
  }
}
constexpr auto half_dots = rlaif::AtWidth<half_dots_body>::run;

RLAIF_INLINE void narrow_rows_body(const float* from, int64_t stride, BFloat16* to, int64_t to_stride,
                                   int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i) {
    rlaif::narrow_here(from + i * stride, to + i * to_stride, width);
  }
}
constexpr auto narrow_rows = rlaif::AtWidth<narrow_rows_body>::run;

void dots(const float* a, const float* b, int64_t stride, int64_t count, int64_t width, float* out) {
  float_dots(a, b, stride, count, width, out);
}
void dots(const BFloat16* a, const BFloat16* b, int64_t stride, int64_t count, int64_t width,
          float* out) {
  half_dots(a, b, stride, count, width, out);
}

// Rows of f32 to where they belong.
void put_rows(const float* from, int64_t stride, float* to, int64_t to_stride, int64_t count,
              int64_t width) {
  for (int64_t i = 0; i < count; ++i) std::copy_n(from + i * stride, width, to + i * to_stride);
}
void put_rows(const float* from, int64_t stride, BFloat16* to, int64_t to_stride, int64_t count,
              int64_t width) {
  narrow_rows(from, stride, to, to_stride, count, width);
}

// Where the rows of a batch begin among its tokens: row b is `[begin[b], begin[b + 1])`.
struct Rows {
  std::vector<int64_t> begin{0};
  int64_t longest = 0;

  explicit Rows(at::IntArrayRef lengths) {
    for (const int64_t length : lengths) {
      begin.push_back(begin.back() + length);
      longest = std::max(longest, length);
    }
  }
  int64_t count() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t length(int64_t b) const { return begin[b + 1] - begin[b]; }
};

// Sizes and strides of one attention; queries `[tokens, heads, D]`, keys and values
// `[tokens, kv, D]`, all contiguous, rows one after another.
struct Shape {
  Rows queries, keys;
  int64_t heads, width, kv;
  bool causal;
  float scale;

  Shape(Rows queries, Rows keys, const at::Tensor& q, const at::Tensor& k, bool causal,
        double scale)
      : queries(std::move(queries)), keys(std::move(keys)), heads(q.size(2)), width(q.size(3)),
        kv(k.size(2)), causal(causal), scale(static_cast<float>(scale)) {}

  int64_t batch() const { return queries.count(); }
  // Blocks of the longest row, and the queries of a block of row b, blocks being even.
  int64_t blocks() const { return (queries.longest + kQueries - 1) / kQueries; }
  int64_t step(int64_t b) const {
    const int64_t length = queries.length(b), parts = (length + kQueries - 1) / kQueries;
    return parts == 0 ? 1 : (length + parts - 1) / parts;
  }
  int64_t group() const { return heads / kv; }
  int64_t query_row() const { return heads * width; }
  int64_t key_row() const { return kv * width; }
  int64_t query(int64_t b, int64_t t, int64_t h) const {
    return ((queries.begin[b] + t) * heads + h) * width;
  }
  int64_t key(int64_t b, int64_t h) const { return (keys.begin[b] * kv + h / group()) * width; }
  // Where the normaliser of a query is.
  int64_t normaliser(int64_t b, int64_t t, int64_t h) const {
    return h * queries.begin.back() + queries.begin[b] + t;
  }
  // Keys of row b that queries before `end` see.
  int64_t seen(int64_t b, int64_t end) const {
    return causal ? std::min(keys.length(b), end) : keys.length(b);
  }
};

// Rows of f32 as an operand of products with T: themselves, or rounded.
class Operand {
 public:
  template <typename T>
  Block<T> of(const float* rows, int64_t stride, int64_t count, int64_t width);

 private:
  std::vector<BFloat16> space_;
};

template <>
Block<float> Operand::of<float>(const float* rows, int64_t stride, int64_t, int64_t) {
  return {rows, stride, 1};
}

template <>
Block<BFloat16> Operand::of<BFloat16>(const float* rows, int64_t stride, int64_t count,
                                      int64_t width) {
  // A product of bf16 reads two elements at a time.
  const int64_t even = width + width % 2;
  space_.resize(count * even);
  narrow_rows(rows, stride, space_.data(), even, count, width);
  for (int64_t i = 0; i < count && even > width; ++i) space_[i * even + width] = 0.0f;
  return {space_.data(), even, 1};
}

// Sums of f32 that are to be T: where they belong, or aside until they are `written` there.
class Sums {
 public:
  float* at(float* data, int64_t stride, int64_t, int64_t) {
    stride_ = stride;
    return data;
  }
  float* at(BFloat16*, int64_t, int64_t rows, int64_t width) {
    space_.resize(rows * width);
    stride_ = width;
    return space_.data();
  }
  int64_t stride() const { return stride_; }
  void written(float*, int64_t, int64_t, int64_t) {}
  void written(BFloat16* data, int64_t stride, int64_t rows, int64_t width) {
    narrow_rows(space_.data(), width, data, stride, rows, width);
  }

 private:
  std::vector<float> space_;
  int64_t stride_ = 0;
};

// Products of queries [t0, t1) of one head with keys [s0, s1), and what is to become of them.
template <typename T>
ScoreRows scores(const Shape& s, const Block<T>& queries, const Block<T>& keys, const Bias& bias,
                 const Bias& mask, int64_t b, int64_t h, int64_t t0, int64_t t1, int64_t s0,
                 int64_t s1, float* out, int64_t stride) {
  const Block<T> these{keys.data + s0 * keys.row, keys.row, keys.column};
  rlaif::multiply_blocks(t1 - t0, s1 - s0, s.width, queries, these.t(), out, stride,
                         Into::kOverwrite);
  const auto from = [&](const Bias& x) { return x.data ? x.at(b, h, t0) + s0 : nullptr; };
  return {out,      stride,  t1 - t0,    s1 - s0,    t0 - s0,  s1 - s0,
          s.causal, s.scale, from(bias), from(mask), bias.row, mask.row};
}

// Part by part, in f32: sums of weighted values, rescaled whenever a larger score comes.
template <typename T>
void attend_in_parts(const Shape& s, const Block<T>& queries, const Block<T>& keys,
                     const Block<T>& values, const Bias& bias, const Bias& mask, int64_t b,
                     int64_t h, int64_t t0, int64_t t1, T* out, float* normalisers) {
  static thread_local std::vector<float> p, sums, largest, totals, factors;
  static thread_local Operand operand;
  const int64_t rows = t1 - t0, seen = s.seen(b, t1);
  constexpr int64_t stride = kKeys + kApart;
  p.resize(rows * stride);
  sums.resize(rows * s.width);
  factors.resize(rows);
  largest.assign(rows, -std::numeric_limits<float>::infinity());
  totals.assign(rows, 0.0f);
  for (int64_t s0 = 0; s0 < seen; s0 += kKeys) {
    const int64_t s1 = std::min(seen, s0 + kKeys);
    part_of_softmax(scores(s, queries, keys, bias, mask, b, h, t0, t1, s0, s1, p.data(), stride),
                    largest.data(), totals.data(), factors.data());
    if (s0 > 0) scale_rows(sums.data(), factors.data(), rows, s.width);
    const Block<T> these{values.data + s0 * values.row, values.row, values.column};
    rlaif::multiply_blocks(rows, s.width, s1 - s0,
                           operand.of<T>(p.data(), stride, rows, s1 - s0), these, sums.data(),
                           s.width, s0 > 0 ? Into::kAdd : Into::kOverwrite);
  }
  for (int64_t i = 0; i < rows; ++i) {
    normalisers[i] = largest[i] + std::log(totals[i]);
    factors[i] = 1.0f / totals[i];
  }
  scale_rows(sums.data(), factors.data(), rows, s.width);
  put_rows(sums.data(), s.width, out, s.query_row(), rows, s.width);
}

template <typename T>
void attend(const Shape& s, const T* q, const T* k, const T* v, const Bias& bias, const Bias& mask,
            T* out, float* normalisers) {
  rlaif::parallel_tasks(s.batch() * s.heads * s.blocks(), [&](int64_t task) {
    const int64_t b = task / (s.heads * s.blocks());
    const int64_t h = task / s.blocks() % s.heads;
    const int64_t t0 = task % s.blocks() * s.step(b);
    const int64_t t1 = std::min(s.queries.length(b), t0 + s.step(b));
    if (t0 >= t1) return;
    static thread_local std::vector<float> p;
    static thread_local Operand operand;
    const int64_t rows = t1 - t0, seen = s.seen(b, t1), stride = s.keys.length(b);
    const Block<T> queries{q + s.query(b, t0, h), s.query_row(), 1};
    const Block<T> keys{k + s.key(b, h), s.key_row(), 1};
    const Block<T> values{v + s.key(b, h), s.key_row(), 1};
    float* to = normalisers + s.normaliser(b, t0, h);
    if (seen > kMostKeys) {
      attend_in_parts(s, queries, keys, values, bias, mask, b, h, t0, t1, out + s.query(b, t0, h),
                      to);
      return;
    }
    p.resize(rows * stride);
    softmax(scores(s, queries, keys, bias, mask, b, h, t0, t1, 0, seen, p.data(), stride), to);
    rlaif::multiply_blocks(rows, s.width, seen, operand.of<T>(p.data(), stride, rows, seen), values,
                           out + s.query(b, t0, h), s.query_row(), Into::kOverwrite);
  });
}

// What the backward pass reads and writes.
template <typename T>
struct Gradient {
  const T *q, *k, *v, *out, *dout;
  const float* normalisers;
  T *dq, *dk, *dv;
  float* dbias;  // null if nobody wants it
};

// The gradients of the heads that share keys, in one row of the batch.
template <typename T>
void attend_backward(const Shape& s, const Gradient<T>& g, const Bias& bias, const Bias& mask,
                     int64_t b, int64_t shared) {
  static thread_local std::vector<float> p, dp, deltas;
  static thread_local Operand operand_p, operand_dp;
  static thread_local Sums sums_q, sums_k, sums_v;
  const int64_t length = s.keys.length(b), queries = s.queries.length(b);
  const int64_t first = shared * s.group(), step = s.step(b);
  if (length == 0) return;
  // Keys that a block of queries meets at a time.
  const int64_t most = length > kMostKeys ? kKeys : length;
  const int64_t stride = length > kMostKeys ? kKeys + kApart : length;
  p.resize(step * stride);
  dp.resize(step * stride);
  const Block<T> keys{g.k + s.key(b, first), s.key_row(), 1};
  const Block<T> values{g.v + s.key(b, first), s.key_row(), 1};
  T *to_k = g.dk + s.key(b, first), *to_v = g.dv + s.key(b, first);
  float* dkeys = sums_k.at(to_k, s.key_row(), length, s.width);
  float* dvalues = sums_v.at(to_v, s.key_row(), length, s.width);
  // Keys past these have been given no gradient yet.
  int64_t begun = 0;
  for (int64_t h = first; h < first + s.group(); ++h) {
    for (int64_t t0 = 0; t0 < queries; t0 += step) {
      const int64_t t1 = std::min(queries, t0 + step);
      const int64_t rows = t1 - t0, seen = s.seen(b, t1);
      const auto block = [&](const T* of) {
        return Block<T>{of + s.query(b, t0, h), s.query_row(), 1};
      };
      const Block<T> query = block(g.q), out = block(g.out), gradient = block(g.dout);
      deltas.resize(rows);
      dots(gradient.data, out.data, s.query_row(), rows, s.width, deltas.data());
      T* to_q = g.dq + s.query(b, t0, h);
      // Sums over parts of the keys are f32; that of one part is rounded where it belongs.
      const bool parts = seen > most;
      float* dqueries = parts ? sums_q.at(to_q, s.query_row(), rows, s.width) : nullptr;
      for (int64_t s0 = 0; s0 < seen; s0 += most) {
        const int64_t s1 = std::min(seen, s0 + most), part = s1 - s0;
        const auto these = [&](const Block<T>& of) {
          return Block<T>{of.data + s0 * of.row, of.row, of.column};
        };
        const ScoreRows products =
            scores(s, query, keys, bias, mask, b, h, t0, t1, s0, s1, p.data(), stride);
        rlaif::multiply_blocks(rows, part, s.width, gradient, these(values).t(), dp.data(), stride,
                               Into::kOverwrite);
        softmax_backward(products, g.normalisers + s.normaliser(b, t0, h), deltas.data(), dp.data(),
                         g.dbias ? g.dbias + bias.place(h, t0) + s0 : nullptr);
        const Block<T> weights = operand_p.of<T>(p.data(), stride, rows, part);
        const Block<T> dscores = operand_dp.of<T>(dp.data(), stride, rows, part);
        if (parts) {
          rlaif::multiply_blocks(rows, s.width, part, dscores, these(keys), dqueries,
                                 sums_q.stride(), s0 > 0 ? Into::kAdd : Into::kOverwrite);
        } else {
          rlaif::multiply_blocks(rows, s.width, part, dscores, these(keys), to_q, s.query_row(),
                                 Into::kOverwrite);
        }
        // What earlier blocks began is added to, the rest is written.
        const auto spread = [&](const Block<T>& by, const Block<T>& rows_of, float* to,
                                int64_t to_stride) {
          const auto keys_of = [&](int64_t from, int64_t until, Into into) {
            if (from >= until) return;
            rlaif::multiply_blocks(until - from, s.width, rows,
                                   Block<T>{by.data + from - s0, 1, by.row}, rows_of,
                                   to + from * to_stride, to_stride, into);
          };
          const int64_t old = std::clamp(begun, s0, s1);
          keys_of(s0, old, Into::kAdd);
          keys_of(old, s1, Into::kOverwrite);
        };
        spread(weights, gradient, dvalues, sums_v.stride());
        spread(dscores, query, dkeys, sums_k.stride());
      }
      if (parts) sums_q.written(to_q, s.query_row(), rows, s.width);
      begun = std::max(begun, seen);
    }
  }
  // No query saw these.
  for (int64_t key = begun; key < length; ++key) {
    std::fill_n(dkeys + key * sums_k.stride(), s.width, 0.0f);
    std::fill_n(dvalues + key * sums_v.stride(), s.width, 0.0f);
  }
  sums_k.written(to_k, s.key_row(), length, s.width);
  sums_v.written(to_v, s.key_row(), length, s.width);
}

// x as `[B, T, heads, D]`.
at::Tensor in_heads(const at::Tensor& x, int64_t width) {
  if (x.dim() == 4) return x;
  return x.view({x.size(0), x.size(1), x.size(2) / width, width});
}

struct Attention : torch::autograd::Function<Attention> {
  // q, k and v as `in_heads` takes them; the result is `[B, T, heads * D]`. `bias` is `[1, heads, T, S]`, `mask` as `Bias` takes it and f32; either may be undefined. Rows
  // have these many queries and keys.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const std::optional<at::Tensor>& bias_in,
                            const std::optional<at::Tensor>& mask_in, at::IntArrayRef queries,
                            at::IntArrayRef keys, int64_t width, bool causal, double scale) {
    const rlaif::BelowAutograd below;
    // What is saved are the tensors themselves where they can be, so that a change of them is noticed.
    const auto q_whole = q_in.contiguous(), k_whole = k_in.contiguous(), v_whole = v_in.contiguous();
    const auto q = in_heads(q_whole, width), k = in_heads(k_whole, width),
               v = in_heads(v_whole, width);
    const auto bias_tensor = bias_in ? bias_in->to(at::kFloat).contiguous() : at::Tensor();
    const auto mask_tensor = mask_in.value_or(at::Tensor());
    const Shape s(Rows(queries), Rows(keys), q, k, causal, scale);
    const auto out = at::empty({q.size(0), q.size(1), s.query_row()}, q.options());
    const auto normalisers =
        at::empty({s.heads, s.queries.begin.back()}, q.options().dtype(at::kFloat));
    rlaif::by_kind(q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(s, q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                Bias(bias_tensor), Bias(mask_tensor), out.template mutable_data_ptr<T>(),
                normalisers.mutable_data_ptr<float>());
    });
    ctx->save_for_backward(
        {q_whole, k_whole, v_whole, bias_tensor, mask_tensor, out, normalisers});
    ctx->saved_data["queries"] = queries;
    ctx->saved_data["keys"] = keys;
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["biased"] = bias_in.has_value();
    ctx->saved_data["width"] = s.width;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const auto saved = ctx->get_saved_variables();
    const int64_t width = ctx->saved_data["width"].toInt();
    const auto q = in_heads(saved[0], width), k = in_heads(saved[1], width),
               v = in_heads(saved[2], width);
    const auto& out = saved[5];
    const Shape s(Rows(ctx->saved_data["queries"].toIntVector()),
                  Rows(ctx->saved_data["keys"].toIntVector()), q, k,
                  ctx->saved_data["causal"].toBool(), ctx->saved_data["scale"].toDouble());
    const bool biased = ctx->saved_data["biased"].toBool();
    const auto dout = grads[0].contiguous();
    const auto dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    at::Tensor dbias;
    if (biased && ctx->needs_input_grad(3)) dbias = at::zeros_like(saved[3]);
    const Bias bias(saved[3]), mask(saved[4]);
    rlaif::by_kind(q, [&](auto zero) {
      using T = decltype(zero);
      const Gradient<T> g{q.const_data_ptr<T>(),
                          k.const_data_ptr<T>(),
                          v.const_data_ptr<T>(),
                          out.const_data_ptr<T>(),
                          dout.const_data_ptr<T>(),
                          saved[6].const_data_ptr<float>(),
                          dq.template mutable_data_ptr<T>(),
                          dk.template mutable_data_ptr<T>(),
                          dv.template mutable_data_ptr<T>(),
                          dbias.defined() ? dbias.mutable_data_ptr<float>() : nullptr};
      if (g.dbias) {
        // A head's bias serves all rows of the batch: one thread adds them up, in order.
        rlaif::parallel_tasks(s.kv, [&](int64_t shared) {
          for (int64_t b = 0; b < s.batch(); ++b) attend_backward<T>(s, g, bias, mask, b, shared);
        });
      } else {
        rlaif::parallel_tasks(s.batch() * s.kv, [&](int64_t task) {
          attend_backward<T>(s, g, bias, mask, task / s.kv, task % s.kv);
        });
      }
    });
    variable_list result(10);
    result[0] = dq.view(saved[0].sizes());
    result[1] = dk.view(saved[1].sizes());
    result[2] = dv.view(saved[2].sizes());
    if (dbias.defined()) result[3] = dbias.to(q.scalar_type());
    return result;
  }
};

// Whether there are products of this kind with heads of this width.
bool multiplies(at::ScalarType kind, int64_t width) {
  return kind == at::kFloat || (kind == at::kBFloat16 && (width % 2 == 0 || !rlaif::tiles().pairs));
}

int64_t longest(at::IntArrayRef lengths) {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

int64_t total(at::IntArrayRef lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

}  // namespace

int32_t rlaif_attends_rows(int32_t kind, int64_t head_dim, int32_t* supported) noexcept {
  return rlaif::guarded([&] { *supported = multiplies(rlaif::scalar_type(kind), head_dim); });
}

int32_t rlaif_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                        const at::Tensor* bias, const at::Tensor* mask, int64_t head_dim,
                        const int64_t* query_lengths, const int64_t* key_lengths, size_t rows,
                        int32_t causal, double scale, double dropout, at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto optional = [](const at::Tensor* t) {
      return t ? std::optional<at::Tensor>(*t) : std::nullopt;
    };
    const int64_t b = q->size(0), t = q->size(1), s = k->size(1);
    const int64_t heads = q->dim() == 4 ? q->size(2) : q->size(2) / head_dim;
    const auto kind = q->scalar_type();
    const std::vector<int64_t> same_queries(b, t), same_keys(b, s);
    const at::IntArrayRef queries = rows ? at::IntArrayRef(query_lengths, rows) : same_queries;
    const at::IntArrayRef keys = rows ? at::IntArrayRef(key_lengths, rows) : same_keys;
    const auto alike = [&](const at::Tensor& x) {
      return x.device().is_cpu() && x.numel() > 0 && x.scalar_type() == kind;
    };
    bool fused =
        multiplies(kind, q->dim() == 4 ? q->size(3) : head_dim) && dropout == 0 && alike(*q) && alike(*k) && alike(*v) &&
        (!bias || (alike(*bias) && bias->sizes() == at::IntArrayRef({1, heads, longest(queries),
                                                                     longest(keys)})));
    auto spread = optional(mask);
    if (spread) {
      fused = fused && alike(*spread) && !spread->requires_grad();
      if (fused) {
        spread = spread->to(at::kFloat);
        if (spread->stride(-1) != 1) spread = spread->contiguous();
        spread = spread->expand({b, heads, t, s});
        fused = spread->stride(3) == 1 || s == 1;
      }
    }
    auto learned = optional(bias);
    if (rows) {
      TORCH_CHECK(fused && !mask, "no attention to rows of different lengths for ", kind, " on ",
                  q->device(), " with dropout ", dropout, mask ? " and a mask" : "");
      for (size_t i = 0; i < rows; ++i) {
        TORCH_CHECK(queries[i] >= 0 && keys[i] >= 0 && (queries[i] == 0 || keys[i] > 0), "row ", i,
                    " of ", queries[i], " queries and ", keys[i], " keys");
      }
      TORCH_CHECK(total(queries) == b * t && total(keys) == k->size(0) * s,
                  "rows of ", total(queries), " queries and ", total(keys), " keys of ", b * t,
                  " and ", k->size(0) * s);
    }
    if (!fused) {
      *out = rlaif::give(
          rlaif::composed_attention(in_heads(*q, head_dim), in_heads(*k, head_dim), in_heads(*v, head_dim), learned,
                   optional(mask), causal != 0, scale, dropout));
      return;
    }
    *out = rlaif::give(Attention::apply(*q, *k, *v, learned, spread, queries, keys, head_dim,
                                        causal != 0, scale));
  });
}

// What decoding does to the rows of a batch: linear layers with the norm before and the residual or
// gate after them, attention of one query per row to a cache, the choice of a token. CPU, f32 and
// bf16, no gradients. A row's result does not depend, not in one bit, on the other rows.
//
// Compiled like kernels.cpp, so that sums vectorise.
#include "common.hpp"
#include "matmul.hpp"
#include "parallel.hpp"
#include "tiles.hpp"
#include "vector.hpp"
#include "work.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

using bf16 = rlaif::Half;
using rlaif::kFewWeights;
using rlaif::Tiles;
using rlaif::tiles;

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}
inline void narrow(float x, float* y) { *y = x; }
// To the nearest, of two the even one.
inline void narrow(float x, bf16* y) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *y = static_cast<bf16>(x != x ? 0x7fc0u : rounded);
}

// As rlaif::exponential, for any x: 1.2e-38 below -87.3, NaN passes.
RLAIF_INLINE float exponential(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.0f ? 88.0f : x;
  return rlaif::exponential(x);
}

// What is computed with for a kind of tensors: f32, and of bf16 its 16 bits.
template <typename Kind>
using Bits = std::conditional_t<std::is_same_v<Kind, c10::BFloat16>, bf16, Kind>;

// Untyped, for it is called in loops: kinds are checked once, where a call comes in.
template <typename T>
T* data(const at::Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// ---- Norm ----------------------------------------------------------------------------------------

// The product with the weight is that of two numbers of kind T, as training takes it.
template <typename T>
RLAIF_INLINE void normalise_body(const T* x, const T* w, T* y, int64_t rows, int64_t width,
                                 float epsilon) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* in = x + row * width;
    T* out = y + row * width;
    float squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += widen(in[i]) * widen(in[i]);
    const float r = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
    for (int64_t i = 0; i < width; ++i) {
      T scaled;
      narrow(widen(in[i]) * r, &scaled);
      narrow(widen(scaled) * widen(w[i]), &out[i]);
    }
  }
}
template <typename T>
constexpr auto normalise = rlaif::AtWidth<normalise_body<T>>::run;

// ---- Linear --------------------------------------------------------------------------------------

// Other numbers are refused before the first product.
RLAIF_INLINE void activate_body(float* x, int64_t n, RlaifActivation act) {
  switch (act) {
    case kNone:
      break;
    case kRelu:
      for (int64_t i = 0; i < n; ++i) x[i] = x[i] < 0 ? 0 : x[i];
      break;
    case kSilu:
      for (int64_t i = 0; i < n; ++i) x[i] = x[i] / (1.0f + exponential(-x[i]));
      break;
    case kGelu:
      for (int64_t i = 0; i < n; ++i) x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
      break;
    case kGeluTanh:
      // x (1 + tanh u) / 2 = x / (1 + exp(-2u)).
      for (int64_t i = 0; i < n; ++i) {
        const float u = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exponential(-2.0f * u));
      }
      break;
  }
}
constexpr auto activate = rlaif::AtWidth<activate_body>::run;

template <typename T>
RLAIF_INLINE void put_body(const float* x, const T* bias, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] + widen(bias[i]);
}
template <typename T>
constexpr auto put = rlaif::AtWidth<put_body<T>>::run;

template <typename T>
RLAIF_INLINE void add_body(const float* x, const T* residual, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(x[i] + widen(residual[i]), &y[i]);
}
template <typename T>
constexpr auto add = rlaif::AtWidth<add_body<T>>::run;

template <typename T>
RLAIF_INLINE void multiply_body(const float* x, const float* by, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(x[i] * by[i], &y[i]);
}
template <typename T>
constexpr auto multiply = rlaif::AtWidth<multiply_body<T>>::run;

template <typename T>
RLAIF_INLINE void cast_body(const float* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(x[i], &y[i]);
}
template <typename T>
constexpr auto cast = rlaif::AtWidth<cast_body<T>>::run;

RLAIF_INLINE void widen_rows_body(const bf16* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = widen(x[i]);
}
constexpr auto widen_rows = rlaif::AtWidth<widen_rows_body>::run;

// How rows meet weights. The order of a row's sums does not depend on the other rows:
//
// Few rows. Weights are read as a checkpoint has them, [N, K] row by row, so nothing is packed or copied.
// A tile of a few rows of x and 3 weights is held in vector registers; a lane sums every n-th
// product, and the lanes are added in a fixed tree.
//
// Many rows. Weights are packed into panels, whose lanes sum a weight each from the first product to the
// last: no lanes are added in the end, which pays for the packing from some dozen rows on.
//
// X is bf16 where two neighbours are multiplied at once; elsewhere rows of bf16 are widened before.
inline auto few(const Tiles& t, float, float) { return t.few; }
inline auto few(const Tiles& t, float, bf16) { return t.few_widened; }
inline auto few(const Tiles& t, bf16, bf16) { return t.few_pairs; }

// Bytes of weights that are gone through for one block of rows after the other. They and the next
// as many stay in the second level of the cache, and the rows of a block in the first.
constexpr int64_t kWeightBytes = 96 * 1024;

// y[r, c] = x_r · w_c for rows [r0, r1) and weights [c0, c1); y has a row stride of `stride`.
template <typename X, typename W>
void product(const X* x, const W* w, int64_t k, float* y, int64_t stride, int64_t r0, int64_t r1,
             int64_t c0, int64_t c1) {
  const Tiles& t = tiles();
  const auto tile = few(t, X{}, W{});
  const int64_t row_bytes = k * static_cast<int64_t>(sizeof(W)) * kFewWeights;
  const int64_t step = std::max<int64_t>(1, kWeightBytes / row_bytes) * kFewWeights;
  const int64_t blocks = (r1 - r0 + t.few_rows - 1) / t.few_rows;
  float sums[rlaif::kMostFewRows * kFewWeights];
  for (int64_t block = c0; block < c1; block += step) {
    const int64_t end = std::min(c1, block + step);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t r = r0 + b * t.few_rows;
      const int64_t m = std::min<int64_t>(t.few_rows, r1 - r);
      int64_t turn = 0;
      for (int64_t c = block; c < end; c += kFewWeights, turn = turn + 1 == blocks ? 0 : turn + 1) {
        const int64_t n = std::min<int64_t>(kFewWeights, end - c);
        // Each block of rows fetches its share of the next weights, so that memory is never idle.
        const bool ahead = turn == b && c + step + kFewWeights <= c1;
        tile(x + r * k, m, w + c * k, n, k, ahead ? w + (c + step) * k : nullptr, sums);
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) y[(r + i) * stride + c + j] = sums[i * kFewWeights + j];
      }
    }
  }
}

// The same from panels of the weights, of `steps` each; c0 is where one begins.
template <typename X>
void product_of_panels(const X* x, const float* panels, int64_t k, float* y, int64_t stride,
                       int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  const Tiles& t = tiles();
  const auto& kernel = std::is_same_v<X, float> ? t.f32 : t.half;
  const int64_t steps = k * static_cast<int64_t>(sizeof(X)) / static_cast<int64_t>(sizeof(float));
  const auto* rows = reinterpret_cast<const float*>(x);
  for (int64_t c = c0; c < c1; c += t.columns) {
    for (int64_t r = r0; r < r1; r += t.rows) {
      kernel.of[0][std::min(t.rows, r1 - r)](
          steps, rows + r * steps, steps, panels + c * steps,
          {y + r * stride + c, stride, std::min(t.columns, c1 - c), false, nullptr});
    }
  }
}

// The weights w [N, K] in panels, of steps that rows of X are multiplied by.
template <typename X, typename W>
at::Tensor panels_of(const at::Tensor& w) {
  const Tiles& t = tiles();
  const int64_t n = w.size(0), k = w.size(1);
  const int64_t steps = k * static_cast<int64_t>(sizeof(X)) / static_cast<int64_t>(sizeof(float));
  const int64_t count = (n + t.columns - 1) / t.columns;
  const at::Tensor panels =
      at::empty({count * t.columns, steps}, w.options().dtype(at::kFloat));
  rlaif::parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    const W* from = data<W>(w);
    auto* to = data<float>(panels);
    for (int64_t c = begin * t.columns; c < std::min(n, end * t.columns); c += t.columns) {
      const int64_t lines = std::min(t.columns, n - c);
      if constexpr (std::is_same_v<W, float>) {
        t.pack(to + c * steps, t.columns, from + c * k, k, 1, lines, k);
      } else {
        t.pack_half(to + c * steps, t.columns, from + c * k, k, 1, lines, k);
      }
    }
  });
  return panels;
}

}  // namespace

namespace {

// `X` is what rows of T are multiplied as.
template <typename T, typename X>
void linear(const RlaifRowsLinear& call, at::Tensor** out) {
  const Tiles& t = tiles();
  const at::Tensor& x = *call.x;
  const int64_t m = x.size(0);
  const int64_t k = x.size(1);
  const auto wide = x.options().dtype(at::kFloat);
  at::Tensor normed;
  const T* xp = data<T>(x);
  if (call.norm) {
    normed = at::empty_like(x);
    const T* from = xp;
    T* to = data<T>(normed);
    const T* weight = data<T>(*call.norm);
    const auto run = [&](int64_t begin, int64_t end) {
      normalise<T>(from + begin * k, weight, to + begin * k, end - begin, k,
                   static_cast<float>(call.epsilon));
    };
    rlaif::parallel_for(m, std::max<int64_t>(1, 32768 / k), run);
    xp = to;
  }
  const X* rows;
  at::Tensor widened;
  if constexpr (std::is_same_v<T, X>) {
    rows = xp;
  } else {
    widened = at::empty({m, k}, wide);
    auto* to = data<float>(widened);
    rlaif::parallel_for(m * k, 32768, [&](int64_t begin, int64_t end) {
      widen_rows(xp + begin, to + begin, end - begin);
    });
    rows = to;
  }

  const size_t results = call.gated ? 1 : call.count;
  // Products in f32; where the result is f32 and plain, they are the result.
  std::vector<at::Tensor> products, finals;
  for (size_t i = 0; i < call.count; ++i) {
    products.push_back(at::empty({m, call.weights[i]->size(0)}, wide));
    rlaif::count_product(m, call.weights[i]->size(0), k, sizeof(T));
  }
  const bool in_place = std::is_same_v<T, float> || call.wide;
  for (size_t i = 0; i < results; ++i) {
    finals.push_back(in_place ? products[i]
                              : at::empty({m, call.weights[i]->size(0)}, x.options()));
  }

  // Packing of weights depends on the request, not on the number of rows. (Words of bf16 are whole.)
  const bool packs = call.many && k > 0 && (std::is_same_v<X, float> || k % 2 == 0);
  std::vector<at::Tensor> panels;
  for (size_t i = 0; packs && i < call.count; ++i) {
    panels.push_back(panels_of<X, T>(*call.weights[i]));
  }

  // Tasks: rows in chunks that stay in the cache, columns in one part per thread.
  const int64_t tile_rows = packs ? t.rows : t.few_rows;
  const int64_t tile_weights = packs ? t.columns : kFewWeights;
  const int64_t chunk =
      std::max<int64_t>(tile_rows, (192 * 1024) / (k * static_cast<int64_t>(sizeof(X))) /
                                       tile_rows * tile_rows);
  const int64_t chunks = (m + chunk - 1) / chunk;
  const int64_t threads = std::max<int64_t>(1, at::get_num_threads());
  const int64_t parts = chunks >= 4 * threads ? 1 : threads;
  const auto activation = static_cast<RlaifActivation>(call.activation);
  const auto task = [&](int64_t index) {
    const int64_t r0 = index / parts * chunk;
    const int64_t r1 = std::min(m, r0 + chunk);
    const int64_t part = index % parts;
    for (size_t i = 0; i < call.count; ++i) {
      const int64_t n = call.weights[i]->size(0);
      // Parts begin where tiles do; a tile's place changes no sum.
      const int64_t tiles = (n + tile_weights - 1) / tile_weights;
      const int64_t c0 = tiles * part / parts * tile_weights;
      const int64_t c1 = std::min(n, tiles * (part + 1) / parts * tile_weights);
      if (c0 >= c1) continue;
      float* y = data<float>(products[i]);
      if (packs) {
        product_of_panels(rows, data<float>(panels[i]), k, y, n, r0, r1, c0, c1);
      } else {
        product(rows, data<T>(*call.weights[i]), k, y, n, r0, r1, c0, c1);
      }
      const T* bias = call.biases[i] ? data<T>(*call.biases[i]) : nullptr;
      const bool last = i + 1 == call.count;
      for (int64_t r = r0; r < r1; ++r) {
        float* row = y + r * n + c0;
        const int64_t width = c1 - c0;
        if (bias) put<T>(row, bias + c0, row, width);
        if (i == 0 && activation != kNone) activate(row, width, activation);
        if (call.gated) {
          if (!last) continue;
          const float* gate = data<float>(products[0]) + r * n + c0;
          if (in_place) {
            multiply<float>(gate, row, data<float>(finals[0]) + r * n + c0, width);
          } else {
            multiply<T>(gate, row, data<T>(finals[0]) + r * n + c0, width);
          }
        } else if (call.residual) {
          add<T>(row, data<T>(*call.residual) + r * n + c0, data<T>(finals[i]) + r * n + c0, width);
        } else if (!in_place) {
          cast<T>(row, data<T>(finals[i]) + r * n + c0, width);
        }
      }
    }
  };
  rlaif::parallel_for(chunks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) task(index);
  });
  for (size_t i = 0; i < results; ++i) out[i] = rlaif::give(finals[i]);
}

// ---- Attention -----------------------------------------------------------------------------------

template <typename T>
struct Attention {
  const T* q;         // [B, groups * kv, D]
  T* keys;            // [rows, kv, capacity, D]
  T* values;
  const int64_t* lengths;
  const float* bias;  // [heads, distances]; null for none
  int64_t distances, kv, group, capacity, width;
  float scale;
  int64_t window;     // 0 for none
  T* out;             // [B, heads * D]
};

template <typename T>
RLAIF_INLINE void attend_body(const Attention<T>& a, int64_t row, int64_t head, float* scores,
                              float* wide) {
  const int64_t d = a.width;
  const int64_t length = a.lengths[row];
  const int64_t first = a.window > 0 ? std::max<int64_t>(0, length - a.window) : 0;
  const T* keys = a.keys + (row * a.kv + head) * a.capacity * d;
  const T* values = a.values + (row * a.kv + head) * a.capacity * d;
  for (int64_t g = 0; g < a.group; ++g) {
    const int64_t query = head * a.group + g;
    const T* q = a.q + (row * a.kv * a.group + query) * d;
    float* query_wide = wide;
    float* sum = wide + d;
    for (int64_t i = 0; i < d; ++i) query_wide[i] = widen(q[i]) * a.scale;
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t s = first; s < length; ++s) {
      const T* key = keys + s * d;
      float dot = 0;
      for (int64_t i = 0; i < d; ++i) dot += query_wide[i] * widen(key[i]);
      if (a.bias) {
        const int64_t distance = std::min(length - 1 - s, a.distances - 1);
        dot += a.bias[query * a.distances + distance];
      }
      scores[s - first] = dot;
      largest = dot > largest || dot != dot ? dot : largest;
    }
    float total = 0;
    for (int64_t s = 0; s < length - first; ++s) {
      scores[s] = exponential(scores[s] - largest);
      total += scores[s];
    }
    for (int64_t i = 0; i < d; ++i) sum[i] = 0;
    for (int64_t s = first; s < length; ++s) {
      const T* value = values + s * d;
      const float p = scores[s - first];
      for (int64_t i = 0; i < d; ++i) sum[i] += p * widen(value[i]);
    }
    T* out = a.out + (row * a.kv * a.group + query) * d;
    for (int64_t i = 0; i < d; ++i) narrow(sum[i] / total, &out[i]);
  }
}
template <typename T>
constexpr auto attend = rlaif::AtWidth<attend_body<T>>::run;

// ---- Choice --------------------------------------------------------------------------------------

// Tokens whose weights are summed together.
constexpr int64_t kBlock = 1024;

RLAIF_INLINE float largest_of_body(const float* z, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t v = 0; v < n; ++v) largest = z[v] > largest ? z[v] : largest;
  return largest;
}
constexpr auto largest_of = rlaif::AtWidth<largest_of_body>::run;

RLAIF_INLINE float weights_of_body(const float* z, float largest, float inverse, float* weights,
                                   int64_t n) {
  float sum = 0;
  for (int64_t v = 0; v < n; ++v) {
    weights[v] = exponential((z[v] - largest) * inverse);
    sum += weights[v];
  }
  return sum;
}
constexpr auto weights_of = rlaif::AtWidth<weights_of_body>::run;

// How log-weights are put into bins, from the largest down: so many to a factor of e, that even flat
// distributions leave few tokens in one.
constexpr float kBinsPerUnit = 128;
constexpr int32_t kBins = 8192;

// Bins and weights of logits; equal logits have one bin, and larger ones none further down.
RLAIF_INLINE void bins_of_body(const float* z, float largest, float inverse, int32_t* bins,
                               float* weights, int64_t n) {
  for (int64_t v = 0; v < n; ++v) {
    const float below = (largest - z[v]) * inverse;
    const float bin = below * kBinsPerUnit;
    bins[v] = static_cast<int32_t>(bin < kBins - 1.0f ? bin : kBins - 1.0f);
    // What is forbidden weighs nothing here.
    weights[v] = below < 87.0f ? exponential(-below) : 0.0f;
  }
}
constexpr auto bins_of = rlaif::AtWidth<bins_of_body>::run;

// A logit and its id. In the order in which top-p takes them: the larger first, of equals the first.
struct Candidate {
  float z;
  int64_t id;
  bool operator<(const Candidate& other) const {
    return z > other.z || (z == other.z && id < other.id);
  }
};

}  // namespace

namespace {

// The last candidate that top-k, top-p and min-p keep of a row; all that are not behind it are kept.
//
// Nothing is sorted but what shares a bin with the boundary: the bins above it are kept whole.
class Boundary {
 public:
  Boundary(const RlaifRowsCut& cut, double temperature)
      : cut_(cut), temperature_(temperature), inverse_(static_cast<float>(1.0 / temperature)) {}

  Candidate of(const float* z, int64_t width, float largest) {
    Candidate last{-std::numeric_limits<float>::infinity(), width};
    const bool top_k = cut_.top_k > 0 && cut_.top_k < width;
    if (top_k || cut_.top_p < 1.0) {
      sort_into_bins(z, width, largest);
      double kept = 0;  // weight of what top-k keeps
      int64_t end = kBins;
      if (top_k) {
        int64_t before = 0, bin = 0;
        while (before + counts_[bin] < cut_.top_k) {
          kept += sums_[bin];
          before += counts_[bin++];
        }
        fill(z, width, bin);
        const auto kth = candidates_.begin() + (cut_.top_k - before - 1);
        std::nth_element(candidates_.begin(), kth, candidates_.end());
        // Those equal to the last one stay as well.
        last = {kth->z, width};
        end = bin + 1;
        for (const auto& c : candidates_) kept += c.z >= last.z ? weight(c.z, largest) : 0.0;
      } else {
        for (int64_t bin = 0; bin < kBins; ++bin) kept += sums_[bin];
      }
      if (cut_.top_p < 1.0) last = nucleus(z, width, largest, last, end, cut_.top_p * kept);
    }
    if (cut_.min_p > 0) {
      const double least = static_cast<double>(largest) + temperature_ * std::log(cut_.min_p);
      // The smallest float that is not below.
      float bound = static_cast<float>(least);
      if (bound < least) bound = std::nextafter(bound, std::numeric_limits<float>::infinity());
      last = std::min(last, Candidate{bound, width});
    }
    return last;
  }

 private:
  void sort_into_bins(const float* z, int64_t width, float largest) {
    bins_.resize(static_cast<size_t>(width));
    counts_.assign(kBins, 0);
    sums_.assign(kBins, 0.0);
    float weights[kBlock];
    for (int64_t start = 0; start < width; start += kBlock) {
      const int64_t n = std::min(kBlock, width - start);
      int32_t* bins = bins_.data() + start;
      bins_of(z + start, largest, inverse_, bins, weights, n);
      for (int64_t v = 0; v < n; ++v) {
        ++counts_[bins[v]];
        sums_[bins[v]] += weights[v];
      }
    }
  }

  // The candidates of a bin.
  void fill(const float* z, int64_t width, int64_t bin) {
    candidates_.clear();
    for (int64_t v = 0; v < width; ++v) {
      if (bins_[v] == bin) candidates_.push_back({z[v], v});
    }
  }

  double weight(float z, float largest) const {
    return std::exp((static_cast<double>(z) - largest) / temperature_);
  }

  // Of the candidates up to `last`, the one at which the weights reach `goal`.
  Candidate nucleus(const float* z, int64_t width, float largest, Candidate last, int64_t end,
                    double goal) {
    double before = 0;
    int64_t bin = 0;
    while (bin + 1 < end && before + sums_[bin] < goal) before += sums_[bin++];
    fill(z, width, bin);
    std::sort(candidates_.begin(), candidates_.end());
    Candidate reached = last;
    for (const auto& c : candidates_) {
      if (last < c || before >= goal) break;
      reached = c;
      before += weight(c.z, largest);
    }
    return reached;
  }

  const RlaifRowsCut cut_;
  const double temperature_;
  const float inverse_;
  std::vector<int32_t> bins_;
  std::vector<int32_t> counts_;
  std::vector<double> sums_;
  std::vector<Candidate> candidates_;
};

// Takes from `weights` those of logits behind `last`, the first id being `first`; returns the sum.
RLAIF_INLINE float drop_behind_body(const float* z, Candidate last, int64_t first, float* weights,
                                    int64_t n) {
  const auto equals = static_cast<int32_t>(std::clamp<int64_t>(last.id - first + 1, 0, n));
  float sum = 0;
  for (int32_t v = 0; v < static_cast<int32_t>(n); ++v) {
    const bool kept = (z[v] > last.z) | ((z[v] == last.z) & (v < equals));
    weights[v] = kept ? weights[v] : 0.0f;
    sum += weights[v];
  }
  return sum;
}
constexpr auto drop_behind = rlaif::AtWidth<drop_behind_body>::run;

}  // namespace

int32_t rlaif_rows_linear(const RlaifRowsLinear* call, at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    TORCH_CHECK(call->activation >= kNone && call->activation <= kGeluTanh,
                "no activation has the number ", call->activation);
    rlaif::by_kind(*call->x, [&](auto zero) {
      using Kind = decltype(zero);
      rlaif::check_kind<Kind>({call->norm, call->residual});
      for (size_t i = 0; i < call->count; ++i) {
        rlaif::check_kind<Kind>({call->weights[i], call->biases[i]});
      }
      using T = Bits<Kind>;
      if (std::is_same_v<T, float> || !tiles().pairs) {
        linear<T, float>(*call, out);
      } else {
        linear<T, T>(*call, out);
      }
    });
  });
}

int32_t rlaif_rows_attention(const RlaifRowsAttention* call, at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    rlaif::by_kind(*call->q, [&](auto zero) {
      using Kind = decltype(zero);
      using T = Bits<Kind>;
      rlaif::check_kind<Kind>({call->k, call->v, call->keys, call->values});
      rlaif::check_kind<float>({call->bias});
      const int64_t batch = call->q->size(0);
      const int64_t kv = call->keys->size(1);
      const int64_t capacity = call->keys->size(2);
      const int64_t d = call->keys->size(3);
      const int64_t heads = call->q->size(1) / d;
      at::Tensor result = at::empty_like(*call->q);
      const Attention<T> a{
          data<T>(*call->q), data<T>(*call->keys), data<T>(*call->values), call->lengths,
          call->bias ? data<float>(*call->bias) : nullptr, call->bias ? call->bias->size(1) : 0, kv,
          heads / kv, capacity, d, static_cast<float>(call->scale), call->window,
          data<T>(result)};
      const int64_t longest = *std::max_element(call->lengths, call->lengths + batch);
      rlaif::parallel_for(batch * kv, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> scores(static_cast<size_t>(longest));
        std::vector<float> wide(static_cast<size_t>(2 * d));
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task / kv;
          const int64_t head = task % kv;
          if (call->k) {
            const int64_t at = (task * capacity + call->lengths[row] - 1) * d;
            std::memcpy(a.keys + at, data<T>(*call->k) + task * d, d * sizeof(T));
            std::memcpy(a.values + at, data<T>(*call->v) + task * d, d * sizeof(T));
          }
          attend<T>(a, row, head, scores.data(), wide.data());
        }
      });
      *out = rlaif::give(result);
    });
  });
}

int32_t rlaif_rows_choose(const at::Tensor* logits, double temperature, const double* uniforms,
                          const RlaifRowsCut* cut, int64_t* ids, float* log_probs,
                          double* normalisers) noexcept {
  return rlaif::guarded([&] {
    rlaif::check_kind<float>({logits});
    const int64_t width = logits->size(1);
    const int64_t blocks = (width + kBlock - 1) / kBlock;
    const float inverse = static_cast<float>(1.0 / temperature);
    const bool cuts = cut->top_k > 0 || cut->top_p < 1.0 || cut->min_p > 0;
    rlaif::parallel_for(logits->size(0), 1, [&](int64_t begin, int64_t end) {
      std::vector<float> weights(kBlock);
      std::vector<double> sums(static_cast<size_t>(blocks));
      Boundary boundary(*cut, temperature);
      for (int64_t row = begin; row < end; ++row) {
        const float* z = data<float>(*logits) + row * width;
        const float largest = largest_of(z, width);
        // The weights of a block, those behind `last` left out.
        const auto block = [&](int64_t b, const Candidate* last) {
          const int64_t first = b * kBlock, n = std::min(kBlock, width - first);
          const float sum = weights_of(z + first, largest, inverse, weights.data(), n);
          return last ? drop_behind(z + first, *last, first, weights.data(), n) : sum;
        };
        const auto sum_of = [&](const Candidate* last) {
          double total = 0;
          for (int64_t b = 0; b < blocks; ++b) total += sums[b] = block(b, last);
          return total;
        };
        const double total = sum_of(nullptr);
        ids[row] = -1;
        if (!std::isfinite(largest) || !std::isfinite(total)) continue;
        int64_t id = 0;
        if (uniforms) {
          Candidate boundary_of_row{};
          const Candidate* last = nullptr;
          double kept = total;
          if (cuts) {
            boundary_of_row = boundary.of(z, width, largest);
            last = &boundary_of_row;
            kept = sum_of(last);
          }
          const double goal = uniforms[row] * kept;
          double before = 0;
          int64_t b = 0;
          while (b + 1 < blocks && before + sums[b] <= goal) before += sums[b++];
          block(b, last);
          const int64_t n = std::min(kBlock, width - b * kBlock);
          // What is forbidden has a weight as well, one too small to count.
          for (int64_t v = 0; v < n; ++v) {
            if (weights[v] < 2e-38f) continue;
            id = b * kBlock + v;
            before += weights[v];
            if (before > goal) break;
          }
        } else {
          while (z[id] != largest) ++id;
        }
        const double normaliser = static_cast<double>(largest) / temperature + std::log(total);
        ids[row] = id;
        log_probs[row] = static_cast<float>(static_cast<double>(z[id]) / temperature - normaliser);
        normalisers[row] = normaliser;
      }
    });
  });
}

// Products of f32 and bf16 matrices for processors with AVX-512.
//
// libtorch multiplies f32 matrices by MKL, which uses half of the vector units' width on processors
// that Intel did not make, and copies both operands into its own layout for each product. It
// multiplies bf16 by oneDNN, whose kernels are as fast as these, but which takes 50 us to look each of
// them up; where there are tile registers (AMX), which these do not use, it is left to oneDNN.
//
// The scheme is that of Goto and van de Geijn (2008, "Anatomy of high-performance matrix
// multiplication"): both operands are copied into panels that are read in order, regardless of their
// strides, so that a transposed operand costs nothing more; the innermost kernel keeps a tile of the
// result in registers. Each element of the result is summed by one thread in an order that depends
// on the sizes alone: the same bits for any number of threads. Sums of bf16 are f32, and rounded
// once.
#include "matmul.hpp"
#include "parallel.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__)
#define RLAIF_AVX512 __attribute__((target("avx512f")))
#define RLAIF_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace {

#ifdef RLAIF_AVX512

using c10::BFloat16;

// A matrix where it lies; one of the strides is 1.
template <typename T>
struct View {
  const T* data;
  int64_t row, column;  // strides
};

// Columns of a panel of the right operand, and of a tile of the result: two vectors.
constexpr int64_t kColumns = 32;
// Most rows of a panel of the left operand: with two vectors each, 28 of the 32 registers.
constexpr int64_t kRows = 14;
// Most steps of a panel, so that one of the right operand stays in the first cache.
constexpr int64_t kDepth = 256;
// Most of the inner dimension that is copied at a time.
constexpr int64_t kInner = 2048;
// Most elements that are copied of the left and of the right operand at a time.
constexpr int64_t kLeft = int64_t{4} << 20;
constexpr int64_t kRight = int64_t{1} << 20;
// Fewer rows than this read the right operand once, and copying it would be most of the work.
constexpr int64_t kFew = 8;
// A task of multiplication: rows whose panels stay in the second cache, panels of columns.
constexpr int64_t kTaskRows = 224;
constexpr int64_t kTaskPanels = 8;

// Rows ahead that are asked for while rows are copied.
constexpr int64_t kAhead = 16;
// Panels of columns for each thread from which on threads copy their own, and most words of these.
constexpr int64_t kShare = 4;
constexpr int64_t kOwn = int64_t{1} << 17;

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// The size of equal parts, none above `most`.
int64_t even(int64_t whole, int64_t most) { return parts(whole, parts(whole, most)); }

RLAIF_AVX512 inline __mmask16 first(int64_t n) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1);
}

// Rows become columns.
RLAIF_AVX512 inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
    const __m512d c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  // Quarter q of r[4 g + c] is now column 4 q + c of rows 4 g to 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    t[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// Copies a strip of `count` lines into a panel of `width`: `panel[p * width + i]` is element p of
// line i, and 0 beyond `count`. One of the strides is 1.
RLAIF_AVX512 void pack(float* panel, int64_t width, const float* lines, int64_t across,
                       int64_t along, int64_t count, int64_t depth) {
  for (int64_t base = 0; base < width; base += 16) {
    const int64_t n = std::clamp<int64_t>(count - base, 0, 16);
    const __mmask16 there = first(n);
    const __mmask16 fits = first(width - base);
    const float* in = lines + base * across;
    float* out = panel + base;
    if (across == 1) {
      for (int64_t p = 0; p < depth; ++p) {
        const __m512 column = _mm512_maskz_loadu_ps(there, in + p * along);
        _mm512_mask_storeu_ps(out + p * width, fits, column);
      }
      continue;
    }
    for (int64_t p = 0; p < depth; p += 16) {
      const int64_t length = std::min<int64_t>(16, depth - p);
      __m512 r[16];
      for (int64_t i = 0; i < 16; ++i) {
        r[i] = i < n ? _mm512_maskz_loadu_ps(first(length), in + i * across + p)
                     : _mm512_setzero_ps();
        // The next panel's lines, which are too far apart for the processor to foresee.
        _mm_prefetch(in + (i + width) * across + p, _MM_HINT_T0);
      }
      transpose(r);
      for (int64_t i = 0; i < length; ++i) {
        _mm512_mask_storeu_ps(out + (p + i) * width, fits, r[i]);
      }
    }
  }
}

// Two elements of bf16 that follow each other along the inner dimension are a word: what one step of a
// product takes. A panel of words is what a panel of f32 is, and copied as such where lines lie along
// the inner dimension.
constexpr int64_t words(int64_t inner, BFloat16) { return (inner + 1) / 2; }
constexpr int64_t words(int64_t inner, float) { return inner; }

// Of lines that lie across: words are put together from two rows each. `depth` counts elements.
RLAIF_AVX512_BF16 void pack_pairs(float* panel, int64_t width, const BFloat16* lines, int64_t along,
                                  int64_t count, int64_t depth) {
  alignas(64) static constexpr uint16_t kLow[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t base = 0; base < width; base += 32) {
    const int64_t n = std::clamp<int64_t>(count - base, 0, 32);
    const auto there = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    const __mmask16 fits = first(width - base), rest = first(width - base - 16);
    for (int64_t p = 0; p < depth; p += 2) {
      const BFloat16* row = lines + p * along + base;
      _mm_prefetch(row + kAhead * along, _MM_HINT_T0);
      _mm_prefetch(row + (kAhead + 1) * along, _MM_HINT_T0);
      const __m512i even = _mm512_maskz_loadu_epi16(there, row);
      // Past the end of an odd depth there are zeros.
      const __m512i odd = _mm512_maskz_loadu_epi16(p + 1 < depth ? there : 0, row + along);
      float* out = panel + p / 2 * width + base;
      _mm512_mask_storeu_ps(out, fits, _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, low, odd)));
      if (rest) {
        _mm512_mask_storeu_ps(out + 16, rest,
                              _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, high, odd)));
      }
    }
  }
}

// `pack` of bf16; along the lines there is an even number of elements.
void pack(float* panel, int64_t width, const BFloat16* lines, int64_t across, int64_t along,
          int64_t count, int64_t depth) {
  if (across == 1) {
    pack_pairs(panel, width, lines, along, count, depth);
  } else {
    pack(panel, width, reinterpret_cast<const float*>(lines), across / 2, 1, count, depth / 2);
  }
}

// A tile of the result.
template <typename T>
struct Tile {
  T* data;
  int64_t stride;
  // Which of its columns there are.
  __mmask16 left, right;
  // What it starts from: what is there, a bias per column, or nothing.
  bool add;
  const T* bias;
};

// R rows of the left operand: a panel of them, or rows that lie `stride` apart, where they are.
template <int R, bool Panel>
class Left {
 public:
  Left(const float* a, int64_t stride) : stride_(stride) {
    for (int i = 0; i < kBases; ++i) base_[i] = Panel ? a : a + 3 * i * stride;
  }
  // Of row i, at this step.
  RLAIF_AVX512 inline __attribute__((always_inline)) __m512 at(int i) const {
    return _mm512_set1_ps(Panel ? base_[0][i] : base_[i / 3][i % 3 * stride_]);
  }
  inline __attribute__((always_inline)) void next() {
#pragma GCC unroll 16
    for (int i = 0; i < kBases; ++i) base_[i] += Panel ? R : 1;
  }

 private:
  // A pointer for three rows: an address takes a base and a multiple of a stride, and registers are few.
  static constexpr int kBases = Panel ? 1 : (R + 2) / 3;
  const float* base_[kBases];
  int64_t stride_;
};

// The product of R rows and a panel of 32 columns.
template <int R, bool Panel>
RLAIF_AVX512 void multiply(int64_t depth, const float* a, int64_t stride, const float* b,
                           const Tile<float>& tile) {
  Left<R, Panel> rows(a, stride);
  __m512 x[R], y[R];
  const __m512 low = tile.bias ? _mm512_maskz_loadu_ps(tile.left, tile.bias) : _mm512_setzero_ps();
  const __m512 high =
      tile.bias ? _mm512_maskz_loadu_ps(tile.right, tile.bias + 16) : _mm512_setzero_ps();
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    x[i] = low;
    y[i] = high;
  }
  for (int64_t p = 0; p < depth; ++p) {
    const __m512 u = _mm512_loadu_ps(b), v = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const __m512 s = rows.at(i);
      x[i] = _mm512_fmadd_ps(s, u, x[i]);
      y[i] = _mm512_fmadd_ps(s, v, y[i]);
    }
    rows.next();
    b += kColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    float* out = tile.data + i * tile.stride;
    if (tile.add) {
      x[i] = _mm512_add_ps(x[i], _mm512_maskz_loadu_ps(tile.left, out));
      y[i] = _mm512_add_ps(y[i], _mm512_maskz_loadu_ps(tile.right, out + 16));
    }
    _mm512_mask_storeu_ps(out, tile.left, x[i]);
    _mm512_mask_storeu_ps(out + 16, tile.right, y[i]);
  }
}

RLAIF_AVX512_BF16 inline __m512 widened(__mmask16 there, const BFloat16* from) {
  const __m256i half = _mm256_maskz_loadu_epi16(there, from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

RLAIF_AVX512_BF16 inline void narrowed(__m512 x, __mmask16 there, BFloat16* to) {
  _mm256_mask_storeu_epi16(to, there, (__m256i)_mm512_cvtneps_pbh(x));
}

RLAIF_AVX512_BF16 inline __m512 widened(__mmask16 there, const float* from) {
  return _mm512_maskz_loadu_ps(there, from);
}

RLAIF_AVX512_BF16 inline void narrowed(__m512 x, __mmask16 there, float* to) {
  _mm512_mask_storeu_ps(to, there, x);
}

// The same of panels of words, the sums as f32 or rounded.
template <int R, bool Panel, typename Out>
RLAIF_AVX512_BF16 void multiply_pairs(int64_t depth, const float* a, int64_t stride, const float* b,
                                      const Tile<Out>& tile) {
  Left<R, Panel> rows(a, stride);
  __m512 x[R], y[R];
  const __m512 low = tile.bias ? widened(tile.left, tile.bias) : _mm512_setzero_ps();
  const __m512 high = tile.bias ? widened(tile.right, tile.bias + 16) : _mm512_setzero_ps();
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    x[i] = low;
    y[i] = high;
  }
  for (int64_t p = 0; p < depth; ++p) {
    const auto u = (__m512bh)_mm512_loadu_ps(b), v = (__m512bh)_mm512_loadu_ps(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const auto s = (__m512bh)rows.at(i);
      x[i] = _mm512_dpbf16_ps(x[i], s, u);
      y[i] = _mm512_dpbf16_ps(y[i], s, v);
    }
    rows.next();
    b += kColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    Out* out = tile.data + i * tile.stride;
    if (tile.add) {
      x[i] = _mm512_add_ps(x[i], widened(tile.left, out));
      y[i] = _mm512_add_ps(y[i], widened(tile.right, out + 16));
    }
    narrowed(x[i], tile.left, out);
    narrowed(y[i], tile.right, out + 16);
  }
}

template <typename Out>
using Multiply = void (*)(int64_t, const float*, int64_t, const float*, const Tile<Out>&);

// By the number of rows, for operands of kind T.
template <typename T, typename Out, bool Panel>
struct Kernels {
  static constexpr Multiply<Out> of[kRows + 1] = {
      nullptr,
      multiply_pairs<1, Panel, Out>,  multiply_pairs<2, Panel, Out>,
      multiply_pairs<3, Panel, Out>,  multiply_pairs<4, Panel, Out>,
      multiply_pairs<5, Panel, Out>,  multiply_pairs<6, Panel, Out>,
      multiply_pairs<7, Panel, Out>,  multiply_pairs<8, Panel, Out>,
      multiply_pairs<9, Panel, Out>,  multiply_pairs<10, Panel, Out>,
      multiply_pairs<11, Panel, Out>, multiply_pairs<12, Panel, Out>,
      multiply_pairs<13, Panel, Out>, multiply_pairs<14, Panel, Out>,
  };
};
template <bool Panel>
struct Kernels<float, float, Panel> {
  static constexpr Multiply<float> of[kRows + 1] = {
      nullptr,
      multiply<1, Panel>,  multiply<2, Panel>,  multiply<3, Panel>,  multiply<4, Panel>,
      multiply<5, Panel>,  multiply<6, Panel>,  multiply<7, Panel>,  multiply<8, Panel>,
      multiply<9, Panel>,  multiply<10, Panel>, multiply<11, Panel>, multiply<12, Panel>,
      multiply<13, Panel>, multiply<14, Panel>,
  };
};

// Memory for panels, kept by the thread that multiplies.
class Panels {
 public:
  float* of(int64_t elements) {
    if (elements > size_) {
      size_ = 0;
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(elements * sizeof(float), kAlignment)));
      size_ = elements;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

// Both operands' panels of one product of blocks: elements are T, and Out in the result.
template <typename T, typename Out>
struct Blocks {
  int64_t m, n, inner;        // sizes
  int64_t rows;               // of a panel of the left operand
  int64_t depth;              // of a panel, in elements
  int64_t left, right;        // panels
  float *a, *b;
  // The left operand where it lies, as words, if its lines lie along the inner dimension: no panels
  // then. Its stride is in words, too.
  const float* lines;
  int64_t stride;

  // Sums of bf16 are kept in registers to their end, so there one panel is as deep as it takes.
  Blocks(int64_t m, int64_t n, int64_t inner, int64_t rows)
      : m(m), n(n), inner(inner), rows(rows),
        depth(std::is_same_v<T, float> ? even(inner, kDepth) : inner), left(parts(m, rows)),
        right(parts(n, kColumns)), a(nullptr), b(nullptr), lines(nullptr), stride(0) {}

  int64_t depth_at(int64_t p) const { return std::min(depth, inner - p); }
  int64_t steps_at(int64_t p) const { return words(depth_at(p), T{}); }
  // Panels lie step by step. (Where elements are not words, there is but p = 0.)
  float* a_at(int64_t p, int64_t panel) const { return a + (p * left + panel * steps_at(p)) * rows; }
  float* b_at(int64_t p, int64_t panel) const {
    return b + (p * right + panel * steps_at(p)) * kColumns;
  }

  void pack_left(const View<T>& from, int64_t panel) const {
    const int64_t i = panel * rows;
    for (int64_t p = 0; p < inner; p += depth) {
      pack(a_at(p, panel), rows, from.data + i * from.row + p * from.column, from.row, from.column,
           std::min(rows, m - i), depth_at(p));
    }
  }

  void pack_right(const View<T>& from, int64_t panel) const {
    const int64_t j = panel * kColumns;
    for (int64_t p = 0; p < inner; p += depth) {
      pack(b_at(p, panel), kColumns, from.data + p * from.row + j * from.column, from.column,
           from.row, std::min(kColumns, n - j), depth_at(p));
    }
  }

  // Panels [i0, i1) by [j0, j1). `bias` or what is in `out` is what sums start from.
  void product(Out* out, int64_t out_stride, const Out* bias, bool add, int64_t i0, int64_t i1,
               int64_t j0, int64_t j1) const {
    for (int64_t p = 0; p < inner; p += depth) {
      for (int64_t j = j0; j < j1; ++j) {
        const int64_t width = n - j * kColumns;
        for (int64_t i = i0; i < i1; ++i) {
          const int64_t height = std::min(rows, m - i * rows);
          const Tile<Out> tile{out + i * rows * out_stride + j * kColumns,
                               out_stride,
                               first(width),
                               first(width - 16),
                               add || p > 0,
                               bias && p == 0 ? bias + j * kColumns : nullptr};
          // A panel's rows lie `rows` apart, so the last, lower one takes a tile of its own.
          if (lines) {
            const float* from = lines + i * rows * stride + words(p, T{});
            Kernels<T, Out, false>::of[height](steps_at(p), from, stride, b_at(p, j), tile);
          } else if (height == rows) {
            Kernels<T, Out, true>::of[rows](steps_at(p), a_at(p, i), 0, b_at(p, j), tile);
          } else {
            lower(tile, height, p, i, j);
          }
        }
      }
    }
  }

 private:
  void lower(const Tile<Out>& tile, int64_t height, int64_t p, int64_t i, int64_t j) const {
    Out whole[kRows * kColumns];
    for (int64_t r = 0; r < height && tile.add; ++r) {
      for (int64_t c = 0; c < std::min(kColumns, n - j * kColumns); ++c)
        whole[r * kColumns + c] = tile.data[r * tile.stride + c];
    }
    const Tile<Out> aside{whole, kColumns, tile.left, tile.right, tile.add, tile.bias};
    Kernels<T, Out, true>::of[rows](steps_at(p), a_at(p, i), 0, b_at(p, j), aside);
    for (int64_t r = 0; r < height; ++r) {
      for (int64_t c = 0; c < std::min(kColumns, n - j * kColumns); ++c)
        tile.data[r * tile.stride + c] = whole[r * kColumns + c];
    }
  }
};

// The product where there are columns enough for all threads: one that takes some of them copies their
// panels itself, and finds them in its second cache.
template <typename T, typename Out>
void by_columns(const Blocks<T, Out>& whole, const View<T>& from, Out* out, int64_t stride,
                const Out* bias, bool add) {
  const int64_t panel = kColumns * words(whole.inner, T{});
  const int64_t most = std::clamp<int64_t>(kOwn / panel, 1, kTaskPanels);
  const int64_t threads = at::get_num_threads();
  const int64_t tasks = std::min(whole.right, parts(parts(whole.right, most), threads) * threads);
  const int64_t high = std::max<int64_t>(1, kTaskRows / whole.rows);
  rlaif::parallel_tasks(tasks, [&](int64_t task) {
    static thread_local Panels own;
    const int64_t j0 = whole.right * task / tasks, j1 = whole.right * (task + 1) / tasks;
    const int64_t column = j0 * kColumns;
    Blocks<T, Out> part = whole;
    part.right = j1 - j0;
    part.n = std::min(whole.n - column, part.right * kColumns);
    part.b = own.of(part.right * panel);
    const View<T> columns{from.data + column * from.column, from.row, from.column};
    for (int64_t j = 0; j < part.right; ++j) part.pack_right(columns, j);
    for (int64_t i = 0; i < part.left; i += high) {
      part.product(out + column, stride, bias ? bias + column : nullptr, add, i,
                   std::min(i + high, part.left), 0, part.right);
    }
  });
}

// out = a b + bias, or out += a b + bias.
template <typename T, typename Out>
void product(int64_t m, int64_t n, int64_t k, const View<T>& a, const View<T>& b, Out* out,
             int64_t stride, const Out* bias, bool add) {
  static thread_local Panels left, right;
  const int64_t rows = even(m, kRows);
  const int64_t inner = std::is_same_v<T, float> ? even(k, kInner) : k;
  const int64_t deep = words(inner, T{});
  const int64_t m_most = std::max(rows * 16, kLeft / deep / rows * rows);
  const int64_t n_most = std::max(kColumns * 8, kRight / deep / kColumns * kColumns);
  for (int64_t p = 0; p < k; p += inner) {
    for (int64_t i = 0; i < m; i += m_most) {
      for (int64_t j = 0; j < n; j += n_most) {
        Blocks<T, Out> blocks(std::min(m_most, m - i), std::min(n_most, n - j), std::min(inner, k - p),
                         rows);
        const View<T> from_a{a.data + i * a.row + p * a.column, a.row, a.column};
        const View<T> from_b{b.data + p * b.row + j * b.column, b.row, b.column};
        Out* to = out + i * stride + j;
        const Out* start = bias && p == 0 ? bias + j : nullptr;
        // Of bf16 with both strides 1 (one column, or lines that overlap) words are put together.
        if (a.column == 1 && (std::is_same_v<T, float> || a.row != 1)) {
          blocks.lines = reinterpret_cast<const float*>(from_a.data);
          blocks.stride = words(a.row, T{});
        } else {
          blocks.a = left.of(blocks.left * rows * deep);
        }
        const bool own = blocks.right >= kShare * at::get_num_threads();
        if (!own) blocks.b = right.of(blocks.right * kColumns * deep);
        // The left panels serve every block of columns.
        const int64_t fresh = j == 0 && !blocks.lines ? blocks.left : 0;
        const int64_t shared = own ? 0 : blocks.right;
        constexpr int64_t together = 4;
        rlaif::parallel_tasks(parts(fresh + shared, together), [&](int64_t task) {
          const int64_t end = std::min((task + 1) * together, fresh + shared);
          for (int64_t panel = task * together; panel < end; ++panel) {
            if (panel < fresh) {
              blocks.pack_left(from_a, panel);
            } else {
              blocks.pack_right(from_b, panel - fresh);
            }
          }
        });
        if (own) {
          by_columns(blocks, from_b, to, stride, start, add || p > 0);
          continue;
        }
        // At least one block of rows for each thread, where there are rows enough.
        const int64_t threads = blocks.left >= 2 * at::get_num_threads() ? at::get_num_threads() : 1;
        const int64_t high = even(blocks.left, std::min(std::max<int64_t>(1, kTaskRows / rows),
                                                        parts(blocks.left, threads)));
        const int64_t across = parts(blocks.right, kTaskPanels);
        rlaif::parallel_tasks(parts(blocks.left, high) * across, [&](int64_t task) {
          const int64_t i0 = task / across * high;
          const int64_t j0 = task % across * kTaskPanels;
          blocks.product(to, stride, start, add || p > 0, i0, std::min(i0 + high, blocks.left), j0,
                         std::min(j0 + kTaskPanels, blocks.right));
        });
      }
    }
  }
}

bool has_tiles() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22));
  }();
  return has;
}

// Deeper products of bf16 would leave the caches, which oneDNN's do not.
constexpr int64_t kDeepest = 8192;

template <typename T>
bool try_kind(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add,
              const at::Tensor& bias) {
  const auto is_served = [](const at::Tensor& t) {
    return t.device().is_cpu() && t.scalar_type() == c10::CppTypeToScalarType<T>::value &&
           t.layout() == at::kStrided && (t.stride(0) == 1 || t.stride(1) == 1) && t.numel() > 0;
  };
  if (a.size(0) < kFew || !is_served(a) || !is_served(b) || !is_served(out) ||
      out.stride(1) != 1 ||
      (bias.defined() && (bias.scalar_type() != out.scalar_type() || !bias.is_contiguous()))) {
    return false;
  }
  const auto view = [](const at::Tensor& t) {
    return View<T>{t.const_data_ptr<T>(), t.stride(0), t.stride(1)};
  };
  if constexpr (!std::is_same_v<T, float>) {
    // Words of lines along the inner dimension lie one after another, from line to line.
    const int64_t k = a.size(1);
    const auto even_lines = [&](bool lies_across, int64_t stride) {
      return lies_across || (k % 2 == 0 && stride % 2 == 0);
    };
    if (!rlaif::multiplies_pairs() || has_tiles() || k > kDeepest || !even_lines(a.stride(0) == 1, a.stride(0)) ||
        !even_lines(b.stride(1) == 1, b.stride(1))) {
      return false;
    }
  }
  product<T, T>(a.size(0), b.size(1), a.size(1), view(a), view(b), out.mutable_data_ptr<T>(),
             out.stride(0), bias.defined() ? bias.const_data_ptr<T>() : nullptr, add);
  return true;
}

bool try_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add,
                 const at::Tensor& bias) {
  if (!rlaif::multiplies_blocks()) return false;
  return out.scalar_type() == at::kBFloat16 ? try_kind<BFloat16>(out, a, b, add, bias)
                                            : try_kind<float>(out, a, b, add, bias);
}

#else

bool try_product(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool,
                 const at::Tensor&) {
  return false;
}

#endif

}  // namespace

namespace rlaif {

void matmul_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, Into into,
                 const at::Tensor& bias) {
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) &&
                  out.size(0) == a.size(0) && out.size(1) == b.size(1) &&
                  (!bias.defined() || bias.numel() == out.size(1)),
              "matrices of sizes ", a.sizes(), " and ", b.sizes(), " into ", out.sizes());
  const bool add = into == Into::kAdd;
  if (try_product(out, a, b, add, bias)) return;
  at::Tensor to = out;
  if (add) {
    to.addmm_(a, b);
    if (bias.defined()) to.add_(bias);
  } else if (bias.defined()) {
    at::addmm_out(to, bias, a, b);
  } else {
    at::mm_out(to, a, b);
  }
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const auto out = at::empty({a.size(0), b.size(1)}, a.options());
  matmul_into(out, a, b, Into::kOverwrite, bias);
  return out;
}

bool multiplies_blocks() {
#ifdef RLAIF_AVX512
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  return has_avx512;
#else
  return false;
#endif
}

bool multiplies_pairs() {
#ifdef RLAIF_AVX512
  static const bool has = __builtin_cpu_supports("avx512bf16") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return has;
#else
  return false;
#endif
}

template <typename T, typename Out>
void multiply_blocks(int64_t m, int64_t n, int64_t k, Block<T> a, Block<T> b, Out* out,
                     int64_t stride, Into into) {
#ifdef RLAIF_AVX512
  if (k == 0 && into == Into::kOverwrite) {
    for (int64_t i = 0; i < m; ++i) std::fill_n(out + i * stride, n, Out(0.0f));
  }
  if (k == 0) return;
  product<T, Out>(m, n, k, {a.data, a.row, a.column}, {b.data, b.row, b.column}, out, stride,
                  nullptr, into == Into::kAdd);
#else
  (void)m, (void)n, (void)k, (void)a, (void)b, (void)out, (void)stride, (void)into;
  TORCH_CHECK(false, "no product of blocks on this processor");
#endif
}

template void multiply_blocks(int64_t, int64_t, int64_t, Block<float>, Block<float>, float*,
                              int64_t, Into);
template void multiply_blocks(int64_t, int64_t, int64_t, Block<c10::BFloat16>,
                              Block<c10::BFloat16>, float*, int64_t, Into);
template void multiply_blocks(int64_t, int64_t, int64_t, Block<c10::BFloat16>,
                              Block<c10::BFloat16>, c10::BFloat16*, int64_t, Into);

void copy_panel(float* panel, int64_t width, const float* lines, int64_t stride, int64_t count,
                int64_t depth) {
#ifdef RLAIF_AVX512
  pack(panel, width, lines, stride, 1, count, depth);
#else
  (void)panel, (void)width, (void)lines, (void)stride, (void)count, (void)depth;
  TORCH_CHECK(false, "no panels on this processor");
#endif
}

at::Tensor rows_of(const at::Tensor& x) {
  const int64_t width = x.size(-1);
  return x.contiguous().view({width == 0 ? 0 : x.numel() / width, width});
}

}  // namespace rlaif

// Compiled once for each instruction set, with RLAIF_TILES as the name of its set of kernels and
// flags that let the compiler use it: see build.rs and the note in tiles.hpp.
//
// A product's sums keep their order for any number of rows: this file is compiled without the
// flags that let the compiler reorder.
#include "tiles.hpp"

#include <string.h>

#if defined(__AVX2__)
// The intrinsics' own headers leave what is overwritten without a value.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#define RLAIF_ALWAYS inline __attribute__((always_inline))

namespace rlaif {
namespace {

// ---- Vectors -------------------------------------------------------------------------------------

// Lanes of a vector. The compiler's own vectors: operators work lane by lane.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr bool kPairs =
#if defined(__AVX512BF16__)
    true;
#else
    false;
#endif

typedef float V __attribute__((vector_size(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U __attribute__((vector_size(kLanes * 4)));
typedef uint16_t H __attribute__((vector_size(kLanes * 2)));
// The same anywhere in memory.
typedef float AnyV __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t AnyH __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

// Tiles of two vectors of columns. Their sums leave registers for two vectors of the right operand and
// a number of the left: of 32 registers (AVX-512, NEON), or 16.
#if defined(__AVX512F__)
constexpr int kRows = 14, kFewRows = 8;
#elif defined(__aarch64__)
constexpr int kRows = 12, kFewRows = 8;
#else
constexpr int kRows = 6, kFewRows = 4;
#endif
constexpr int kColumns = 2 * kLanes;
static_assert(kRows <= kMostRows && kColumns <= kMostColumns && kFewRows <= kMostFewRows, "");

RLAIF_ALWAYS constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

RLAIF_ALWAYS V all(float x) { return x - V{}; }

RLAIF_ALWAYS V widened(H x) { return (V)(__builtin_convertvector(x, U) << 16); }

// To the nearest, ties to even; no number stays none.
RLAIF_ALWAYS H narrowed(V x) {
#if defined(__AVX512BF16__)
  return (H)_mm512_cvtneps_pbh((__m512)x);
#else
  const U bits = (U)x;
  const U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const U none = (U)((I)(bits & 0x7fffffff) > 0x7f800000);
  return __builtin_convertvector((rounded & ~none) | (none & 0x7fc0), H);
#endif
}

#if defined(__AVX512F__)
RLAIF_ALWAYS __mmask16 mask_of(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}
#endif

// Loads and stores of the first n lanes; others are 0, and stay as they are in memory.
RLAIF_ALWAYS V load(const float* from, int64_t n) {
#if defined(__AVX512F__)
  return (V)_mm512_maskz_loadu_ps(mask_of(n), from);
#else
  if (n >= kLanes) return *(const AnyV*)from;
#if defined(__AVX2__)
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), places);
  return (V)_mm256_maskload_ps(from, there);
#else
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = from[i];
  V x;
  memcpy(&x, lanes, sizeof x);
  return x;
#endif
#endif
}

RLAIF_ALWAYS V load(const Half* from, int64_t n) {
#if defined(__AVX512F__)
  return widened((H)_mm256_maskz_loadu_epi16(mask_of(n), from));
#else
  if (n >= kLanes) return widened(*(const AnyH*)from);
#if defined(__AVX2__)
  // The last four overlap the first ones: what is twice there is shifted out.
  if (n >= 4) {
    uint64_t low, high;
    memcpy(&low, from, sizeof low);
    memcpy(&high, from + n - 4, sizeof high);
    high = n == 4 ? 0 : high >> (16 * (8 - n));
    return widened((H)_mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low)));
  }
#endif
  uint16_t lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = from[i];
  H x;
  memcpy(&x, lanes, sizeof x);
  return widened(x);
#endif
}

RLAIF_ALWAYS void store(float* to, int64_t n, V x) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, mask_of(n), (__m512)x);
#else
  if (n >= kLanes) {
    *(AnyV*)to = x;
    return;
  }
  float lanes[kLanes];
  memcpy(lanes, &x, sizeof x);
  for (int64_t i = 0; i < n; ++i) to[i] = lanes[i];
#endif
}

RLAIF_ALWAYS void store(Half* to, int64_t n, V x) {
  const H y = narrowed(x);
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(to, mask_of(n), (__m256i)y);
#else
  if (n >= kLanes) {
    *(AnyH*)to = y;
    return;
  }
  uint16_t lanes[kLanes];
  memcpy(lanes, &y, sizeof y);
  for (int64_t i = 0; i < n; ++i) to[i] = lanes[i];
#endif
}

RLAIF_ALWAYS void fetch(const void* at) { __builtin_prefetch(at); }
// Into the second level of the cache.
RLAIF_ALWAYS void fetch_aside(const void* at) { __builtin_prefetch(at, 0, 2); }

// ---- Order of lanes ------------------------------------------------------------------------------

template <int... N>
struct Numbers {};
template <int N, int... Rest>
struct Count : Count<N - 1, N - 1, Rest...> {};
template <int... Rest>
struct Count<0, Rest...> {
  using To = Numbers<Rest...>;
};

// Lane i of the result is lane `Order::at(i)` of a, or of b if that is kLanes or more.
template <class Order, int... N>
RLAIF_ALWAYS V shuffled(V a, V b, Numbers<N...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, Order::at(N)...);
#else
  return __builtin_shuffle(a, b, I{Order::at(N)...});
#endif
}
template <class Order>
RLAIF_ALWAYS V shuffled(V a, V b) {
  return shuffled<Order>(a, b, typename Count<kLanes>::To());
}

// Within each quarter of four lanes: the first two of a and b in turns, or the last two.
template <int High>
struct Turns {
  static constexpr int at(int i) { return i / 4 * 4 + 2 * High + i % 4 / 2 + i % 2 * kLanes; }
};
// The first two of a and then of b, or the last two.
template <int High>
struct Twos {
  static constexpr int at(int i) { return i / 4 * 4 + 2 * High + i % 2 + i % 4 / 2 * kLanes; }
};
// The quarters of even, or odd, place of a and then of b.
template <int Odd>
struct Quarters {
  static constexpr int at(int i) {
    const int from = i / 4 < kLanes / 8 ? 0 : kLanes;
    const int quarter = i / 4 - (from ? kLanes / 8 : 0);
    // (Of one quarter there are no neighbours; the order is not used then, but must be one.)
    return (from + (2 * quarter + Odd) * 4 + i % 4) % (2 * kLanes);
  }
};

// Rows become columns.
RLAIF_ALWAYS void transpose(V (&r)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
    const V a = shuffled<Turns<0>>(r[i], r[i + 1]), b = shuffled<Turns<1>>(r[i], r[i + 1]);
    const V c = shuffled<Turns<0>>(r[i + 2], r[i + 3]), d = shuffled<Turns<1>>(r[i + 2], r[i + 3]);
    r[i] = shuffled<Twos<0>>(a, c);
    r[i + 1] = shuffled<Twos<1>>(a, c);
    r[i + 2] = shuffled<Twos<0>>(b, d);
    r[i + 3] = shuffled<Twos<1>>(b, d);
  }
  // Quarter q of r[4 g + c] is now column 4 q + c of rows 4 g to 4 g + 3.
  if constexpr (kLanes == 8) {
#pragma GCC unroll 16
    for (int c = 0; c < 4; ++c) {
      const V low = shuffled<Quarters<0>>(r[c], r[4 + c]);
      r[4 + c] = shuffled<Quarters<1>>(r[c], r[4 + c]);
      r[c] = low;
    }
  } else if constexpr (kLanes == 16) {
    // (With fewer lanes this is not compiled, but its places must exist.)
    constexpr int k8 = kLanes == 16 ? 8 : 0, k12 = kLanes == 16 ? 12 : 0, k4 = kLanes == 16 ? 4 : 0;
#pragma GCC unroll 16
    for (int c = 0; c < 4; ++c) {
      const V even_low = shuffled<Quarters<0>>(r[c], r[k4 + c]);
      const V odd_low = shuffled<Quarters<1>>(r[c], r[k4 + c]);
      const V even_high = shuffled<Quarters<0>>(r[k8 + c], r[k12 + c]);
      const V odd_high = shuffled<Quarters<1>>(r[k8 + c], r[k12 + c]);
      r[c] = shuffled<Quarters<0>>(even_low, even_high);
      r[k4 + c] = shuffled<Quarters<0>>(odd_low, odd_high);
      r[k8 + c] = shuffled<Quarters<1>>(even_low, even_high);
      r[k12 + c] = shuffled<Quarters<1>>(odd_low, odd_high);
    }
  }
}

// The sums of four vectors, each added in the same tree: the first two lanes of each quarter to its
// last two, these to each other, and then the quarters, neighbours first.
RLAIF_ALWAYS void sums_of_4(const V* v, float* sums) {
  const V ab = shuffled<Turns<0>>(v[0], v[1]) + shuffled<Turns<1>>(v[0], v[1]);
  const V cd = shuffled<Turns<0>>(v[2], v[3]) + shuffled<Turns<1>>(v[2], v[3]);
  V q = shuffled<Twos<0>>(ab, cd) + shuffled<Twos<1>>(ab, cd);
#pragma GCC unroll 4
  for (int quarters = kLanes / 4; quarters > 1; quarters /= 2) {
    q = shuffled<Quarters<0>>(q, q) + shuffled<Quarters<1>>(q, q);
  }
  memcpy(sums, &q, 4 * sizeof(float));
}

// ---- Panels --------------------------------------------------------------------------------------

// Lines ahead that are asked for while lines are copied.
constexpr int64_t kAhead = 16;

// Step p of a panel. Where all lines fit a vector, a whole one is stored: the lanes behind the
// panel's width are overwritten by the next step, which the last one lacks.
RLAIF_ALWAYS void put(float* panel, int64_t width, int64_t base, int64_t p, int64_t depth, V x) {
  if (width <= kLanes && p * width + kLanes <= depth * width) {
    *(AnyV*)(panel + p * width) = x;
  } else {
    store(panel + p * width + base, width - base, x);
  }
}

template <typename T>
void pack(float* panel, int64_t width, const T* lines, int64_t across, int64_t along, int64_t count,
          int64_t depth) {
  for (int64_t base = 0; base < width; base += kLanes) {
    const int64_t n = count - base;
    const T* in = lines + base * across;
    if (across == 1) {
      for (int64_t p = 0; p < depth; ++p) {
        fetch(in + (p + kAhead) * along);
        put(panel, width, base, p, depth, load(in + p * along, n));
      }
      continue;
    }
    for (int64_t p = 0; p < depth; p += kLanes) {
      const int64_t length = least(kLanes, depth - p);
      V r[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        r[i] = i < n ? load(in + i * across + p, length) : V{};
        // The next panel's lines, which are too far apart for the processor to foresee.
        fetch(in + (i + width) * across + p);
      }
      transpose(r);
      for (int64_t i = 0; i < length; ++i) put(panel, width, base, p + i, depth, r[i]);
    }
  }
}

#if defined(__AVX512BF16__)
// Of lines that lie across: words are put together from two rows each. `depth` counts elements.
void pack_across(float* panel, int64_t width, const Half* lines, int64_t along, int64_t count,
                 int64_t depth) {
  alignas(64) static constexpr uint16_t kLow[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t base = 0; base < width; base += 32) {
    const int64_t n = count - base < 0 ? 0 : least(count - base, 32);
    const auto there = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    const __mmask16 fits = mask_of(width - base), rest = mask_of(width - base - 16);
    for (int64_t p = 0; p < depth; p += 2) {
      const Half* row = lines + p * along + base;
      fetch(row + kAhead * along);
      fetch(row + (kAhead + 1) * along);
      const __m512i even = _mm512_maskz_loadu_epi16(there, row);
      // Past the end of an odd depth there are zeros.
      const __m512i odd = _mm512_maskz_loadu_epi16(p + 1 < depth ? there : 0, row + along);
      float* out = panel + p / 2 * width + base;
      _mm512_mask_storeu_ps(out, fits,
                            _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, low, odd)));
      if (rest) {
        _mm512_mask_storeu_ps(out + 16, rest,
                              _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, high, odd)));
      }
    }
  }
}

// Along the lines there is an even number of elements: words are moved as f32, which changes no bit.
void pack_pairs(float* panel, int64_t width, const Half* lines, int64_t across, int64_t along,
                int64_t count, int64_t depth) {
  if (across == 1) {
    pack_across(panel, width, lines, along, count, depth);
  } else {
    pack(panel, width, (const float*)lines, across / 2, 1, count, depth / 2);
  }
}
#endif

// ---- Tiles ---------------------------------------------------------------------------------------

// R rows of the left operand: a panel of them, or rows that lie `stride` apart, where they are.
template <int R, bool Panel>
class Left {
 public:
  RLAIF_ALWAYS Left(const float* a, int64_t stride) : stride_(stride) {
    for (int i = 0; i < kBases; ++i) base_[i] = Panel ? a : a + 3 * i * stride;
  }
  // Of row i, at this step.
  RLAIF_ALWAYS float at(int i) const {
    return Panel ? base_[0][i] : base_[i / 3][i % 3 * stride_];
  }
  RLAIF_ALWAYS void next() {
#pragma GCC unroll 16
    for (int i = 0; i < kBases; ++i) base_[i] += Panel ? R : 1;
  }

 private:
  // A pointer for three rows: an address takes a base and a multiple of a stride, and registers are few.
  static constexpr int kBases = Panel ? 1 : (R + 2) / 3;
  const float* base_[kBases];
  int64_t stride_;
};

// A step of a product: of f32, or of two neighbours in bf16 that a word holds.
template <bool Pairs>
RLAIF_ALWAYS V step(V sum, V a, V b) {
#if defined(__AVX512BF16__)
  if constexpr (Pairs) return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
  return a * b + sum;
}

// What sums of a tile's columns start from: its bias, or zeros, in f32.
template <typename Out>
__attribute__((noinline)) void start_of(const Tile<Out>& tile, float* start) {
  for (int64_t c = 0; c < kColumns; c += kLanes) {
    *(AnyV*)(start + c) = tile.bias ? load(tile.bias + c, tile.width - c) : V{};
  }
}

// Writes sums to where they belong, the columns that are there.
template <typename Out>
__attribute__((noinline)) void finish(const float* sums, int64_t rows, const Tile<Out>& tile) {
  for (int64_t i = 0; i < rows; ++i) {
    Out* out = tile.data + i * tile.stride;
    for (int64_t c = 0; c < kColumns; c += kLanes) {
      V x = *(const AnyV*)(sums + i * kColumns + c);
      if (tile.add) x += load(out + c, tile.width - c);
      store(out + c, tile.width - c, x);
    }
  }
}

// The sums stay in registers: what is rare, and would need some of them, is in functions of its own.
template <int R, bool Panel, bool Pairs, typename Out>
void multiply(int64_t steps, const float* a, int64_t stride, const float* b, const Tile<Out>& tile) {
  alignas(64) float aside[R * kColumns];
  Left<R, Panel> rows(a, stride);
  V x[R], y[R];
  if (tile.bias) {
    start_of(tile, aside);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      x[i] = *(const AnyV*)aside;
      y[i] = *(const AnyV*)(aside + kLanes);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) x[i] = y[i] = V{};
  }
  for (int64_t p = 0; p < steps; ++p) {
    const V u = *(const AnyV*)b, v = *(const AnyV*)(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const V s = all(rows.at(i));
      x[i] = step<Pairs>(x[i], s, u);
      y[i] = step<Pairs>(y[i], s, v);
    }
    rows.next();
    b += kColumns;
  }
  if constexpr (sizeof(Out) == sizeof(float)) {
    if (tile.width >= kColumns) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        AnyV *low = (AnyV*)(tile.data + i * tile.stride), *high = (AnyV*)((float*)low + kLanes);
        *low = tile.add ? *low + x[i] : x[i];
        *high = tile.add ? *high + y[i] : y[i];
      }
      return;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    *(AnyV*)(aside + i * kColumns) = x[i];
    *(AnyV*)(aside + i * kColumns + kLanes) = y[i];
  }
  finish(aside, R, tile);
}

template <bool Panel, bool Pairs, typename Out, int... N>
constexpr void fill(Multiply<Out> (&of)[kMostRows + 1], Numbers<N...>) {
  ((of[N + 1] = multiply<N + 1, Panel, Pairs, Out>), ...);
}

template <bool Pairs, typename Out>
constexpr ByRows<Out> by_rows() {
  ByRows<Out> all{};
  fill<false, Pairs, Out>(all.of[0], Count<kRows>::To());
  fill<true, Pairs, Out>(all.of[1], Count<kRows>::To());
  return all;
}

// ---- Few rows ------------------------------------------------------------------------------------

// What lanes of one load hold: f32, or of pairs two neighbours each.
template <bool Pairs>
constexpr int kTaken = Pairs ? 2 * kLanes : kLanes;

template <bool Pairs, typename T>
RLAIF_ALWAYS V taken(const T* from, int64_t n) {
#if defined(__AVX512BF16__)
  if constexpr (Pairs) {
    const auto there = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1);
    return (V)_mm512_maskz_loadu_epi16(there, from);
  }
#endif
  return load(from, n);
}

template <int M, int N, bool Pairs, typename X, typename W>
void few_of(const X* x, const W* w, int64_t k, const W* ahead, float* sums) {
  // One more than a multiple of four is summed with nothing.
  constexpr int kPadded = (M + 3) / 4 * 4;
  V acc[N][kPadded];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < kPadded; ++i) acc[j][i] = V{};
  int64_t t = 0;
  const auto add = [&](int64_t n) __attribute__((always_inline)) {
    V b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) b[j] = taken<Pairs>(w + j * k + t, n);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      V a = taken<Pairs>(x + i * k + t, n);
#if defined(__AVX512F__)
      // Loaded once: as an operand in memory it would be read for each weight, and loads are what
      // the processor runs out of.
      __asm__("" : "+v"(a));
#endif
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j][i] = step<Pairs>(acc[j][i], a, b[j]);
    }
  };
  for (; t + kTaken<Pairs> <= k; t += kTaken<Pairs>) {
    if (ahead) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) fetch_aside(ahead + j * k + t);
    }
    add(kTaken<Pairs>);
  }
  if (t < k) add(k - t);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    float s[kPadded];
#pragma GCC unroll 8
    for (int i = 0; i < kPadded; i += 4) sums_of_4(acc[j] + i, s + i);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) sums[i * kFewWeights + j] = s[i];
  }
}

template <int M, bool Pairs, typename X, typename W>
void few_rows(const X* x, const W* w, int64_t n, int64_t k, const W* ahead, float* sums) {
  switch (n) {
    case 1: return few_of<M, 1, Pairs>(x, w, k, ahead, sums);
    case 2: return few_of<M, 2, Pairs>(x, w, k, ahead, sums);
    default: return few_of<M, 3, Pairs>(x, w, k, ahead, sums);
  }
}

template <bool Pairs, typename X, typename W>
void few(const X* x, int64_t m, const W* w, int64_t n, int64_t k, const W* ahead, float* sums) {
  switch (m) {
    case 1: return few_rows<1, Pairs>(x, w, n, k, ahead, sums);
    case 2: return few_rows<2, Pairs>(x, w, n, k, ahead, sums);
    case 3: return few_rows<3, Pairs>(x, w, n, k, ahead, sums);
    case 4: return few_rows<4, Pairs>(x, w, n, k, ahead, sums);
    case 5: return few_rows<least(5, kFewRows), Pairs>(x, w, n, k, ahead, sums);
    case 6: return few_rows<least(6, kFewRows), Pairs>(x, w, n, k, ahead, sums);
    case 7: return few_rows<least(7, kFewRows), Pairs>(x, w, n, k, ahead, sums);
    default: return few_rows<kFewRows, Pairs>(x, w, n, k, ahead, sums);
  }
}

// ---- Codes of 4 bits -----------------------------------------------------------------------------

RLAIF_ALWAYS Half upper_half(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return static_cast<Half>(bits >> 16);
}

RLAIF_ALWAYS void store_one(float* out, float x) { *out = x; }
RLAIF_ALWAYS void store_one(Half* out, float x) { *out = upper_half(x); }

#if defined(__AVX2__)
// The 16 codes of 8 bytes, in order.
RLAIF_ALWAYS __m128i codes_of(const uint8_t* bytes) {
  const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  const __m128i low = _mm_set1_epi8(15);
  return _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(both, 4), low), _mm_and_si128(both, low));
}
#endif

template <typename Out>
void unpack(const uint8_t* bytes, const float* table, Out* out, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512 all = _mm512_loadu_ps(table);
  for (; i + 8 <= count; i += 8) {
    const __m512 x = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes_of(bytes + i)), all);
    if constexpr (sizeof(Out) == 4) {
      _mm512_storeu_ps(reinterpret_cast<float*>(out + 2 * i), x);
    } else {
      const __m256i upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), upper);
    }
  }
#elif defined(__AVX2__)
  const __m256 first = _mm256_loadu_ps(table), second = _mm256_loadu_ps(table + 8);
  const auto of = [&](__m128i codes) __attribute__((always_inline)) {
    const __m256i index = _mm256_cvtepu8_epi32(codes);
    const __m256 chosen = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, index),
                            _mm256_permutevar8x32_ps(second, index), chosen);
  };
  for (; i + 8 <= count; i += 8) {
    const __m128i codes = codes_of(bytes + i);
    const __m256 a = of(codes), b = of(_mm_unpackhi_epi64(codes, codes));
    if constexpr (sizeof(Out) == 4) {
      _mm256_storeu_ps(reinterpret_cast<float*>(out + 2 * i), a);
      _mm256_storeu_ps(reinterpret_cast<float*>(out + 2 * i + 8), b);
    } else {
      const __m256i upper = _mm256_packus_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 16),
                                                _mm256_srli_epi32(_mm256_castps_si256(b), 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i),
                          _mm256_permute4x64_epi64(upper, 0xd8));
    }
  }
#endif
  for (; i < count; ++i) {
    store_one(out + 2 * i, table[bytes[i] >> 4]);
    store_one(out + 2 * i + 1, table[bytes[i] & 15]);
  }
}

}  // namespace

const Tiles& RLAIF_TILES() {
  static constexpr Tiles kTiles = {
      kRows,
      kColumns,
      kFewRows,
      kPairs,
      by_rows<false, float>(),
      by_rows<kPairs, float>(),
      by_rows<kPairs, Half>(),
      pack<float>,
#if defined(__AVX512BF16__)
      pack_pairs,
#else
      pack<Half>,
#endif
      unpack<float>,
      unpack<Half>,
      few<false, float, float>,
      kPairs ? few<kPairs, Half, Half> : nullptr,
      kPairs ? nullptr : few<false, float, Half>,
  };
  return kTiles;
}

}  // namespace rlaif

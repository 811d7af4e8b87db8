#include "rows_tile.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
// The intrinsics' own headers leave what is overwritten without a value.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#define RLAIF_X86 1
#endif

namespace rlaif::rows {
namespace {

// Any machine: 16 lanes in an array, added by the same tree.
template <typename T>
void tile_plain(const T* x, int64_t m, const T* w, int64_t n, int64_t k, const T*, float* sums) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const T* a = x + i * k;
      const T* b = w + j * k;
      float lanes[16] = {};
      int64_t t = 0;
      for (; t + 16 <= k; t += 16) {
        for (int l = 0; l < 16; ++l) lanes[l] += widen(a[t + l]) * widen(b[t + l]);
      }
      for (int l = 0; t + l < k; ++l) lanes[l] += widen(a[t + l]) * widen(b[t + l]);
      for (int width = 8; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
      }
      sums[i * kTileWeights + j] = lanes[0];
    }
  }
}

#ifdef RLAIF_X86
#define RLAIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define RLAIF_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))

// The sums of 8 vectors, in order.
RLAIF_AVX512 inline __m256 sums_of_8(const __m512* v) {
  __m512 q[2];
  for (int h = 0; h < 2; ++h) {
    const __m512* a = v + 4 * h;
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    q[h] = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  }
  const __m512 u = _mm512_add_ps(_mm512_shuffle_f32x4(q[0], q[1], 0x88),
                                 _mm512_shuffle_f32x4(q[0], q[1], 0xdd));
  const __m512 s =
      _mm512_add_ps(_mm512_shuffle_f32x4(u, u, 0x88), _mm512_shuffle_f32x4(u, u, 0xdd));
  return _mm512_castps512_ps256(s);
}

template <int M, int N>
RLAIF_AVX512 void f32_avx512(const float* x, const float* w, int64_t k, const float* ahead,
                             float* sums) {
  __m512 acc[N][8];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) acc[j][i] = _mm512_setzero_ps();
  int64_t t = 0;
  for (; t + 16 <= k; t += 16) {
    __m512 b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      b[j] = _mm512_loadu_ps(w + j * k + t);
      if (ahead) _mm_prefetch(reinterpret_cast<const char*>(ahead + j * k + t), _MM_HINT_T1);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const __m512 a = _mm512_loadu_ps(x + i * k + t);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j][i] = _mm512_fmadd_ps(a, b[j], acc[j][i]);
    }
  }
  if (t < k) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (k - t)) - 1);
    __m512 b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) b[j] = _mm512_maskz_loadu_ps(mask, w + j * k + t);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const __m512 a = _mm512_maskz_loadu_ps(mask, x + i * k + t);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j][i] = _mm512_fmadd_ps(a, b[j], acc[j][i]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    float s[8];
    _mm256_storeu_ps(s, sums_of_8(acc[j]));
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) sums[i * kTileWeights + j] = s[i];
  }
}

template <int M, int N>
RLAIF_AVX512_BF16 void bf16_avx512(const bf16* x, const bf16* w, int64_t k, const bf16* ahead,
                                   float* sums) {
  __m512 acc[N][8];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) acc[j][i] = _mm512_setzero_ps();
  int64_t t = 0;
  for (; t + 32 <= k; t += 32) {
    __m512bh b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      b[j] = (__m512bh)_mm512_loadu_si512(w + j * k + t);
      if (ahead) _mm_prefetch(reinterpret_cast<const char*>(ahead + j * k + t), _MM_HINT_T1);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const __m512bh a = (__m512bh)_mm512_loadu_si512(x + i * k + t);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j][i] = _mm512_dpbf16_ps(acc[j][i], a, b[j]);
    }
  }
  if (t < k) {
    const __mmask32 mask = static_cast<__mmask32>((1ull << (k - t)) - 1);
    __m512bh b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) b[j] = (__m512bh)_mm512_maskz_loadu_epi16(mask, w + j * k + t);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + i * k + t);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j][i] = _mm512_dpbf16_ps(acc[j][i], a, b[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    float s[8];
    _mm256_storeu_ps(s, sums_of_8(acc[j]));
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) sums[i * kTileWeights + j] = s[i];
  }
}


#define RLAIF_DISPATCH(NAME, T)                                                              \
  template <int M>                                                                           \
  void NAME##_n(const T* x, const T* w, int64_t n, int64_t k, const T* ahead, float* sums) { \
    switch (n) {                                                                             \
      case 1: return NAME<M, 1>(x, w, k, ahead, sums);                                       \
      case 2: return NAME<M, 2>(x, w, k, ahead, sums);                                       \
      default: return NAME<M, 3>(x, w, k, ahead, sums);                                      \
    }                                                                                        \
  }                                                                                          \
  void NAME##_tile(const T* x, int64_t m, const T* w, int64_t n, int64_t k, const T* ahead,  \
                   float* sums) {                                                            \
    switch (m) {                                                                             \
      case 1: return NAME##_n<1>(x, w, n, k, ahead, sums);                                   \
      case 2: return NAME##_n<2>(x, w, n, k, ahead, sums);                                   \
      case 3: return NAME##_n<3>(x, w, n, k, ahead, sums);                                   \
      case 4: return NAME##_n<4>(x, w, n, k, ahead, sums);                                   \
      case 5: return NAME##_n<5>(x, w, n, k, ahead, sums);                                   \
      case 6: return NAME##_n<6>(x, w, n, k, ahead, sums);                                   \
      case 7: return NAME##_n<7>(x, w, n, k, ahead, sums);                                   \
      default: return NAME##_n<8>(x, w, n, k, ahead, sums);                                  \
    }                                                                                        \
  }

RLAIF_DISPATCH(f32_avx512, float)
RLAIF_DISPATCH(bf16_avx512, bf16)

// A lane of a panel: an f32, or two neighbours in bf16.
using word = int32_t __attribute__((may_alias));

RLAIF_AVX512 inline __m512 step(__m512 sum, __m512i x, __m512i w, float) {
  return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), sum);
}
RLAIF_AVX512_BF16 inline __m512 step(__m512 sum, __m512i x, __m512i w, bf16) {
  return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
}

#define RLAIF_PANEL(NAME, T, TARGET)                                                              \
  template <int M>                                                                                \
  TARGET void NAME(const word* x, const word* panel, int64_t n, int64_t words, float* y,    \
                   int64_t stride) {                                                              \
    __m512 low[M], high[M];                                                                       \
    _Pragma("GCC unroll 16") for (int i = 0; i < M; ++i) low[i] = high[i] = _mm512_setzero_ps();  \
    for (int64_t p = 0; p < words; ++p) {                                                         \
      const __m512i a = _mm512_loadu_si512(panel + p * kPanelWeights);                            \
      const __m512i b = _mm512_loadu_si512(panel + p * kPanelWeights + 16);                       \
      _Pragma("GCC unroll 16") for (int i = 0; i < M; ++i) {                                      \
        const __m512i v = _mm512_set1_epi32(x[i * words + p]);                                    \
        low[i] = step(low[i], v, a, T{});                                                         \
        high[i] = step(high[i], v, b, T{});                                                       \
      }                                                                                           \
    }                                                                                             \
    const auto first = [](int64_t k) {                                                            \
      return static_cast<__mmask16>(k >= 16 ? 0xffff : k <= 0 ? 0 : (1u << k) - 1);               \
    };                                                                                            \
    _Pragma("GCC unroll 16") for (int i = 0; i < M; ++i) {                                        \
      _mm512_mask_storeu_ps(y + i * stride, first(n), low[i]);                                    \
      _mm512_mask_storeu_ps(y + i * stride + 16, first(n - 16), high[i]);                         \
    }                                                                                             \
  }                                                                                               \
  using NAME##_type = void (*)(const word*, const word*, int64_t, int64_t, float*, int64_t);\
  constexpr NAME##_type NAME##_of[kPanelRows + 1] = {                                             \
      nullptr,  NAME<1>, NAME<2>,  NAME<3>,  NAME<4>,  NAME<5>,  NAME<6>, NAME<7>,                \
      NAME<8>,  NAME<9>, NAME<10>, NAME<11>, NAME<12>, NAME<13>, NAME<14>};

RLAIF_PANEL(f32_panel, float, RLAIF_AVX512)
RLAIF_PANEL(bf16_panel, bf16, RLAIF_AVX512_BF16)

const word* words(const void* data) { return static_cast<const word*>(data); }
#endif

}  // namespace

bool has_panels(float, int64_t k) {
#ifdef RLAIF_X86
  return k > 0 && k < (1 << 26) && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

bool has_panels(bf16, int64_t k) {
#ifdef RLAIF_X86
  return k % 2 == 0 && has_panels(float{}, k) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void multiply_panel(const float* x, int64_t m, const float* panel, int64_t n, int64_t k, float* y,
                    int64_t stride) {
#ifdef RLAIF_X86
  f32_panel_of[m](words(x), words(panel), n, k, y, stride);
#endif
}

void multiply_panel(const bf16* x, int64_t m, const bf16* panel, int64_t n, int64_t k, float* y,
                    int64_t stride) {
#ifdef RLAIF_X86
  bf16_panel_of[m](words(x), words(panel), n, k / 2, y, stride);
#endif
}

F32Tile f32_tile() {
#ifdef RLAIF_X86
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return f32_avx512_tile;
#endif
  return tile_plain<float>;
}

Bf16Tile bf16_tile() {
#ifdef RLAIF_X86
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl"))
    return bf16_avx512_tile;
#endif
  return tile_plain<bf16>;
}

}  // namespace rlaif::rows

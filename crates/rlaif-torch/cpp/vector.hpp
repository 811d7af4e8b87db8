// One build serves every processor: loops are compiled for each instruction set, and run for the one
// that is in use (isa.hpp).
#pragma once

#include "isa.hpp"

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

// For loops that `AtWidth` runs, and for what they call: left to itself, the compiler may keep a function
// of the plain instruction set, and then no loop around it is vectorised.
#if defined(__GNUC__)
#define RLAIF_INLINE inline __attribute__((always_inline))
#else
#define RLAIF_INLINE inline
#endif

namespace rlaif {

// `AtWidth<body>::run` is the function `body`, which is RLAIF_INLINE, compiled for each instruction set.
template <auto Body>
struct AtWidth;

template <class R, class... A, R (*Body)(A...)>
struct AtWidth<Body> {
  static R run(A... arguments) {
#if RLAIF_X86
    switch (isa()) {
      case Isa::kPortable: break;
      case Isa::kAvx2: return avx2(arguments...);
      default: return avx512(arguments...);
    }
#endif
    return Body(arguments...);
  }

 private:
#if RLAIF_X86
  __attribute__((target("arch=x86-64-v3"))) static R avx2(A... arguments) {
    return Body(arguments...);
  }
  __attribute__((target("arch=x86-64-v4"))) static R avx512(A... arguments) {
    return Body(arguments...);
  }
#endif
};

// A logarithm of a probability, not so low that its exponential is denormal, or infinite, which
// times 0 would be no number. NaN passes.
RLAIF_INLINE float floored(float x) { return x < -87.3f ? -87.3f : x; }

// exp(x) for x in [-87.3, 88], to 2 units in the last place (Cephes' polynomial). Written out so
// that it vectorises; the two steps of the reduction are fused by hand, because reordering them
// would lose their point.
RLAIF_INLINE float exponential(float x) {
  const float n = std::nearbyint(x * 1.44269504f);
  float r = __builtin_fmaf(n, -0.693359375f, x);
  r = __builtin_fmaf(n, 2.12194440e-4f, r);
  float y = 1.9875691500e-4f;
  y = __builtin_fmaf(y, r, 1.3981999507e-3f);
  y = __builtin_fmaf(y, r, 8.3334519073e-3f);
  y = __builtin_fmaf(y, r, 4.1665795894e-2f);
  y = __builtin_fmaf(y, r, 1.6666665459e-1f);
  y = __builtin_fmaf(y, r, 5.0000001201e-1f);
  y = __builtin_fmaf(y, r * r, r) + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return y * scale;
}

// bf16 is computed in f32, a block at a time: mixed into one loop, the conversions keep it from
// being vectorised.
RLAIF_INLINE void widen_here(const c10::BFloat16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i].x) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// To the nearest, ties to even; no number stays none.
RLAIF_INLINE void narrow_here(const float* from, c10::BFloat16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to[i].x = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
}

inline void widen(const c10::BFloat16* from, float* to, int64_t n) {
  AtWidth<widen_here>::run(from, to, n);
}

inline void narrow(const float* from, c10::BFloat16* to, int64_t n) {
  AtWidth<narrow_here>::run(from, to, n);
}

}  // namespace rlaif

#include "isa.hpp"

#include "common.hpp"

#include <cstdlib>
#include <string>

namespace {

using rlaif::Isa;

// As RLAIF_ISA spells them, by number.
constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16"};

Isa best() {
#if RLAIF_X86
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
  if (avx512) return Isa::kAvx512;
  // What x86-64-v3 adds to AVX2 and FMA came with the same processors.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kPortable;
}

Isa choose() {
  const char* asked = std::getenv("RLAIF_ISA");
  const Isa most = best();
  if (!asked || !*asked) return most;
  std::string known;
  for (int32_t i = 0; i <= static_cast<int32_t>(most); ++i) {
    if (std::string(kNames[i]) == asked) return static_cast<Isa>(i);
    known += std::string(i ? ", " : "") + kNames[i];
  }
  TORCH_CHECK_VALUE(false, "RLAIF_ISA is `", asked, "`; this processor has ", known);
}

}  // namespace

namespace rlaif {

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace rlaif

int32_t rlaif_isa(int32_t* chosen, int32_t* most) noexcept {
  *most = static_cast<int32_t>(best());
  return rlaif::guarded([&] { *chosen = static_cast<int32_t>(rlaif::isa()); });
}

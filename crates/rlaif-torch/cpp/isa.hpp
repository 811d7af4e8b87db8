// The instruction set that kernels use: the best one of the processor, or a lower one that the
// environment variable RLAIF_ISA names, for tests and comparisons. Chosen once, at the first use.
#pragma once

#include "rlaif.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RLAIF_X86 1
#else
#define RLAIF_X86 0
#endif

namespace rlaif {

// From the narrowest to the widest. `kPortable` is what every
// processor of the target has: SSE2 on x86-64, NEON on 64-bit Arm.
using Isa = RlaifIsa;

// Throws c10::Error if RLAIF_ISA names no instruction set of this processor.
Isa isa();

}  // namespace rlaif

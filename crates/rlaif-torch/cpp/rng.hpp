// State of libtorch's default generators.
#pragma once

#include "common.hpp"

namespace rlaif {

// `cuda` names a CUDA device; kCpu the CPU.
constexpr int32_t kCpu = -1;

at::Tensor rng_state(int32_t cuda);
void set_rng_state(int32_t cuda, const at::Tensor& state);

}  // namespace rlaif

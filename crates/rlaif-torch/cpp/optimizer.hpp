// What an optimizer does to every element on the CPU: each element is read once, in one parallel
// region over all tensors, however small they are.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace rlaif {

// Elements side by side in memory; f32, bf16 or f16.
struct Elements {
  void* data;
  int64_t count;
  c10::ScalarType kind;
};

// One parameter's AdamW step. A parameter below f32 has either a `remainder` or a `master`.
struct AdamWStep {
  void* param;
  const void* grad;  // of the parameter's kind
  c10::ScalarType kind;
  // bf16 alone: the lower half of an f32 weight whose upper half, rounded, is the parameter.
  int16_t* remainder;
  float* master;
  float *exp_avg, *exp_avg_sq;
  int64_t count;
  // 1 - η λ;  η / (1 - β₁ᵗ);  √(1 - β₂ᵗ).
  float decay, step_size, correction;
};

// Gradients count `gradient` times.
void adamw_step(const std::vector<AdamWStep>& steps, double beta1, double beta2, double epsilon,
                double gradient);

// Blocks are added in f64: neither overflows nor loses what many small numbers add up to.
double sum_of_squares(const std::vector<Elements>& all);

void scale(const std::vector<Elements>& all, double factor);

bool is_cpu_kind(c10::ScalarType kind);

}  // namespace rlaif

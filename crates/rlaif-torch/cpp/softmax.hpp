// What token log-probabilities need of a softmax over the vocabulary, one pass over the logits each.
#pragma once

#include <ATen/core/Tensor.h>

namespace rlaif {

// Of rows of logits f [N, V] with targets y [N], at temperature t, all f32 [N] and written in place:
//   normaliser = log sum_v exp(f_v / t),  log_prob = f_y / t - normaliser,
//   entropy = -sum_v p_v log p_v  with p_v = exp(f_v / t - normaliser).
void softmax_statistics(const at::Tensor& logits, const at::Tensor& targets, double temperature,
                        at::Tensor log_probs, at::Tensor entropies, at::Tensor normalisers);

// Writes the gradient of sum(g_log log_prob + g_entropy entropy) for the logits to `out`, which may
// be the logits. Either g may be undefined. With p the softmax and H the entropy,
//   d log p_y / d f_v = ([v = y] - p_v) / t,   d H / d f_v = -p_v (log p_v + H) / t.
void softmax_gradient(const at::Tensor& logits, at::Tensor out, const at::Tensor& targets,
                      double temperature, const at::Tensor& normalisers,
                      const at::Tensor& entropies, const at::Tensor& g_log,
                      const at::Tensor& g_entropy);

}  // namespace rlaif

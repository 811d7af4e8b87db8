// Products of rows with a weight matrix, y = x Wᵀ, whose every element is summed in one order,
// regardless of the other rows: a row's result does not depend on the batch it is in. There are two ways,
// each with an order of its own:
//
// Few rows. W is read as a checkpoint has it, [N, K] row by row, so nothing is packed or copied. A
// tile of up to 8 rows of x and 3 of W is held in vector registers; a lane sums every 16th (f32) or
// every 32nd and its neighbour (bf16) product, and the lanes are added in a fixed tree.
//
// Many rows. W is packed into panels of 32 of its rows, which a lane each sums from the first product
// to the last: no lanes are added in the end, which pays for the packing from some dozen rows on.
#pragma once

#include <cstdint>
#include <cstring>

namespace rlaif::rows {

using bf16 = uint16_t;

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

constexpr int kTileRows = 8;
constexpr int kTileWeights = 3;

// sums[i * 3 + j] = x_i · w_j for the first `m` of 8 rows and `n` of 3 weights, K apart each. Weights
// at `ahead`, as many, are fetched on the way; null for none.
using F32Tile = void (*)(const float* x, int64_t m, const float* w, int64_t n, int64_t k,
                         const float* ahead, float* sums);
using Bf16Tile = void (*)(const bf16* x, int64_t m, const bf16* w, int64_t n, int64_t k,
                          const bf16* ahead, float* sums);

F32Tile f32_tile();
Bf16Tile bf16_tile();

constexpr int64_t kPanelWeights = 32;
constexpr int64_t kPanelRows = 14;

// Whether this processor multiplies panels of weights of K elements.
bool has_panels(float, int64_t k);
bool has_panels(bf16, int64_t k);

// A panel of 32 weights of K elements: word p of weight i, which is an f32 or two neighbours in bf16, at
// 32 p + i.

// y[i, j] = x_i · w_j for `m` of 14 rows, K apart, and the `n` of 32 weights of a panel.
void multiply_panel(const float* x, int64_t m, const float* panel, int64_t n, int64_t k, float* y,
                    int64_t stride);
void multiply_panel(const bf16* x, int64_t m, const bf16* panel, int64_t n, int64_t k, float* y,
                    int64_t stride);

}  // namespace rlaif::rows

// The innermost kernels of products of matrices, one set for each instruction set: tiles.cpp is
// compiled once for each.
//
// Nothing of this header and of tiles.cpp may be a function that another file compiles too: the
// linker keeps one of them, and it could be one that this processor cannot run. So neither includes
// headers with inline functions.
#pragma once

#include <stdint.h>

namespace rlaif {

// The bits of a bf16.
using Half = uint16_t;

// Rows and columns of the largest tile, and of the largest one of few rows.
constexpr int64_t kMostRows = 14;
constexpr int64_t kMostColumns = 32;
constexpr int64_t kMostFewRows = 8;
constexpr int64_t kFewWeights = 3;

// A tile of a product: `width` of its columns are there. It starts from what is there (`add`), a
// bias per column, or nothing.
template <typename Out>
struct Tile {
  Out* data;
  int64_t stride, width;
  bool add;
  const Out* bias;
};

// The product of R rows and a panel of columns over `steps`. Rows are a panel, or lie `stride` apart.
template <typename Out>
using Multiply = void (*)(int64_t steps, const float* rows, int64_t stride, const float* panel,
                          const Tile<Out>& tile);

// Copies a strip of `count` lines into a panel of `width`: `panel[p * width + i]` is step p of line i,
// and 0 beyond `count`. Elements lie `across` apart from line to line, `along` within one, and one of
// the two is 1. bf16 becomes f32, or words of two neighbours where there are `pairs`.
template <typename T>
using Pack = void (*)(float* panel, int64_t width, const T* lines, int64_t across, int64_t along,
                      int64_t count, int64_t depth);

// sums[i * kFewWeights + j] = x_i · w_j for the first `m` rows of x and `n` of up to 3 weights, K
// elements each, one after another. Weights at `ahead`, as many, are fetched on the way; null for none.
template <typename X, typename W>
using FewRows = void (*)(const X* x, int64_t m, const W* w, int64_t n, int64_t k, const W* ahead,
                         float* sums);

// Writes table[upper half] and table[lower half] of each byte, for `count` bytes.
template <typename Out>
using Unpack = void (*)(const uint8_t* bytes, const float* table, Out* out, int64_t count);

// Kernels by [whether rows are a panel][the number of rows].
template <typename Out>
struct ByRows {
  Multiply<Out> of[2][kMostRows + 1];
};

struct Tiles {
  // Most rows and all columns of a tile; most rows of a tile of few.
  int64_t rows, columns, few_rows;
  // Whether two neighbours in bf16 are multiplied at once. Otherwise bf16 is widened where it is
  // packed, and products are those of f32.
  bool pairs;
  ByRows<float> f32;
  ByRows<float> half;
  ByRows<Half> half_to_half;
  Pack<float> pack;
  Pack<Half> pack_half;
  Unpack<float> unpack;
  // Numbers that are bf16 already.
  Unpack<Half> unpack_half;
  FewRows<float, float> few;
  // Rows of bf16 where there are pairs, and rows that were widened where there are none.
  FewRows<Half, Half> few_pairs;
  FewRows<float, Half> few_widened;
};

// Those of the instruction set in use.
const Tiles& tiles();

}  // namespace rlaif

// Products of f32 and bf16 matrices, at the width of the processor's vectors (tiles.cpp).
//
// libtorch multiplies f32 matrices by MKL, which copies both operands into its own layout for each
// product. It multiplies bf16 by oneDNN, whose kernels are as fast as these where the processor
// multiplies bf16, but which takes 50 us to look each of them up, and six times slower than f32
// elsewhere; where there are tile registers (AMX), which these do not use, it is left to oneDNN.
//
// The scheme is that of Goto and van de Geijn (2008, "Anatomy of high-performance matrix
// multiplication"): both operands are copied into panels that are read in order, regardless of their
// strides, so that a transposed operand costs nothing more; the innermost kernel keeps a tile of the
// result in registers. Each element of the result is summed by one thread in an order that depends
// on the sizes alone: the same bits for any number of threads. Sums of bf16 are f32, and rounded
// once.
#include "matmul.hpp"
#include "isa.hpp"
#include "parallel.hpp"
#include "tiles.hpp"
#include "work.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>

#if RLAIF_X86
#include <cpuid.h>
#endif

namespace {

using c10::BFloat16;
using rlaif::Half;
using rlaif::Tile;
using rlaif::Tiles;
using rlaif::tiles;

// Most steps of a panel, so that one of the right operand stays in the first cache.
constexpr int64_t kDepth = 256;
// Most of the inner dimension that is copied at a time.
constexpr int64_t kInner = 2048;
// Most elements that are copied of the left and of the right operand at a time.
constexpr int64_t kLeft = int64_t{4} << 20;
constexpr int64_t kRight = int64_t{1} << 20;
// Fewer rows than this read the right operand once, and copying it would be most of the work.
constexpr int64_t kFew = 8;
// A task of multiplication: rows whose panels stay in the second cache, and columns.
constexpr int64_t kTaskRows = 224;
constexpr int64_t kTaskColumns = 256;

// Panels of columns for each thread from which on threads copy their own, and most words of these.
constexpr int64_t kShare = 4;
constexpr int64_t kOwn = int64_t{1} << 17;

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// The size of equal parts, none above `most`.
int64_t even(int64_t whole, int64_t most) { return parts(whole, parts(whole, most)); }

// A matrix where it lies; one of the strides is 1. bf16 is its bits here.
template <typename T>
using View = rlaif::Block<T>;

// Kernels by what operands and results are.
inline const rlaif::ByRows<float>& kernels(const Tiles& t, float, float) { return t.f32; }
inline const rlaif::ByRows<float>& kernels(const Tiles& t, Half, float) { return t.half; }
inline const rlaif::ByRows<Half>& kernels(const Tiles& t, Half, Half) { return t.half_to_half; }
inline rlaif::Pack<float> packer(const Tiles& t, float) { return t.pack; }
inline rlaif::Pack<Half> packer(const Tiles& t, Half) { return t.pack_half; }

// Memory for panels, kept by the thread that multiplies.
class Panels {
 public:
  float* of(int64_t elements) {
    if (elements > size_) {
      size_ = 0;
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(elements * sizeof(float), kAlignment)));
      size_ = elements;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

// Whether sums are kept in registers to their end, so that a panel is as deep as it takes: where they
// would be rounded in between, and where steps of a panel are not elements.
template <typename T, typename Out>
bool sums_stay(const Tiles& t) {
  return std::is_same_v<Out, Half> || (std::is_same_v<T, Half> && t.pairs);
}

// Steps of so many elements along the inner dimension: two elements of bf16 that follow each other are
// one where there are pairs.
template <typename T>
int64_t steps(const Tiles& t, int64_t inner) {
  return std::is_same_v<T, Half> && t.pairs ? (inner + 1) / 2 : inner;
}

// Both operands' panels of one product of blocks: elements are T, and Out in the result.
template <typename T, typename Out>
struct Blocks {
  const Tiles& t;
  int64_t m, n, inner;        // sizes
  int64_t rows;               // of a panel of the left operand
  int64_t depth;              // of a panel, in elements
  int64_t left, right;        // panels
  float *a, *b;
  // The left operand where it lies, step by step, if its lines lie along the inner dimension: no panels
  // then. Its stride is in steps, too.
  const float* lines;
  int64_t stride;

  Blocks(const Tiles& t, int64_t m, int64_t n, int64_t inner, int64_t rows)
      : t(t), m(m), n(n), inner(inner), rows(rows),
        depth(sums_stay<T, Out>(t) ? inner : even(inner, kDepth)), left(parts(m, rows)),
        right(parts(n, t.columns)), a(nullptr), b(nullptr), lines(nullptr), stride(0) {}

  int64_t depth_at(int64_t p) const { return std::min(depth, inner - p); }
  int64_t steps_at(int64_t p) const { return steps<T>(t, depth_at(p)); }
  // Panels lie step by step. (Where elements are not steps, there is but p = 0.)
  float* a_at(int64_t p, int64_t panel) const { return a + (p * left + panel * steps_at(p)) * rows; }
  float* b_at(int64_t p, int64_t panel) const {
    return b + (p * right + panel * steps_at(p)) * t.columns;
  }

  void pack_left(const View<T>& from, int64_t panel) const {
    const int64_t i = panel * rows;
    for (int64_t p = 0; p < inner; p += depth) {
      packer(t, T{})(a_at(p, panel), rows, from.data + i * from.row + p * from.column, from.row,
                     from.column, std::min(rows, m - i), depth_at(p));
    }
  }

  void pack_right(const View<T>& from, int64_t panel) const {
    const int64_t j = panel * t.columns;
    for (int64_t p = 0; p < inner; p += depth) {
      packer(t, T{})(b_at(p, panel), t.columns, from.data + p * from.row + j * from.column,
                     from.column, from.row, std::min(t.columns, n - j), depth_at(p));
    }
  }

  // Panels [i0, i1) by [j0, j1). `bias` or what is in `out` is what sums start from.
  void product(Out* out, int64_t out_stride, const Out* bias, bool add, int64_t i0, int64_t i1,
               int64_t j0, int64_t j1) const {
    const auto& kernel = kernels(t, T{}, Out{});
    for (int64_t p = 0; p < inner; p += depth) {
      for (int64_t j = j0; j < j1; ++j) {
        for (int64_t i = i0; i < i1; ++i) {
          const int64_t height = std::min(rows, m - i * rows);
          const Tile<Out> tile{out + i * rows * out_stride + j * t.columns,
                               out_stride,
                               std::min(t.columns, n - j * t.columns),
                               add || p > 0,
                               bias && p == 0 ? bias + j * t.columns : nullptr};
          // A panel's rows lie `rows` apart, so the last, lower one takes a tile of its own.
          if (lines) {
            const float* from = lines + i * rows * stride + steps<T>(t, p);
            kernel.of[0][height](steps_at(p), from, stride, b_at(p, j), tile);
          } else if (height == rows) {
            kernel.of[1][rows](steps_at(p), a_at(p, i), 0, b_at(p, j), tile);
          } else {
            lower(tile, height, p, i, j);
          }
        }
      }
    }
  }

 private:
  void lower(const Tile<Out>& tile, int64_t height, int64_t p, int64_t i, int64_t j) const {
    Out whole[rlaif::kMostRows * rlaif::kMostColumns];
    for (int64_t r = 0; r < height && tile.add; ++r) {
      std::copy_n(tile.data + r * tile.stride, tile.width, whole + r * t.columns);
    }
    const Tile<Out> aside{whole, t.columns, tile.width, tile.add, tile.bias};
    kernels(t, T{}, Out{}).of[1][rows](steps_at(p), a_at(p, i), 0, b_at(p, j), aside);
    for (int64_t r = 0; r < height; ++r) {
      std::copy_n(whole + r * t.columns, tile.width, tile.data + r * tile.stride);
    }
  }
};

// The product where there are columns enough for all threads: one that takes some of them copies their
// panels itself, and finds them in its second cache.
template <typename T, typename Out>
void by_columns(const Blocks<T, Out>& whole, const View<T>& from, Out* out, int64_t stride,
                const Out* bias, bool add) {
  const int64_t columns = whole.t.columns;
  const int64_t panel = columns * steps<T>(whole.t, whole.inner);
  const int64_t most = std::clamp<int64_t>(kOwn / panel, 1, kTaskColumns / columns);
  const int64_t threads = at::get_num_threads();
  const int64_t tasks = std::min(whole.right, parts(parts(whole.right, most), threads) * threads);
  const int64_t high = std::max<int64_t>(1, kTaskRows / whole.rows);
  rlaif::parallel_tasks(tasks, [&](int64_t task) {
    static thread_local Panels own;
    const int64_t j0 = whole.right * task / tasks, j1 = whole.right * (task + 1) / tasks;
    const int64_t column = j0 * columns;
    Blocks<T, Out> part = whole;
    part.right = j1 - j0;
    part.n = std::min(whole.n - column, part.right * columns);
    part.b = own.of(part.right * panel);
    const View<T> these{from.data + column * from.column, from.row, from.column};
    for (int64_t j = 0; j < part.right; ++j) part.pack_right(these, j);
    for (int64_t i = 0; i < part.left; i += high) {
      part.product(out + column, stride, bias ? bias + column : nullptr, add, i,
                   std::min(i + high, part.left), 0, part.right);
    }
  });
}

// out = a b + bias, or out += a b + bias.
template <typename T, typename Out>
void product(int64_t m, int64_t n, int64_t k, const View<T>& a, const View<T>& b, Out* out,
             int64_t stride, const Out* bias, bool add) {
  static thread_local Panels left, right;
  rlaif::count_product(m, n, k, sizeof(T));
  const Tiles& t = tiles();
  const int64_t rows = even(m, t.rows);
  const int64_t inner = sums_stay<T, Out>(t) ? k : even(k, kInner);
  const int64_t deep = steps<T>(t, inner);
  const int64_t m_most = std::max(rows * 16, kLeft / deep / rows * rows);
  const int64_t n_most = std::max(t.columns * 8, kRight / deep / t.columns * t.columns);
  // Rows of bf16 can be read where they lie as pairs alone; and with both strides 1 (one column, or
  // lines that overlap) words are put together.
  const bool in_place =
      a.column == 1 && (std::is_same_v<T, float> || (t.pairs && a.row != 1));
  for (int64_t p = 0; p < k; p += inner) {
    for (int64_t i = 0; i < m; i += m_most) {
      for (int64_t j = 0; j < n; j += n_most) {
        Blocks<T, Out> blocks(t, std::min(m_most, m - i), std::min(n_most, n - j),
                              std::min(inner, k - p), rows);
        const View<T> from_a{a.data + i * a.row + p * a.column, a.row, a.column};
        const View<T> from_b{b.data + p * b.row + j * b.column, b.row, b.column};
        Out* to = out + i * stride + j;
        const Out* start = bias && p == 0 ? bias + j : nullptr;
        if (in_place) {
          blocks.lines = reinterpret_cast<const float*>(from_a.data);
          blocks.stride = steps<T>(t, a.row);
        } else {
          blocks.a = left.of(blocks.left * rows * deep);
        }
        const bool own = blocks.right >= kShare * at::get_num_threads();
        if (!own) blocks.b = right.of(blocks.right * t.columns * deep);
        // The left panels serve every block of columns.
        const int64_t fresh = j == 0 && !blocks.lines ? blocks.left : 0;
        const int64_t shared = own ? 0 : blocks.right;
        constexpr int64_t together = 4;
        rlaif::parallel_tasks(parts(fresh + shared, together), [&](int64_t task) {
          const int64_t end = std::min((task + 1) * together, fresh + shared);
          for (int64_t panel = task * together; panel < end; ++panel) {
            if (panel < fresh) {
              blocks.pack_left(from_a, panel);
            } else {
              blocks.pack_right(from_b, panel - fresh);
            }
          }
        });
        if (own) {
          by_columns(blocks, from_b, to, stride, start, add || p > 0);
          continue;
        }
        // At least one block of rows for each thread, where there are rows enough.
        const int64_t threads = blocks.left >= 2 * at::get_num_threads() ? at::get_num_threads() : 1;
        const int64_t high = even(blocks.left, std::min(std::max<int64_t>(1, kTaskRows / rows),
                                                        parts(blocks.left, threads)));
        const int64_t wide = kTaskColumns / t.columns;
        const int64_t across = parts(blocks.right, wide);
        rlaif::parallel_tasks(parts(blocks.left, high) * across, [&](int64_t task) {
          const int64_t i0 = task / across * high;
          const int64_t j0 = task % across * wide;
          blocks.product(to, stride, start, add || p > 0, i0, std::min(i0 + high, blocks.left), j0,
                         std::min(j0 + wide, blocks.right));
        });
      }
    }
  }
}

bool has_matrix_unit() {
#if RLAIF_X86
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22));
  }();
  return has && tiles().pairs;
#else
  return false;
#endif
}

// Deeper products of bf16 would leave the caches.
constexpr int64_t kDeepest = 8192;

bool is_served(const at::Tensor& t, at::ScalarType kind) {
  return t.device().is_cpu() && t.scalar_type() == kind && t.layout() == at::kStrided &&
         (t.stride(0) == 1 || t.stride(1) == 1) && t.numel() > 0;
}

template <typename T>
View<T> view(const at::Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.stride(0), t.stride(1)};
}

bool try_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add,
                 const at::Tensor& bias) {
  const auto kind = out.scalar_type();
  if ((kind != at::kFloat && kind != at::kBFloat16) || !is_served(a, kind) || !is_served(b, kind) ||
      !is_served(out, kind) || out.stride(1) != 1 ||
      (bias.defined() && (bias.scalar_type() != kind || !bias.is_contiguous()))) {
    return false;
  }
  const int64_t m = a.size(0), n = b.size(1), k = a.size(1);
  const void* start = bias.defined() ? bias.const_data_ptr() : nullptr;
  const bool pairs = tiles().pairs;
  if (kind == at::kFloat) {
    if (m < kFew) return false;
    product(m, n, k, view<float>(a), view<float>(b), out.mutable_data_ptr<float>(), out.stride(0),
            static_cast<const float*>(start), add);
    return true;
  }
  if (pairs) {
    // Words of lines along the inner dimension lie one after another, from line to line.
    const auto even_lines = [&](bool lies_across, int64_t stride) {
      return lies_across || (k % 2 == 0 && stride % 2 == 0);
    };
    if (m < kFew || has_matrix_unit() || k > kDeepest || !even_lines(a.stride(0) == 1, a.stride(0)) ||
        !even_lines(b.stride(1) == 1, b.stride(1))) {
      return false;
    }
  } else if (k > kDeepest) {
    // Summed in f32, part by part, and rounded once.
    const auto sums = at::empty({m, n}, out.options().dtype(at::kFloat));
    product(m, n, k, view<Half>(a), view<Half>(b), sums.mutable_data_ptr<float>(), n,
            static_cast<const float*>(nullptr), false);
    if (bias.defined()) sums.add_(bias);
    at::Tensor to = out;
    to.copy_(add ? sums.add_(out) : sums);
    return true;
  }
  product(m, n, k, view<Half>(a), view<Half>(b), static_cast<Half*>(out.mutable_data_ptr()),
          out.stride(0), static_cast<const Half*>(start), add);
  return true;
}

// bf16 as its bits.
float* bits(float* x) { return x; }
const float* bits(const float* x) { return x; }
Half* bits(BFloat16* x) { return reinterpret_cast<Half*>(x); }
const Half* bits(const BFloat16* x) { return reinterpret_cast<const Half*>(x); }

}  // namespace

namespace rlaif {

const Tiles& tiles_portable();
#if RLAIF_X86
const Tiles& tiles_avx2();
const Tiles& tiles_avx512();
const Tiles& tiles_avx512bf16();
#endif

const Tiles& tiles() {
  static const Tiles& chosen = []() -> const Tiles& {
    switch (isa()) {
#if RLAIF_X86
      case Isa::kAvx512Bf16: return tiles_avx512bf16();
      case Isa::kAvx512: return tiles_avx512();
      case Isa::kAvx2: return tiles_avx2();
#endif
      default: return tiles_portable();
    }
  }();
  return chosen;
}

void matmul_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, Into into,
                 const at::Tensor& bias) {
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) &&
                  out.size(0) == a.size(0) && out.size(1) == b.size(1) &&
                  (!bias.defined() || bias.numel() == out.size(1)),
              "matrices of sizes ", a.sizes(), " and ", b.sizes(), " into ", out.sizes());
  const bool add = into == Into::kAdd;
  if (try_product(out, a, b, add, bias)) return;
  if (a.device().is_cpu()) count_product(a.size(0), b.size(1), a.size(1), a.element_size());
  at::Tensor to = out;
  if (add) {
    to.addmm_(a, b);
    if (bias.defined()) to.add_(bias);
  } else if (bias.defined()) {
    at::addmm_out(to, bias, a, b);
  } else {
    at::mm_out(to, a, b);
  }
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const auto out = at::empty({a.size(0), b.size(1)}, a.options());
  matmul_into(out, a, b, Into::kOverwrite, bias);
  return out;
}

template <typename T, typename Out>
void multiply_blocks(int64_t m, int64_t n, int64_t k, Block<T> a, Block<T> b, Out* out,
                     int64_t stride, Into into) {
  if (k == 0 && into == Into::kOverwrite) {
    for (int64_t i = 0; i < m; ++i) std::fill_n(out + i * stride, n, Out(0.0f));
  }
  if (k == 0) return;
  auto* to = bits(out);
  using In = std::remove_const_t<std::remove_pointer_t<decltype(bits(a.data))>>;
  using Sum = std::remove_pointer_t<decltype(to)>;
  product(m, n, k, View<In>{bits(a.data), a.row, a.column},
          View<In>{bits(b.data), b.row, b.column}, to,
          stride, static_cast<const Sum*>(nullptr), into == Into::kAdd);
}

template void multiply_blocks(int64_t, int64_t, int64_t, Block<float>, Block<float>, float*,
                              int64_t, Into);
template void multiply_blocks(int64_t, int64_t, int64_t, Block<c10::BFloat16>,
                              Block<c10::BFloat16>, float*, int64_t, Into);
template void multiply_blocks(int64_t, int64_t, int64_t, Block<c10::BFloat16>,
                              Block<c10::BFloat16>, c10::BFloat16*, int64_t, Into);

at::Tensor rows_of(const at::Tensor& x) {
  const int64_t width = x.size(-1);
  return x.contiguous().view({width == 0 ? 0 : x.numel() / width, width});
}

}  // namespace rlaif

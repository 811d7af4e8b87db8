// Matrices of weights in 4 or 8 bits, as bitsandbytes stores them, and products with them: numbers are
// dequantized a few rows at a time, right before they are multiplied.
#include "common.hpp"
#include "matmul.hpp"
#include "parallel.hpp"
#include "tiles.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <c10/util/Half.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kCodes = 16;
// Elements of the rows that are dequantized together: 8 MiB of f32.
constexpr int64_t kTile = int64_t{1} << 21;

// A matrix [rows, columns]. NF4: blocks of consecutive numbers have a scale each, which is f32 or, in
// turn, a code in blocks. int8: rows have a scale each.
struct Quantized {
  at::Tensor codes, scales, nested, nested_code, code;
  double offset;
  int64_t rows, columns, block, nested_block;
  at::ScalarType kind;  // what numbers are rounded to first

  explicit Quantized(const RlaifQuantized& q)
      : codes(*q.codes), scales(*q.scales), offset(q.offset), rows(q.rows), columns(q.columns),
        block(q.block), nested_block(q.nested_block), kind(rlaif::scalar_type(q.kind)) {
    if (q.nested) nested = *q.nested;
    if (q.nested_code) nested_code = *q.nested_code;
    if (q.code) code = *q.code;
  }

  Quantized(const variable_list& tensors, AutogradContext* ctx)
      : codes(tensors[0]), scales(tensors[1]), nested(tensors[2]), nested_code(tensors[3]),
        code(tensors[4]), offset(ctx->saved_data["offset"].toDouble()),
        rows(ctx->saved_data["rows"].toInt()), columns(ctx->saved_data["columns"].toInt()),
        block(ctx->saved_data["block"].toInt()),
        nested_block(ctx->saved_data["nested_block"].toInt()),
        kind(static_cast<at::ScalarType>(ctx->saved_data["kind"].toInt())) {}

  void save(AutogradContext* ctx) const {
    ctx->save_for_backward({codes, scales, nested, nested_code, code});
    ctx->saved_data["offset"] = offset;
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["columns"] = columns;
    ctx->saved_data["block"] = block;
    ctx->saved_data["nested_block"] = nested_block;
    ctx->saved_data["kind"] = static_cast<int64_t>(kind);
  }

  bool is_int8() const { return !code.defined(); }
};

// The kind is f32 or one of these two: a matrix has no other.
float rounded(float x, at::ScalarType kind) {
  switch (kind) {
    case at::kBFloat16: return static_cast<float>(static_cast<c10::BFloat16>(x));
    case at::kHalf: return static_cast<float>(static_cast<c10::Half>(x));
    default: return x;
  }
}

// The scale of a block.
class Scales {
 public:
  explicit Scales(const Quantized& q)
      : single_(q.nested.defined() ? nullptr : q.scales.const_data_ptr<float>()),
        codes_(q.nested.defined() ? q.scales.const_data_ptr<uint8_t>() : nullptr),
        nested_(q.nested.defined() ? q.nested.const_data_ptr<float>() : nullptr),
        nested_code_(q.nested.defined() ? q.nested_code.const_data_ptr<float>() : nullptr),
        nested_block_(q.nested_block), offset_(static_cast<float>(q.offset)) {}

  float of(int64_t block) const {
    if (single_) return single_[block];
    // Rounded before the sum, which a fused operation would not do.
    const volatile float product = nested_code_[codes_[block]] * nested_[block / nested_block_];
    return product + offset_;
  }

 private:
  const float* single_;
  const uint8_t* codes_;
  const float* nested_;
  const float* nested_code_;
  int64_t nested_block_;
  float offset_;
};

template <typename T>
void put(T* to, float x) {
  *to = static_cast<T>(x);
}

template <typename T>
void nf4_on_cpu(const Quantized& q, int64_t first, int64_t count, T* out) {
  const auto* codes = q.codes.const_data_ptr<uint8_t>();
  const auto* code = q.code.const_data_ptr<float>();
  const Scales scales(q);
  const int64_t from = first * q.columns, all = count * q.columns;
  const int64_t blocks = (from + all - 1) / q.block - from / q.block + 1;
  rlaif::parallel_for(blocks, 256, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t number = from / q.block + b;
      const int64_t start = std::max(number * q.block, from);
      const int64_t stop = std::min((number + 1) * q.block, from + all);
      const float scale = scales.of(number);
      float table[kCodes];
      for (int64_t i = 0; i < kCodes; ++i) table[i] = rounded(code[i] * scale, q.kind);
      T* to = out + (start - from);
      if (start % 2 == 0 && stop % 2 == 0) {
        if constexpr (std::is_same_v<T, float>) {
          rlaif::tiles().unpack(codes + start / 2, table, to, (stop - start) / 2);
        } else {
          for (auto& x : table) x = static_cast<float>(static_cast<T>(x));
          rlaif::tiles().unpack_half(codes + start / 2, table, reinterpret_cast<rlaif::Half*>(to),
                                     (stop - start) / 2);
        }
        continue;
      }
      for (int64_t i = start; i < stop; ++i) {
        const uint8_t both = codes[i / 2];
        put(to + (i - start), table[i % 2 ? both & 15 : both >> 4]);
      }
    }
  });
}

template <typename T>
void int8_on_cpu(const Quantized& q, int64_t first, int64_t count, T* out) {
  const auto* codes = q.codes.const_data_ptr<int8_t>();
  const auto* scales = q.scales.const_data_ptr<float>();
  constexpr float kStep = 1.f / 127.f;
  rlaif::parallel_for(count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto* row = codes + (first + r) * q.columns;
      const float scale = scales[first + r];
      for (int64_t c = 0; c < q.columns; ++c) {
        put(out + r * q.columns + c, rounded(static_cast<float>(row[c]) * scale * kStep, q.kind));
      }
    }
  });
}

// All rows by libtorch's operations, on any device.
at::Tensor by_operations(const Quantized& q) {
  if (q.is_int8()) {
    return q.codes.to(at::kFloat).mul(q.scales.unsqueeze(1)).mul(1. / 127.).to(q.kind);
  }
  const int64_t n = q.rows * q.columns;
  const auto bytes = q.codes.flatten();
  const auto indices =
      at::stack({bytes.bitwise_right_shift(4), bytes.bitwise_and(15)}, 1).flatten().to(at::kInt);
  auto scales = q.scales.flatten();
  if (q.nested.defined()) {
    const auto blocks = scales.size(0);
    scales = q.nested_code.index_select(0, scales.to(at::kInt))
                 .mul(q.nested.repeat_interleave(q.nested_block).narrow(0, 0, blocks))
                 .add(q.offset);
  }
  const auto numbers = q.code.index_select(0, indices).narrow(0, 0, n);
  const auto each = scales.repeat_interleave(q.block).narrow(0, 0, n);
  return numbers.mul(each).to(q.kind).view({q.rows, q.columns});
}

at::Tensor dense(const Quantized& q, int64_t first, int64_t count, at::ScalarType kind) {
  if (!q.codes.device().is_cpu() || (kind != at::kFloat && kind != at::kBFloat16)) {
    return by_operations(q).narrow(0, first, count).to(kind);
  }
  auto out = at::empty({count, q.columns}, q.scales.options().dtype(kind).requires_grad(false));
  if (count * q.columns == 0) return out;
  rlaif::by_kind(out, [&](auto zero) {
    auto* to = out.template mutable_data_ptr<decltype(zero)>();
    q.is_int8() ? int8_on_cpu(q, first, count, to) : nf4_on_cpu(q, first, count, to);
  });
  return out;
}

// Writes a b into `out`, or adds it.
void multiply(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, rlaif::Into into,
              const at::Tensor& bias = {}) {
  const auto kind = a.scalar_type();
  if (a.device().is_cpu() && (kind == at::kFloat || kind == at::kBFloat16)) {
    rlaif::matmul_into(out, a, b, into, bias);
    return;
  }
  auto product = at::mm(a, b);
  if (bias.defined()) product.add_(bias);
  if (into == rlaif::Into::kAdd) {
    out.add_(product);
  } else {
    out.copy_(product);
  }
}

// Calls `body(first, count, rows)` for tiles of the dequantized matrix.
template <typename F>
void for_tiles(const Quantized& q, at::ScalarType kind, F&& body) {
  int64_t most = std::max<int64_t>(kTile / std::max<int64_t>(q.columns, 1), 1);
  if (!q.codes.device().is_cpu()) most = q.rows;
  for (int64_t first = 0; first < q.rows; first += most) {
    const int64_t count = std::min(most, q.rows - first);
    body(first, count, dense(q, first, count, kind));
  }
}

// Weights are constants: the backward pass dequantizes them again, and needs nothing else.
struct QuantizedLinear : torch::autograd::Function<QuantizedLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const Quantized& q,
                            const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& residual) {
    const rlaif::BelowAutograd below;
    const auto rows = rlaif::rows_of(x.contiguous());
    auto size = x.sizes().vec();
    size.back() = q.rows;
    const auto out = residual ? residual->clone(at::MemoryFormat::Contiguous)
                              : at::empty(size, x.options().requires_grad(false));
    const auto flat = out.view({rows.size(0), q.rows});
    const auto into = residual ? rlaif::Into::kAdd : rlaif::Into::kOverwrite;
    for_tiles(q, x.scalar_type(), [&](int64_t first, int64_t count, const at::Tensor& tile) {
      multiply(flat.narrow(1, first, count), rows, tile.t(), into,
               bias ? bias->narrow(0, first, count) : at::Tensor());
    });
    q.save(ctx);
    ctx->saved_data["sizes"] = x.sizes().vec();
    ctx->saved_data["bias"] = bias && bias->requires_grad();
    ctx->saved_data["residual"] = residual && residual->requires_grad();
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const rlaif::BelowAutograd below;
    const Quantized q(ctx->get_saved_variables(), ctx);
    const auto rows = rlaif::rows_of(grads[0].contiguous());
    variable_list result(4);
    if (ctx->needs_input_grad(0)) {
      const auto dx = at::empty({rows.size(0), q.columns}, rows.options());
      auto into = rlaif::Into::kOverwrite;
      for_tiles(q, rows.scalar_type(), [&](int64_t first, int64_t count, const at::Tensor& tile) {
        multiply(dx, rows.narrow(1, first, count), tile, into);
        into = rlaif::Into::kAdd;
      });
      result[0] = dx.view(ctx->saved_data["sizes"].toIntVector());
    }
    if (ctx->saved_data["bias"].toBool()) result[2] = rows.sum(0);
    if (ctx->saved_data["residual"].toBool()) result[3] = grads[0];
    return result;
  }
};

}  // namespace

int32_t rlaif_dequantize(const RlaifQuantized* matrix, int64_t first, int64_t count, int32_t kind,
                         at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const rlaif::BelowAutograd below;
    out[0] = rlaif::give(dense(Quantized(*matrix), first, count, rlaif::scalar_type(kind)));
  });
}

int32_t rlaif_quantized_linear(const at::Tensor* x, const RlaifQuantized* matrix,
                               const at::Tensor* bias, const at::Tensor* residual,
                               at::Tensor** out) noexcept {
  return rlaif::guarded([&] {
    const auto or_none = [](const at::Tensor* t) {
      return t ? std::optional<at::Tensor>(*t) : std::nullopt;
    };
    out[0] = rlaif::give(
        QuantizedLinear::apply(*x, Quantized(*matrix), or_none(bias), or_none(residual)));
  });
}

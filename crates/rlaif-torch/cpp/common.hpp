// What every file of the C++ layer shares: how tensors and failures cross to Rust.
//
// No exception leaves a function of this layer. Each returns a status, and the message of the last
// failure in this thread is read with `rlaif_last_error`.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <new>

#include "rlaif.h"

namespace rlaif {

RlaifStatus fail(RlaifStatus status, const char* message) noexcept;

template <class F>
int32_t guarded(F&& body) noexcept {
  try {
    body();
    return kOk;
  } catch (const c10::OutOfMemoryError& e) {
    return fail(kOutOfMemory, e.what_without_backtrace());
  } catch (const c10::TypeError& e) {
    return fail(kWrongKind, e.what_without_backtrace());
  } catch (const c10::Error& e) {
    return fail(kFailed, e.what_without_backtrace());
  } catch (const std::bad_alloc& e) {
    return fail(kOutOfMemory, e.what());
  } catch (const std::exception& e) {
    return fail(kFailed, e.what());
  } catch (...) {
    return fail(kFailed, "an exception other than a std::exception");
  }
}

// Hands a tensor to Rust, which frees it.
inline at::Tensor* give(at::Tensor tensor) { return new at::Tensor(std::move(tensor)); }

// Tensors that share a device and an element type: what foreach and fused operators take.
struct Kin {
  c10::Device device;
  c10::ScalarType dtype;
  bool holds(const at::Tensor& t) const {
    return t.device() == device && t.scalar_type() == dtype;
  }
};

// Inside a custom autograd function, operations must not be recorded: they are dispatched below
// autograd.
using BelowAutograd = at::AutoDispatchBelowADInplaceOrView;

// Calls `run` with a zero of the tensor's kind, f32 or bf16, and refuses every other kind.
template <typename F>
void by_kind(const at::Tensor& t, F&& run) {
  switch (t.scalar_type()) {
    case at::kFloat:
      run(float{});
      return;
    case at::kBFloat16:
      run(c10::BFloat16{});
      return;
    default:
      TORCH_CHECK_TYPE(false, "a tensor of Float or BFloat16 is needed, this one is ",
                       t.scalar_type());
  }
}

// The dtype of a `RlaifFloat`; refuses other numbers.
inline at::ScalarType scalar_type(int32_t number) {
  switch (static_cast<RlaifFloat>(number)) {
    case kF32:
      return at::kFloat;
    case kBf16:
      return at::kBFloat16;
    case kF16:
      return at::kHalf;
  }
  TORCH_CHECK(false, "no dtype has the number ", number);
}

// Refuses tensors of another kind than `T`; null pointers are passed over.
template <typename T>
void check_kind(std::initializer_list<const at::Tensor*> tensors) {
  constexpr auto kind = c10::CppTypeToScalarType<T>::value;
  for (const at::Tensor* t : tensors) {
    TORCH_CHECK_TYPE(!t || t->scalar_type() == kind, "a tensor of ", kind,
                     " is needed, this one is ", t->scalar_type());
  }
}

inline void check_dense(const at::Tensor& t) {
  TORCH_CHECK(t.layout() == c10::kStrided, "a strided gradient is needed, this one is ", t.layout());
}

}  // namespace rlaif

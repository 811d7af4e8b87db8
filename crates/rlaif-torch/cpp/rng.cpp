#include "rng.hpp"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>

#include <mutex>

namespace rlaif {

namespace {
at::Generator generator(int32_t cuda) {
  const auto device = cuda == kCpu
      ? c10::Device(c10::kCPU)
      : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda));
  return at::globalContext().defaultGenerator(device);
}
}  // namespace

at::Tensor rng_state(int32_t cuda) {
  at::Generator gen = generator(cuda);
  const std::lock_guard<std::mutex> lock(gen.mutex());
  return gen.get_state();
}

void set_rng_state(int32_t cuda, const at::Tensor& state) {
  at::Generator gen = generator(cuda);
  const std::lock_guard<std::mutex> lock(gen.mutex());
  gen.set_state(state);
}

}  // namespace rlaif

int32_t rlaif_rng_state(int32_t cuda, at::Tensor** state) noexcept {
  return rlaif::guarded([&] { *state = rlaif::give(rlaif::rng_state(cuda)); });
}

int32_t rlaif_rng_set_state(int32_t cuda, const at::Tensor* state) noexcept {
  return rlaif::guarded([&] { rlaif::set_rng_state(cuda, *state); });
}

// Loading of libtorch's CUDA part, and switches of the global context.
#include "common.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#ifdef __linux__
#include <dlfcn.h>

#include <cstdio>
#include <string>
#endif

namespace {

RlaifCudaLoad load_cuda() {
#ifdef __linux__
  Dl_info info{};
  TORCH_CHECK(dladdr(reinterpret_cast<void*>(&at::get_num_threads), &info) && info.dli_fname,
              "cannot find the file that libtorch_cpu was loaded from");
  const std::string cpu = info.dli_fname;
  const auto slash = cpu.rfind('/');
  const std::string cuda =
      (slash == std::string::npos ? std::string() : cpu.substr(0, slash + 1)) + "libtorch_cuda.so";

  // Opening libtorch_cuda takes seconds, so only where there is a driver to use it with.
  if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) return kNoDriver;
  if (!dlopen(cuda.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
    const std::string why = dlerror();
    FILE* file = fopen(cuda.c_str(), "rb");
    if (!file) return kNotShipped;
    fclose(file);
    TORCH_CHECK(false, why);
  }
  // libtorch looks for its CUDA part once, when it is first asked about CUDA.
  TORCH_CHECK(at::globalContext().hasCUDART(),
              "libtorch was asked about CUDA before its CUDA libraries were loaded, and remembers "
              "that there was none; call rlaif_torch::init() before anything else");
  return kLoaded;
#else
  return at::globalContext().hasCUDART() ? kLoaded : kNotShipped;
#endif
}

}  // namespace

int32_t rlaif_cuda_load(int32_t* outcome) noexcept {
  return rlaif::guarded([&] { *outcome = load_cuda(); });
}

int32_t rlaif_set_tf32(int32_t on) noexcept {
  return rlaif::guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}

int32_t rlaif_tf32(int32_t* on) noexcept {
  return rlaif::guarded([&] {
    *on = at::globalContext().allowTF32CuBLAS() && at::globalContext().allowTF32CuDNN();
  });
}

int32_t rlaif_set_determinism(int32_t level) noexcept {
  return rlaif::guarded([&] {
    TORCH_CHECK(level == kAny || level == kWarn || level == kRequire,
                "no level of determinism has the number ", level);
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(level != kAny, level == kWarn);
    // Otherwise every new tensor is filled, to make reads of unset memory repeatable too.
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(level != kAny);
    if (level != kAny) context.setBenchmarkCuDNN(false);
  });
}

int32_t rlaif_determinism() noexcept {
  auto& context = at::globalContext();
  if (!context.deterministicAlgorithms()) return kAny;
  return context.deterministicAlgorithmsWarnOnly() ? kWarn : kRequire;
}

// The allocators' set-up, and memory statistics.
#include "allocator.hpp"
#include "common.hpp"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifndef _WIN32
#include <sys/resource.h>
#endif

int32_t rlaif_keep_large_blocks(int32_t* supported) noexcept {
  return rlaif::guarded([&] {
#ifdef __GLIBC__
    // -1 becomes the largest size_t: nothing is mapped on its own, nothing is given back.
    constexpr int never = -1;
    constexpr int top_pad = 64 << 20;
    TORCH_CHECK(mallopt(M_MMAP_THRESHOLD, never) == 1 && mallopt(M_TRIM_THRESHOLD, never) == 1 &&
                    mallopt(M_TOP_PAD, top_pad) == 1,
                "mallopt refused");
#endif
    *supported = rlaif::use_pool();
  });
}

uint64_t rlaif_peak_rss() noexcept {
#ifdef _WIN32
  return 0;
#else
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
#endif
}

int32_t rlaif_cuda_memory(int32_t device, RlaifCudaMemory* out) noexcept {
  return rlaif::guarded([&] {
    // The interface that every device's allocator shares: CUDA's own headers need not be there.
    auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
    *out = {};
    if (!allocator->initialized()) return;
    const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto& allocated = stats.allocated_bytes[all];
    const auto& reserved = stats.reserved_bytes[all];
    *out = {allocated.current, allocated.peak, reserved.current, reserved.peak};
  });
}

int32_t rlaif_cuda_memory_free(int32_t device, uint64_t* out) noexcept {
  return rlaif::guarded([&] {
    // Asks the driver, which must be up for that.
    at::globalContext().lazyInitDevice(c10::kCUDA);
    auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
    const auto index = static_cast<c10::DeviceIndex>(device);
    *out = allocator->getMemoryInfo(index).first;
    if (!allocator->initialized()) return;
    const auto stats = allocator->getDeviceStats(index);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *out += static_cast<uint64_t>(stats.reserved_bytes[all].current -
                                  stats.allocated_bytes[all].current);
  });
}

int32_t rlaif_cuda_reset_peak(int32_t device) noexcept {
  return rlaif::guarded([&] {
    auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
    if (allocator->initialized())
      allocator->resetPeakStats(static_cast<c10::DeviceIndex>(device));
  });
}

int32_t rlaif_bump_version(const at::Tensor* tensor) noexcept {
  return rlaif::guarded([&] {
    if (!tensor->is_inference()) tensor->unsafeGetTensorImpl()->bump_version();
  });
}

const void* rlaif_storage(const at::Tensor* tensor) noexcept {
  return tensor->storage().unsafeGetStorageImpl();
}

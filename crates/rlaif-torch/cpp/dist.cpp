// Several processes: c10d's TCPStore, where they meet, and its process group over Gloo.
//
// gloo_names/README.md says why Gloo's own headers are not needed.
#if __has_include(<torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>)
#define RLAIF_C10D 1
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#endif

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "common.hpp"

#ifdef RLAIF_C10D

namespace {

using std::chrono::milliseconds;

struct Store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct Group {
  c10::intrusive_ptr<c10d::Backend> backend;
};

struct Work {
  c10::intrusive_ptr<c10d::Work> work;
};

c10d::Store& store_of(void* store) { return *static_cast<Store*>(store)->store; }

std::vector<uint8_t> bytes_of(const uint8_t* bytes, size_t len) { return {bytes, bytes + len}; }

// Bytes for Rust, as a tensor on the CPU.
at::Tensor* give_bytes(const std::vector<uint8_t>& bytes) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return rlaif::give(std::move(tensor));
}

}  // namespace

int32_t rlaif_dist_built() noexcept { return 1; }

int32_t rlaif_store_open(const char* host, uint16_t port, int32_t serve, int64_t timeout_ms,
                         const char* prefix, void** store) noexcept {
  return rlaif::guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    c10::intrusive_ptr<c10d::Store> opened = c10::make_intrusive<c10d::TCPStore>(host, options);
    if (*prefix != '\0') opened = c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(opened));
    *store = new Store{std::move(opened)};
  });
}

void rlaif_store_free(void* store) noexcept {
  // A destructor that throws must not unwind into Rust.
  rlaif::guarded([&] { delete static_cast<Store*>(store); });
}

int32_t rlaif_store_set(void* store, const char* key, const uint8_t* value, size_t len) noexcept {
  return rlaif::guarded([&] { store_of(store).set(key, bytes_of(value, len)); });
}

int32_t rlaif_store_get(void* store, const char* key, at::Tensor** value) noexcept {
  return rlaif::guarded([&] {
    c10d::Store& of = store_of(store);
    *value = of.check({key}) ? give_bytes(of.get(key)) : nullptr;
  });
}

int32_t rlaif_store_add(void* store, const char* key, int64_t by, int64_t* sum) noexcept {
  return rlaif::guarded([&] { *sum = store_of(store).add(key, by); });
}

int32_t rlaif_group_open(void* store, int32_t rank, int32_t size, int64_t timeout_ms,
                         const char* interface, const char* host, void** group) noexcept {
  return rlaif::guarded([&] {
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(milliseconds(timeout_ms));
    if (*interface != '\0') {
      options->devices.push_back(Gloo::createDeviceForInterface(interface));
    } else if (*host != '\0') {
      options->devices.push_back(Gloo::createDeviceForHostname(host));
    } else {
      options->devices.push_back(Gloo::createDefaultDevice());
    }
    options->threads = 2;
    *group = new Group{
        c10::make_intrusive<Gloo>(static_cast<Store*>(store)->store, rank, size, options)};
  });
}

void rlaif_group_free(void* group) noexcept {
  rlaif::guarded([&] { delete static_cast<Group*>(group); });
}

int32_t rlaif_group_sum(void* group, const at::Tensor* tensor, void** work) noexcept {
  return rlaif::guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    *work = new Work{static_cast<Group*>(group)->backend->allreduce(tensors)};
  });
}

int32_t rlaif_group_gather(void* group, const at::Tensor* tensor, const at::Tensor* const* outputs,
                           size_t len, void** work) noexcept {
  return rlaif::guarded([&] {
    std::vector<at::Tensor> inputs{*tensor};
    std::vector<std::vector<at::Tensor>> all(1);
    for (size_t i = 0; i < len; ++i) all[0].push_back(*outputs[i]);
    *work = new Work{static_cast<Group*>(group)->backend->allgather(all, inputs)};
  });
}

int32_t rlaif_work_wait(void* work, int64_t timeout_ms, int32_t* done) noexcept {
  return rlaif::guarded([&] {
    c10d::Work& of = *static_cast<Work*>(work)->work;
    *done = 0;
    try {
      of.wait(milliseconds(timeout_ms));
    } catch (...) {
      // The time for this call was up, or the work failed.
      if (!of.isCompleted()) return;
    }
    // Complete, perhaps just after the time was up: this returns at once, or throws the work's own error.
    of.wait();
    *done = 1;
  });
}

void rlaif_work_free(void* work) noexcept {
  rlaif::guarded([&] { delete static_cast<Work*>(work); });
}

#else

namespace {

int32_t absent() {
  return rlaif::fail(kFailed, "this libtorch was built without c10d and Gloo");
}

}  // namespace

int32_t rlaif_dist_built() noexcept { return 0; }
int32_t rlaif_store_open(const char*, uint16_t, int32_t, int64_t, const char*, void**) noexcept {
  return absent();
}
void rlaif_store_free(void*) noexcept {}
int32_t rlaif_store_set(void*, const char*, const uint8_t*, size_t) noexcept { return absent(); }
int32_t rlaif_store_get(void*, const char*, at::Tensor**) noexcept { return absent(); }
int32_t rlaif_store_add(void*, const char*, int64_t, int64_t*) noexcept { return absent(); }
int32_t rlaif_group_open(void*, int32_t, int32_t, int64_t, const char*, const char*,
                         void**) noexcept {
  return absent();
}
void rlaif_group_free(void*) noexcept {}
int32_t rlaif_group_sum(void*, const at::Tensor*, void**) noexcept { return absent(); }
int32_t rlaif_group_gather(void*, const at::Tensor*, const at::Tensor* const*, size_t,
                           void**) noexcept {
  return absent();
}
int32_t rlaif_work_wait(void*, int64_t, int32_t*) noexcept { return absent(); }
void rlaif_work_free(void*) noexcept {}

#endif

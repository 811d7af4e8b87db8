// A pool for tensors on the CPU.
//
// Training asks for the same sizes step after step. The C library's allocator gives large blocks
// back to the system, whose page faults then cost a third of a step, or, told to keep them, searches
// lists and merges small blocks whenever a large one is freed. The pool keeps blocks ordered by
// size, in segments for which the system is asked for huge pages: less to search, and fewer misses
// of the processor's table of pages.
#include "allocator.hpp"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define RLAIF_POOL
#endif

namespace {

#ifdef RLAIF_POOL

// Below this the C library is as good.
constexpr size_t kSmall = 4096;
// Of what is left of a block, the least that is worth a block.
constexpr size_t kRest = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSegment = size_t{64} << 20;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// What stands before a block's bytes, and keeps them aligned as libtorch wants.
struct alignas(64) Block {
  size_t size;      // with this header
  Block* before;    // in memory, null for the first of a segment
  bool is_free;
  bool is_last;     // of its segment

  void* bytes() { return this + 1; }
  static Block* of(void* bytes) { return static_cast<Block*>(bytes) - 1; }
  Block* at(size_t offset) {
    return reinterpret_cast<Block*>(reinterpret_cast<char*>(this) + offset);
  }
  Block* after() { return is_last ? nullptr : at(size); }
};
static_assert(sizeof(Block) == 64);

class Pool final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* found = nullptr;
    // Of sizes so large that rounding would overflow, the C library's side says what is wrong.
    if (bytes >= kSmall && bytes < SIZE_MAX / 2) {
      const std::lock_guard<std::mutex> lock(mutex_);
      found = take(rounded(bytes + sizeof(Block), alignof(Block)));
    }
    if (!found) found = c10::alloc_cpu(bytes);
    return {found, found, &give_back, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static Pool& instance() {
    // Never destroyed: tensors may outlive it at the end of the program.
    static auto* pool = new Pool;
    return *pool;
  }

 private:
  static void give_back(void* bytes) {
    Pool& pool = instance();
    {
      const std::lock_guard<std::mutex> lock(pool.mutex_);
      if (pool.holds(bytes)) return pool.put(Block::of(bytes));
    }
    c10::free_cpu(bytes);
  }

  bool holds(void* bytes) const {
    auto it = segments_.upper_bound(static_cast<char*>(bytes));
    return it != segments_.begin() && bytes < (--it)->second;
  }

  // The smallest block that is large enough, the lowest in memory among these.
  void* take(size_t size) {
    auto it = free_.lower_bound({size, nullptr});
    Block* block;
    if (it != free_.end()) {
      block = it->second;
      free_.erase(it);
    } else {
      block = segment(size);
      if (!block) return nullptr;
    }
    if (block->size - size >= kRest) {
      Block* rest = block->at(size);
      *rest = {block->size - size, block, true, block->is_last};
      if (Block* next = rest->after()) next->before = rest;
      block->size = size;
      block->is_last = false;
      free_.insert({rest->size, rest});
    }
    block->is_free = false;
    return block->bytes();
  }

  void put(Block* block) {
    block->is_free = true;
    if (Block* next = block->after(); next && next->is_free) {
      free_.erase({next->size, next});
      join(block, next);
    }
    if (Block* before = block->before; before && before->is_free) {
      free_.erase({before->size, before});
      join(before, block);
      block = before;
    }
    free_.insert({block->size, block});
  }

  static void join(Block* block, Block* next) {
    block->size += next->size;
    block->is_last = next->is_last;
    if (Block* later = block->after()) later->before = block;
  }

  Block* segment(size_t size) {
    const size_t bytes = std::max(kSegment, rounded(size, kHugePage));
    // Mapped with room to start at a huge page; what is beside it is given back.
    void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    auto* begin = static_cast<char*>(mapped);
    auto* start = reinterpret_cast<char*>(rounded(reinterpret_cast<size_t>(begin), kHugePage));
    if (start != begin) munmap(begin, start - begin);
    munmap(start + bytes, begin + kHugePage - start);
#ifdef MADV_HUGEPAGE
    // A wish: without huge pages it is slower, not wrong.
    madvise(start, bytes, MADV_HUGEPAGE);
#endif
    auto* block = reinterpret_cast<Block*>(start);
    *block = {bytes, nullptr, false, true};
    segments_[start] = start + bytes;
    return block;
  }

  std::mutex mutex_;
  std::map<char*, char*> segments_;
  std::set<std::pair<size_t, Block*>> free_;
};

#endif

}  // namespace

namespace rlaif {

bool use_pool() {
#ifdef RLAIF_POOL
  c10::SetCPUAllocator(&Pool::instance());
  return true;
#else
  return false;
#endif
}

}  // namespace rlaif

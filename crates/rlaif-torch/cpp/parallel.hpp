// Loops over libtorch's threads.
//
// `at::parallel_for` in a file compiled here is a serial loop: its parallel region is a template
// that needs the compiler's OpenMP, which could be another runtime than libtorch's, with threads of
// its own. These two reach the region that libtorch was built with.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace rlaif {

// Runs `body(begin, end)` over a division of [0, n) into one part per thread, none below `grain`.
void parallel_for(int64_t n, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body);

// Runs `body(task)` for each task in [0, n); a thread that is done takes the next.
void parallel_tasks(int64_t n, c10::function_ref<void(int64_t)> body);

// Looks from time to time how busy the machine is, and how long threads may spin (threads.cpp).
void before_parallel_work();

}  // namespace rlaif

#include "common.hpp"

#include <string>

namespace {
thread_local std::string last_error;
}

namespace rlaif {

RlaifStatus fail(RlaifStatus status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

}  // namespace rlaif

const char* rlaif_last_error() noexcept { return last_error.c_str(); }

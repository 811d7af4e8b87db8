// The allocator of tensors on the CPU.
#pragma once

namespace rlaif {

// Makes tensors on the CPU take their memory from a pool that is never given back; whether this
// system can. Tensors made before keep theirs.
bool use_pool();

}  // namespace rlaif

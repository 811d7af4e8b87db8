// Every function that Rust calls, and every struct that crosses: the one list on this side.
// src/ffi.rs is the list on the other; a test there compares the two.
//
// Functions get C linkage from here, so a definition that differs does not compile, and one that is
// missing here is not found by the linker. An `int32_t` that is returned is a `RlaifStatus`
// unless a comment says what else it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

// Numbers with a meaning, which cross as `int32_t`. One that is not listed is refused.
enum RlaifStatus : int32_t { kOk = 0, kFailed = 1, kOutOfMemory = 2, kWrongKind = 3 };
// Dtypes.
enum RlaifFloat : int32_t { kF32 = 0, kBf16 = 1, kF16 = 2 };
enum RlaifActivation : int32_t { kNone = -1, kRelu = 0, kSilu = 1, kGelu = 2, kGeluTanh = 3 };
enum RlaifCudaLoad : int32_t { kLoaded = 0, kNotShipped = 1, kNoDriver = 2 };
// Any algorithm; a deterministic one with a warning where there is none; an error there.
enum RlaifDeterminism : int32_t { kAny = 0, kWarn = 1, kRequire = 2 };
enum RlaifIsa : int32_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

extern "C" {

// ---- error.cpp -----------------------------------------------------------------------------------

// Valid until the next failure in the same thread.
const char* rlaif_last_error() noexcept;

// ---- adamw.cpp -----------------------------------------------------------------------------------

struct RlaifAdamWOptions {
  // `gradient`: the factor that gradients are multiplied by.
  double lr, beta1, beta2, eps, weight_decay, gradient;
};

// One parameter and its state. In low precision it has a `master` in f32, or the `remainder` that it
// lacks to one (bf16 on the CPU); the other, or both, are null.
struct RlaifAdamWSlot {
  const at::Tensor *param, *master, *remainder, *exp_avg, *exp_avg_sq, *step;
};

int32_t rlaif_adamw_step(const RlaifAdamWSlot* slots, size_t len,
                         const RlaifAdamWOptions* options) noexcept;
// Returns 1 where a fused kernel may walk the tensor's memory: no gaps, no element twice.
int32_t rlaif_is_dense(const at::Tensor* tensor) noexcept;

// ---- grad.cpp ------------------------------------------------------------------------------------

// `max_norm` may be infinite: then only the norm is computed. With `factor`, which may be null,
// gradients stay as they are, and it receives the factor that they are to be multiplied by.
int32_t rlaif_grad_clip(const at::Tensor* const* params, size_t len, double max_norm, double* norm,
                        double* factor) noexcept;
int32_t rlaif_grad_clip_async(const at::Tensor* const* params, size_t len, double max_norm,
                              at::Tensor** norm) noexcept;
// Sets `flags[i]` to 1 where the gradient of `params[i]` holds an infinity or a NaN.
int32_t rlaif_grad_non_finite(const at::Tensor* const* params, size_t len,
                              uint8_t* flags) noexcept;
int32_t rlaif_grad_drop(const at::Tensor* const* params, size_t len) noexcept;

// ---- rng.cpp -------------------------------------------------------------------------------------

// `cuda` names a CUDA device, or with -1 the CPU.
int32_t rlaif_rng_state(int32_t cuda, at::Tensor** state) noexcept;
int32_t rlaif_rng_set_state(int32_t cuda, const at::Tensor* state) noexcept;

// ---- device.cpp ----------------------------------------------------------------------------------

// `outcome`: a `RlaifCudaLoad`.
int32_t rlaif_cuda_load(int32_t* outcome) noexcept;
int32_t rlaif_set_tf32(int32_t on) noexcept;
int32_t rlaif_tf32(int32_t* on) noexcept;
// `level`: a `RlaifDeterminism`.
int32_t rlaif_set_determinism(int32_t level) noexcept;
// Returns a `RlaifDeterminism`.
int32_t rlaif_determinism() noexcept;

// ---- threads.cpp ---------------------------------------------------------------------------------

int32_t rlaif_set_intra_threads(int32_t n) noexcept;
int32_t rlaif_set_inter_threads(int32_t n) noexcept;
// Both return a number of threads.
int32_t rlaif_intra_threads() noexcept;
int32_t rlaif_inter_threads() noexcept;
// Lets threads of libtorch's OpenMP sleep soon after their work, where they would spin for milliseconds,
// while other processes take much of their time. `done` is 0 where that is not known to work, or the
// environment asks for something else.
int32_t rlaif_sleep_soon(int32_t* done) noexcept;
// `supported` is 0 where the processor has no such mode.
int32_t rlaif_set_flush_denormals(int32_t on, int32_t* supported) noexcept;
int32_t rlaif_threads_keeping_denormals(int32_t* count) noexcept;

// ---- memory.cpp ----------------------------------------------------------------------------------

// Bytes.
struct RlaifCudaMemory {
  int64_t allocated, allocated_peak, reserved, reserved_peak;
};

// `supported` is 0 where the system has no memory to map. What tensors do not allocate, the C library
// does: oneDNN's and MKL's buffers among it.
int32_t rlaif_keep_large_blocks(int32_t* supported) noexcept;
// Peak resident set in bytes, 0 where unknown.
uint64_t rlaif_peak_rss() noexcept;
int32_t rlaif_cuda_memory(int32_t device, RlaifCudaMemory* out) noexcept;
// Bytes that new tensors could have: free on the device, and unused in the allocator's cache.
int32_t rlaif_cuda_memory_free(int32_t device, uint64_t* out) noexcept;
int32_t rlaif_cuda_reset_peak(int32_t device) noexcept;
// Tells autograd that the tensor's memory was written from outside.
int32_t rlaif_bump_version(const at::Tensor* tensor) noexcept;
const void* rlaif_storage(const at::Tensor* tensor) noexcept;

// ---- kernels.cpp ---------------------------------------------------------------------------------

// `out` receives the norm, and x for what goes beside it.
int32_t rlaif_rms_norm(const at::Tensor* x, const at::Tensor* weight, double epsilon,
                       at::Tensor** out) noexcept;
int32_t rlaif_rope(const at::Tensor* x, const at::Tensor* cos, const at::Tensor* sin,
                   at::Tensor** out) noexcept;

// ---- linear.cpp ----------------------------------------------------------------------------------

// `len` weights `[N_i, K]`, and as many biases or none (null); `out` receives `len` tensors, the first
// with `residual` added, which may be null.
int32_t rlaif_linear(const at::Tensor* x, const at::Tensor* const* weights,
                     const at::Tensor* const* biases, size_t len, const at::Tensor* residual,
                     at::Tensor** out) noexcept;

// ---- quantized.cpp -------------------------------------------------------------------------------

struct RlaifQuantized {
  const at::Tensor* codes;        // NF4: uint8, two codes in a byte; int8 [rows, columns]
  const at::Tensor* scales;       // NF4: of blocks, f32 or uint8; int8: of rows, f32
  const at::Tensor* nested;       // f32, of blocks of scales; null for none
  const at::Tensor* nested_code;  // f32 [256]
  const at::Tensor* code;         // f32 [16]; null for int8
  double offset;                  // added to nested scales
  int64_t rows;
  int64_t columns;
  int64_t block;
  int64_t nested_block;
  int32_t kind;                   // of the weights before: a `RlaifFloat`
};

// `count` rows of the weights in `kind`, a `RlaifFloat`.
int32_t rlaif_dequantize(const RlaifQuantized* matrix, int64_t first, int64_t count, int32_t kind,
                         at::Tensor** out) noexcept;
// `bias` and `residual` may be null.
int32_t rlaif_quantized_linear(const at::Tensor* x, const RlaifQuantized* matrix,
                               const at::Tensor* bias, const at::Tensor* residual,
                               at::Tensor** out) noexcept;

// ---- gated.cpp -----------------------------------------------------------------------------------

// `activation`: `kSilu` or `kGeluTanh`.
int32_t rlaif_gated(const at::Tensor* gate, const at::Tensor* up, int32_t activation,
                    at::Tensor** out) noexcept;

// ---- isa.cpp -------------------------------------------------------------------------------------

// The instruction set that kernels use, and the processor's best, each a `RlaifIsa`; fails, with the latter
// written, if RLAIF_ISA names none of its own.
int32_t rlaif_isa(int32_t* chosen, int32_t* best) noexcept;

// ---- work.cpp ------------------------------------------------------------------------------------

// What products did in this process so far: operations, and bytes of operands and results. Returns nothing.
void rlaif_work(int64_t* operations, int64_t* bytes) noexcept;
// Measures operations and bytes in a second; `kind`: `kF32` or `kBf16`.
int32_t rlaif_limits(int32_t kind, double* most_operations, double* most_bytes) noexcept;

// ---- attention.cpp -------------------------------------------------------------------------------

// `supported` is 1 if this processor has attention to rows of different lengths, of `kind`, a `RlaifFloat`.
int32_t rlaif_attends_rows(int32_t kind, int64_t head_dim, int32_t* supported) noexcept;
// Of q, k and v of three dimensions the last is heads of `head_dim`. `bias` and `mask` may be null.
// With `rows`, as many numbers of queries and of keys tell how the tokens of q and k, over their first
// two dimensions, fall into rows.
int32_t rlaif_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                        const at::Tensor* bias, const at::Tensor* mask, int64_t head_dim,
                        const int64_t* query_lengths, const int64_t* key_lengths, size_t rows,
                        int32_t causal, double scale, double dropout, at::Tensor** out) noexcept;

// ---- log_prob.cpp --------------------------------------------------------------------------------

// `bias` may be null. `out` receives log-probabilities and entropies.
int32_t rlaif_linear_log_probs(const at::Tensor* hidden, const at::Tensor* weight,
                               const at::Tensor* bias, const at::Tensor* targets,
                               double temperature, int64_t chunk, at::Tensor** out) noexcept;

// ---- rows.cpp ------------------------------------------------------------------------------------

struct RlaifRowsLinear {
  const at::Tensor* x;               // [M, K]
  const at::Tensor* norm;            // [K]; null for none
  double epsilon;
  const at::Tensor* const* weights;  // [N_i, K]
  const at::Tensor* const* biases;   // [N_i]; null entries for none
  size_t count;
  const at::Tensor* residual;        // [M, N]; null for none
  int32_t activation;                // of the first product: a `RlaifActivation`
  int32_t gated;                     // the first product, activated, times the second
  int32_t wide;                      // results in f32
  int32_t many;                      // weights are packed; results differ from those of few rows by rounding
};

struct RlaifRowsAttention {
  const at::Tensor* q;       // [B, heads * D]
  const at::Tensor* k;       // [B, kv * D], put at the end of each row first; null for none
  const at::Tensor* v;
  const at::Tensor* keys;    // [rows, kv, capacity, D]
  const at::Tensor* values;
  const int64_t* lengths;    // of each row, what is put included
  const at::Tensor* bias;    // f32 [heads, distances] by distance from the end; null for none
  double scale;
  int64_t window;
};

struct RlaifRowsCut {
  int64_t top_k;  // 0: off
  double top_p;   // 1: off
  double min_p;   // 0: off
};

// Writes one tensor, or as many as there are weights where they are not gated.
int32_t rlaif_rows_linear(const RlaifRowsLinear* call, at::Tensor** out) noexcept;
int32_t rlaif_rows_attention(const RlaifRowsAttention* call, at::Tensor** out) noexcept;
// For each row of logits f32 [B, V] the token on which `uniforms` falls when the probabilities of
// softmax(logits / temperature), of the tokens that `cut` keeps, are laid side by side, or with null
// the most probable one; its log-probability and log sum exp(logits / temperature), of all tokens.
// `ids` is -1 where a logit is NaN or +inf, or all are -inf.
int32_t rlaif_rows_choose(const at::Tensor* logits, double temperature, const double* uniforms,
                          const RlaifRowsCut* cut, int64_t* ids, float* log_probs,
                          double* normalisers) noexcept;

// ---- recompute.cpp -------------------------------------------------------------------------------

// A Rust closure. `call` fills the answer through the two functions below and returns 0, or sets
// its error and returns 1; it never unwinds.
struct RlaifSegment {
  void* data;
  int32_t (*call)(void* data, const at::Tensor* const* inputs, size_t len, void* answer);
  void (*drop)(void* data);
};

// Returns 1 while gradients are recorded in this thread.
int32_t rlaif_grad_enabled() noexcept;
// Replaces each of `outputs`, computed without a graph, by one whose gradient comes from running
// `segment` again. Takes over `segment` in every case.
int32_t rlaif_recompute(RlaifSegment segment, const at::Tensor* const* inputs, size_t inputs_len,
                        const int32_t* rng_devices, const at::Tensor* const* rng_states,
                        size_t rng_len, const at::Tensor* const* outputs, at::Tensor** adopted,
                        size_t outputs_len) noexcept;
int32_t rlaif_answer_output(void* answer, const at::Tensor* output) noexcept;
int32_t rlaif_answer_error(void* answer, const char* message, size_t len) noexcept;

// ---- graph.cpp -----------------------------------------------------------------------------------

int32_t rlaif_graph_new(int32_t device, void** graph) noexcept;
void rlaif_graph_free(void* graph) noexcept;
int32_t rlaif_graph_enter(void* graph) noexcept;
int32_t rlaif_graph_begin(void* graph) noexcept;
int32_t rlaif_graph_end(void* graph) noexcept;
void rlaif_graph_leave(void* graph) noexcept;
int32_t rlaif_graph_replay(void* graph) noexcept;

// ---- dist.cpp ------------------------------------------------------------------------------------

// Returns 1 where libtorch was built with c10d; else every other function here fails.
int32_t rlaif_dist_built() noexcept;
// With `serve`, other processes meet in this one. All keys get `prefix`, which may be empty.
int32_t rlaif_store_open(const char* host, uint16_t port, int32_t serve, int64_t timeout_ms,
                         const char* prefix, void** store) noexcept;
void rlaif_store_free(void* store) noexcept;
int32_t rlaif_store_set(void* store, const char* key, const uint8_t* value, size_t len) noexcept;
// Writes null where there is no such key, else a tensor of bytes; does not wait.
int32_t rlaif_store_get(void* store, const char* key, at::Tensor** value) noexcept;
int32_t rlaif_store_add(void* store, const char* key, int64_t by, int64_t* sum) noexcept;
// `interface` and `host` may be empty; an interface comes first.
int32_t rlaif_group_open(void* store, int32_t rank, int32_t size, int64_t timeout_ms,
                         const char* interface, const char* host, void** group) noexcept;
void rlaif_group_free(void* group) noexcept;
// Sums a tensor over all ranks, in place. Work is waited for, then freed.
int32_t rlaif_group_sum(void* group, const at::Tensor* tensor, void** work) noexcept;
int32_t rlaif_group_gather(void* group, const at::Tensor* tensor, const at::Tensor* const* outputs,
                           size_t len, void** work) noexcept;
// `done` stays 0 if the work takes longer than this.
int32_t rlaif_work_wait(void* work, int64_t timeout_ms, int32_t* done) noexcept;
void rlaif_work_free(void* work) noexcept;

}  // extern "C"

// The layout of the structs, in bytes; src/ffi.rs asserts the same numbers.
#define RLAIF_LAYOUT(type, size, last, offset)               \
  static_assert(sizeof(type) == size, "the size of " #type); \
  static_assert(offsetof(type, last) == offset, "where " #type "::" #last " lies")

RLAIF_LAYOUT(RlaifAdamWOptions, 48, gradient, 40);
RLAIF_LAYOUT(RlaifAdamWSlot, 48, step, 40);
RLAIF_LAYOUT(RlaifCudaMemory, 32, reserved_peak, 24);
RLAIF_LAYOUT(RlaifQuantized, 88, kind, 80);
RLAIF_LAYOUT(RlaifRowsLinear, 72, many, 68);
RLAIF_LAYOUT(RlaifRowsAttention, 72, window, 64);
RLAIF_LAYOUT(RlaifRowsCut, 24, min_p, 16);
RLAIF_LAYOUT(RlaifSegment, 24, drop, 16);

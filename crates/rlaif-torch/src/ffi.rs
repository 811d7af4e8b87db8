//! The C++ layer's functions (`cpp/`), and what makes calling them safe.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::TorchError;

/// `Status` in `cpp/common.hpp`; any other value is a failure without a meaning of its own.
const OK: i32 = 0;
const OUT_OF_MEMORY: i32 = 2;

/// A parameter and its optimizer state; `RlaifAdamWSlot` in `cpp/adamw.cpp`.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) param: *const C_tensor,
    /// Null where the parameter is stepped on itself, or on what its remainder makes of it.
    pub(crate) master: *const C_tensor,
    /// Null, too, but for bf16 on the CPU.
    pub(crate) remainder: *const C_tensor,
    pub(crate) exp_avg: *const C_tensor,
    pub(crate) exp_avg_sq: *const C_tensor,
    pub(crate) step: *const C_tensor,
}

/// `RlaifAdamWOptions` in `cpp/adamw.cpp`.
#[repr(C)]
pub(crate) struct Options {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    /// What gradients are multiplied by.
    pub(crate) gradient: f64,
}

/// `RlaifCudaMemory` in `cpp/memory.cpp`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CudaMemory {
    pub(crate) allocated: i64,
    pub(crate) allocated_peak: i64,
    pub(crate) reserved: i64,
    pub(crate) reserved_peak: i64,
}

/// `RlaifSegment` in `cpp/recompute.cpp`.
#[repr(C)]
pub(crate) struct Segment {
    pub(crate) data: *mut c_void,
    pub(crate) call:
        unsafe extern "C" fn(*mut c_void, *const *mut C_tensor, usize, *mut c_void) -> i32,
    pub(crate) drop: unsafe extern "C" fn(*mut c_void),
}

/// A list of tensors as C++ takes it.
pub(crate) type List = *const *const C_tensor;

unsafe extern "C" {
    fn rlaif_last_error() -> *const c_char;

    pub(crate) fn rlaif_adamw_step(slots: *const Slot, len: usize, options: *const Options) -> i32;
    pub(crate) fn rlaif_is_dense(tensor: *const C_tensor) -> i32;

    pub(crate) fn rlaif_grad_clip(
        params: List,
        len: usize,
        max_norm: f64,
        norm: *mut f64,
        factor: *mut f64,
    ) -> i32;
    pub(crate) fn rlaif_grad_clip_async(
        params: List,
        len: usize,
        max_norm: f64,
        norm: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_grad_non_finite(params: List, len: usize, flags: *mut u8) -> i32;
    pub(crate) fn rlaif_grad_drop(params: List, len: usize) -> i32;

    pub(crate) fn rlaif_rng_state(cuda: i32, state: *mut *mut C_tensor) -> i32;
    pub(crate) fn rlaif_rng_set_state(cuda: i32, state: *const C_tensor) -> i32;

    pub(crate) fn rlaif_cuda_load(outcome: *mut i32) -> i32;
    pub(crate) fn rlaif_set_tf32(on: i32) -> i32;
    pub(crate) fn rlaif_tf32(on: *mut i32) -> i32;
    pub(crate) fn rlaif_set_determinism(level: i32) -> i32;
    pub(crate) fn rlaif_determinism() -> i32;

    pub(crate) fn rlaif_set_intra_threads(n: i32) -> i32;
    pub(crate) fn rlaif_set_inter_threads(n: i32) -> i32;
    pub(crate) fn rlaif_intra_threads() -> i32;
    pub(crate) fn rlaif_inter_threads() -> i32;
    pub(crate) fn rlaif_set_flush_denormals(on: i32, supported: *mut i32) -> i32;
    pub(crate) fn rlaif_threads_keeping_denormals(count: *mut i32) -> i32;

    pub(crate) fn rlaif_keep_large_blocks(supported: *mut i32) -> i32;
    pub(crate) fn rlaif_peak_rss() -> u64;
    pub(crate) fn rlaif_cuda_memory(device: i32, out: *mut CudaMemory) -> i32;
    pub(crate) fn rlaif_cuda_memory_free(device: i32, out: *mut u64) -> i32;
    pub(crate) fn rlaif_cuda_reset_peak(device: i32) -> i32;
    pub(crate) fn rlaif_bump_version(tensor: *const C_tensor) -> i32;
    pub(crate) fn rlaif_storage(tensor: *const C_tensor) -> *const c_void;

    pub(crate) fn rlaif_grad_enabled() -> i32;
    pub(crate) fn rlaif_rms_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        epsilon: f64,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_rope(
        x: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_linear(
        x: *const C_tensor,
        weights: List,
        biases: List,
        len: usize,
        residual: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_gated(
        gate: *const C_tensor,
        up: *const C_tensor,
        sort: i32,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_attends_rows(bf16: i32, head_dim: i64) -> i32;
    pub(crate) fn rlaif_attention(
        q: *const C_tensor,
        k: *const C_tensor,
        v: *const C_tensor,
        bias: *const C_tensor,
        mask: *const C_tensor,
        head_dim: i64,
        query_lengths: *const i64,
        key_lengths: *const i64,
        rows: usize,
        causal: i32,
        scale: f64,
        dropout: f64,
        out: *mut *mut C_tensor,
    ) -> i32;
    pub(crate) fn rlaif_linear_log_probs(
        hidden: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        targets: *const C_tensor,
        temperature: f64,
        chunk: i64,
        out: *mut *mut C_tensor,
    ) -> i32;

    pub(crate) fn rlaif_recompute(
        segment: Segment,
        inputs: List,
        inputs_len: usize,
        rng_devices: *const i32,
        rng_states: List,
        rng_len: usize,
        outputs: List,
        adopted: *mut *mut C_tensor,
        outputs_len: usize,
    ) -> i32;
    pub(crate) fn rlaif_answer_output(answer: *mut c_void, output: *const C_tensor) -> i32;
    pub(crate) fn rlaif_answer_error(
        answer: *mut c_void,
        message: *const c_char,
        len: usize,
    ) -> i32;
}

/// Turns the status of a call into a result; the message is the calling thread's last one.
pub(crate) fn check(operation: &'static str, status: i32) -> Result<(), TorchError> {
    if status == OK {
        return Ok(());
    }
    // SAFETY: a valid C string until this thread's next failing call, and it is copied here.
    let message = unsafe { CStr::from_ptr(rlaif_last_error()) }.to_string_lossy().into_owned();
    Err(match (TorchError::from_libtorch(operation, message), status) {
        (TorchError::Libtorch { message, .. }, OUT_OF_MEMORY) => {
            TorchError::OutOfMemory { requested: None, message }
        }
        (error, _) => error,
    })
}

/// The tensors as C++ takes them. The pointers live as long as the tensors.
pub(crate) fn list<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}

/// Takes a tensor that C++ handed over.
///
/// # Safety
/// `tensor` must have come from `rlaif::give` and be taken once.
pub(crate) unsafe fn take(tensor: *mut C_tensor) -> Tensor {
    // SAFETY: `rlaif::give` allocated it with `new at::Tensor`, which is what tch frees.
    unsafe { Tensor::from_ptr(tensor) }
}

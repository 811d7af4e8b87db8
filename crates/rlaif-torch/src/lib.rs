//! Functions of libtorch that [`tch`] lacks, as safe Rust over a thin layer of C++.
//!
//! ```
//! use rlaif_torch::{AdamW, AdamWOptions, DeviceChoice, ParamGroup, TorchError, checkpoint};
//! use tch::{Kind, Tensor};
//!
//! fn main() -> Result<(), TorchError> {
//!     rlaif_torch::init()?; // first: CUDA, allocation, denormals
//!     let device = "auto".parse::<DeviceChoice>()?.resolve()?;
//!     let w = (Tensor::randn([8, 8], (Kind::Float, device)) / 8).set_requires_grad(true);
//!     let params = vec![("w".to_owned(), w.shallow_clone())];
//!     let mut optimizer = AdamW::new(vec![ParamGroup { params, options: AdamWOptions::default() }])?;
//!
//!     let x = Tensor::randn([4, 8], (Kind::Float, device));
//!     for _ in 0..3 {
//!         let captured = w.shallow_clone();
//!         let y = checkpoint(&[&x], move |t| Ok::<_, TorchError>(t[0].matmul(&captured).gelu("none")))?;
//!         optimizer.zero_grad()?;
//!         y.square().mean(Kind::Float).backward();
//!         let norm = optimizer.clip_grad_norm(Some(1.0))?;
//!         assert!(norm.is_finite());
//!         optimizer.step()?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! | for | use |
//! |---|---|
//! | the start of a program, and a sudden end | [`init`], [`exit_at_once`] |
//! | optimizer | [`AdamW`], [`clip_grad_norm`], [`non_finite_grads`], [`drop_grads`] |
//! | language models | [`linear`], [`linears`], [`attention`], [`gated`], [`rms_norm`], [`rope`], [`linear_log_probs`] |
//! | frozen weights in 4 or 8 bits | [`Quantized`] |
//! | decoding | [`RowLinear`], [`RowAttention`], [`choose_tokens`]; on a GPU [`CudaGraph`] |
//! | less memory in the backward pass | [`checkpoint`], [`checkpoint_many`] |
//! | runs that resume bit by bit | [`seeded`], [`RngState`], [`AdamW::state`], [`set_determinism`] |
//! | devices and threads | [`isa`], [`DeviceChoice`], [`load_cuda`], [`set_intra_op_threads`], [`set_denormals`], [`set_tf32`] |
//! | several processes | [`dist::World`] |
//! | memory | [`host_memory`], [`host_memory_available`], [`cuda_memory`], [`cuda_memory_free`], [`free_memory`], [`keep_large_blocks`], [`with_bytes_mut`] |
//! | errors | [`TorchError`], which distinguishes running out of memory from the rest |
//!
//! # Building on this crate
//!
//! `cargo run` and `cargo test` of a package that depends on this crate find libtorch by
//! themselves. For its binaries to run directly, the package needs a build script of one line; see
//! `rlaif-build`.

mod adamw;
mod attention;
mod bytes;
mod device;
pub mod dist;
mod error;
mod exit;
mod ffi;
mod fused;
mod grad;
mod graph;
mod isa;
mod linear;
mod memory;
mod numerics;
mod quantized;
mod recompute;
mod rng;
mod rows;
mod setup;
mod threads;
mod work;

pub use adamw::{AdamW, AdamWOptions, ParamGroup};
pub use attention::{AttentionOptions, Keys, RowLengths, attends_rows, attention};
pub use bytes::{with_bytes, with_bytes_mut};
pub use device::{CudaLibraries, DeviceChoice, load_cuda, prefer_cuda};
pub use error::TorchError;
pub use exit::exit_at_once;
pub use fused::{Gate, gated, linear_log_probs, rms_norm, rms_norm_beside, rope};
pub use grad::{clip_grad_norm, clip_grad_norm_async, drop_grads, non_finite_grads};
pub use graph::CudaGraph;
pub use isa::{Isa, isa};
pub use linear::{linear, linear_onto, linears};
pub use memory::{
    CudaMemory, HostMemory, cuda_memory, cuda_memory_free, free_memory, host_memory,
    host_memory_available, keep_large_blocks, reset_cuda_peak,
};
pub use numerics::{Determinism, Tf32, determinism, set_determinism, set_tf32, tf32};
pub use quantized::{NestedScales, Nf4Parts, Quantization, Quantized};
pub use recompute::{checkpoint, checkpoint_many};
pub use rng::{RngState, seeded};
pub use rows::{
    RowActivation, RowAttention, RowChoice, RowCount, RowKind, RowLinear, RowWeight, TokenCut,
    choose_tokens, rows_serve,
};
pub use setup::{Setup, init};
pub use tch;
pub use threads::{
    Denormals, Support, inter_op_threads, intra_op_threads, set_denormals, set_inter_op_threads,
    set_intra_op_threads, threads_keeping_denormals,
};
pub use work::{MachineLimits, WorkOfProducts};

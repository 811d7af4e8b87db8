//! Initialisation at a program's start.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::device::{CudaLibraries, load_cuda};
use crate::error::TorchError;
use crate::isa::{Isa, isa};
use crate::memory::keep_large_blocks;
use crate::threads::{Denormals, Support, set_denormals};

/// Result of [`init`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setup {
    /// libtorch's CUDA part.
    pub cuda: CudaLibraries,
    /// The allocator that keeps large blocks.
    pub allocation: Support,
    /// The instruction set that kernels use.
    pub isa: Isa,
    /// Denormals flushed to zero in every thread that computes.
    pub denormals: Support,
}

/// The part that is done once per process.
static PROCESS: Mutex<Option<(CudaLibraries, Support)>> = Mutex::new(None);

/// Prepares libtorch for training: call it first in `main`, before any tensor is made.
///
/// 1. The allocator keeps large blocks ([`keep_large_blocks`]).
/// 2. libtorch's CUDA part is loaded if there is a driver ([`load_cuda`]).
/// 3. Denormals are flushed to zero in the calling thread and its pool ([`set_denormals`]); threads
///    created later inherit the mode.
///
/// A second call repeats only the third step, for its own thread.
///
/// # Errors
/// Those of the three functions, and of [`isa`](crate::isa).
///
/// ```
/// let setup = rlaif_torch::init()?;
/// assert_eq!(rlaif_torch::init()?, setup);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn init() -> Result<Setup, TorchError> {
    let isa = isa()?;
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let (cuda, allocation) = match *process {
        Some(done) => done,
        None => {
            let allocation = keep_large_blocks()?;
            *process.insert((load_cuda()?, allocation))
        }
    };
    drop(process);
    Ok(Setup { cuda, allocation, isa, denormals: set_denormals(Denormals::Flush)? })
}

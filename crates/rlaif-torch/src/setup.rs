//! Initialisation at a program's start.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::device::{CudaLibraries, load_cuda};
use crate::error::TorchError;
use crate::isa::{Isa, isa};
use crate::memory::keep_large_blocks;
use crate::threads::{Denormals, Support, keep_to_available, set_denormals, sleep_soon};

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
    /// Threads of libtorch's pool that sleep when they have nothing to do.
    pub waiting: Support,
    /// Denormals flushed to zero in every thread that computes.
    pub denormals: Support,
}

/// The part that is done once per process.
static PROCESS: Mutex<Option<(CudaLibraries, Support, Support)>> = Mutex::new(None);

/// Prepares libtorch for training: call it first in `main`, before any tensor is made.
///
/// 1. The allocator keeps large blocks ([`keep_large_blocks`]).
/// 2. libtorch's CUDA part is loaded if there is a driver ([`load_cuda`]).
/// 3. There are no more threads than the cgroup's quota and the affinity of the process allow, unless
///    `OMP_NUM_THREADS` says otherwise. While other processes take much of its threads' time, threads
///    without work sleep after microseconds, where they spin for milliseconds on an idle machine: spinning
///    would take the time of the program's own work. `GOMP_SPINCOUNT`, `OMP_WAIT_POLICY` and `KMP_BLOCKTIME` are respected.
/// 4. Denormals are flushed to zero in the calling thread and its pool ([`set_denormals`]); threads
///    created later inherit the mode.
///
/// A second call repeats only the last step, for its own thread.
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
    let (cuda, allocation, waiting) = match *process {
        Some(done) => done,
        None => {
            let allocation = keep_large_blocks()?;
            let cuda = load_cuda()?;
            keep_to_available()?;
            *process.insert((cuda, allocation, sleep_soon()?))
        }
    };
    drop(process);
    Ok(Setup { cuda, allocation, isa, waiting, denormals: set_denormals(Denormals::Flush)? })
}

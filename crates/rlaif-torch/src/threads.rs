//! Compute threads, and their floating-point mode.

use rlaif_core::BadSetting;

use crate::error::TorchError;
use crate::ffi;

/// Number of threads that one operation may use.
#[must_use]
pub fn intra_op_threads() -> usize {
    // SAFETY: no arguments; it reads a number.
    usize::try_from(unsafe { ffi::rlaif_intra_threads() }).unwrap_or(1)
}

/// Number of operations that may run at the same time (of TorchScript and `at::launch` only).
#[must_use]
pub fn inter_op_threads() -> usize {
    // SAFETY: no arguments; it reads a number.
    usize::try_from(unsafe { ffi::rlaif_inter_threads() }).unwrap_or(1)
}

/// Sets the number of threads that one operation may use, for operations called from this thread.
///
/// The same seed gives bitwise the same results only with the same number of threads.
///
/// # Errors
/// [`TorchError::Setting`] for 0 or for a number beyond libtorch's range.
///
/// ```
/// let before = rlaif_torch::intra_op_threads();
/// rlaif_torch::set_intra_op_threads(1)?;
/// assert_eq!(rlaif_torch::intra_op_threads(), 1);
/// rlaif_torch::set_intra_op_threads(before)?;
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn set_intra_op_threads(threads: usize) -> Result<(), TorchError> {
    let n = count("intra_op_threads", threads)?;
    // SAFETY: plain values.
    ffi::check("setting the intra-op threads", unsafe { ffi::rlaif_set_intra_threads(n) })
}

/// Sets the number of operations that may run at the same time. Once, before the first of them.
///
/// # Errors
/// [`TorchError::Setting`] for 0 or for a number beyond libtorch's range, [`TorchError::Libtorch`]
/// if it is too late.
pub fn set_inter_op_threads(threads: usize) -> Result<(), TorchError> {
    let n = count("inter_op_threads", threads)?;
    // SAFETY: plain values.
    ffi::check("setting the inter-op threads", unsafe { ffi::rlaif_set_inter_threads(n) })
}

/// Keeps the threads of one operation to what the process may use, unless the environment names a number:
/// libtorch knows the affinity, but not the quota of a cgroup.
pub(crate) fn keep_to_available() -> Result<(), TorchError> {
    let named = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(std::env::var_os);
    if named.iter().any(Option::is_some) {
        return Ok(());
    }
    match std::thread::available_parallelism() {
        Ok(available) if available.get() < intra_op_threads() => {
            set_intra_op_threads(available.get())
        }
        _ => Ok(()),
    }
}

/// Lets threads of libtorch's pool sleep soon after their work.
pub(crate) fn sleep_soon() -> Result<Support, TorchError> {
    let mut done = 0;
    // SAFETY: `done` outlives the call.
    ffi::check("letting threads sleep", unsafe { ffi::rlaif_sleep_soon(&raw mut done) })?;
    Ok(if done == 0 { Support::Unsupported } else { Support::Set })
}

fn count(setting: &'static str, threads: usize) -> Result<i32, TorchError> {
    let expected = "at least 1, and a number that fits 31 bits";
    let count = i32::try_from(threads).ok().filter(|n| *n > 0);
    count.ok_or_else(|| BadSetting::new(setting, threads, expected).into())
}

/// Treatment of numbers too small for a normal floating-point number (f32: below 1.2e-38).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denormals {
    /// Denormals are kept, as in IEEE 754; arithmetic on them is tens of times slower.
    Keep,
    /// Denormals are zero, as operands and as results.
    Flush,
}

/// Support of the processor for a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Supported, and the mode is set.
    Set,
    /// Not supported; nothing changed.
    Unsupported,
}

/// Sets the treatment of denormals in the calling thread, and in every thread of the pool that
/// computes for it.
///
/// The softmax of sharp logits fills gradients with denormals, and a matrix product over them is
/// tens of times slower. The mode belongs to a thread. A new thread inherits it from its creator,
/// so one call of this function (or of [`init`](crate::init)), early in the main thread, covers
/// pools that grow later, the threads of the program, and autograd's threads. A thread that already
/// exists must call it itself.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses.
///
/// ```
/// use rlaif_torch::{Denormals, Support, set_denormals, threads_keeping_denormals};
///
/// if set_denormals(Denormals::Flush)? == Support::Set {
///     assert_eq!(threads_keeping_denormals()?, 0);
/// }
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn set_denormals(denormals: Denormals) -> Result<Support, TorchError> {
    let mut supported = 0;
    let on = i32::from(denormals == Denormals::Flush);
    // SAFETY: `supported` outlives the call.
    let status = unsafe { ffi::rlaif_set_flush_denormals(on, &raw mut supported) };
    ffi::check("setting the treatment of denormals", status)?;
    Ok(if supported == 0 { Support::Unsupported } else { Support::Set })
}

/// Number of compute threads of the calling thread in which a denormal product survives, measured
/// by multiplying in each.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses.
pub fn threads_keeping_denormals() -> Result<usize, TorchError> {
    let mut keeping = 0;
    // SAFETY: `keeping` outlives the call.
    let status = unsafe { ffi::rlaif_threads_keeping_denormals(&raw mut keeping) };
    ffi::check("probing for denormals", status)?;
    Ok(usize::try_from(keeping).unwrap_or(0))
}

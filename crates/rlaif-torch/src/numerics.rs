//! Switches of libtorch's global context that change how numbers are computed.

use crate::error::TorchError;
use crate::ffi;

/// Rounding of the factors of f32 products on CUDA to TensorFloat-32 (10 bits of mantissa).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tf32 {
    /// Full f32, in matrix products and in cuDNN.
    Off,
    /// TensorFloat-32 in both: several times faster on GPUs that support it.
    On,
}

/// Sets TF32 for matrix products and cuDNN on CUDA; it has no effect on the CPU.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses.
///
/// ```
/// use rlaif_torch::{Tf32, set_tf32, tf32};
///
/// set_tf32(Tf32::On)?;
/// assert_eq!(tf32()?, Tf32::On);
/// set_tf32(Tf32::Off)?;
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn set_tf32(tf32: Tf32) -> Result<(), TorchError> {
    // SAFETY: plain values.
    ffi::check("setting TF32", unsafe { ffi::rlaif_set_tf32(i32::from(tf32 == Tf32::On)) })
}

/// Returns [`Tf32::On`] if TF32 is on for both matrix products and cuDNN.
///
/// # Errors
/// [`TorchError::Libtorch`] if other code set the two differently, so that libtorch has no answer.
pub fn tf32() -> Result<Tf32, TorchError> {
    let mut on = 0;
    // SAFETY: `on` outlives the call.
    ffi::check("reading TF32", unsafe { ffi::rlaif_tf32(&raw mut on) })?;
    Ok(if on == 0 { Tf32::Off } else { Tf32::On })
}

/// Requirement of bitwise reproducible operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Determinism {
    /// Any algorithm.
    Any,
    /// Deterministic algorithms; for an operation without one, libtorch warns once on standard
    /// error.
    Warn,
    /// Deterministic algorithms; an operation without one fails.
    Require,
}

/// Chooses between deterministic and other algorithms (`torch.use_deterministic_algorithms`).
///
/// On CUDA, cuBLAS also needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment from the start;
/// libtorch reports it where it matters. New tensors are not filled, unlike with Python's switch by
/// default: that only helps programs that read uninitialised memory.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses.
///
/// ```
/// use rlaif_torch::{Determinism, determinism, set_determinism};
///
/// set_determinism(Determinism::Require)?;
/// assert_eq!(determinism(), Determinism::Require);
/// set_determinism(Determinism::Any)?;
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn set_determinism(determinism: Determinism) -> Result<(), TorchError> {
    let level = match determinism {
        Determinism::Any => ffi::Determinism::Any,
        Determinism::Warn => ffi::Determinism::Warn,
        Determinism::Require => ffi::Determinism::Require,
    };
    // SAFETY: plain values.
    ffi::check("setting determinism", unsafe { ffi::rlaif_set_determinism(level.into()) })
}

/// Returns the current setting.
#[must_use]
pub fn determinism() -> Determinism {
    // SAFETY: no arguments; it reads two flags.
    let level = unsafe { ffi::rlaif_determinism() };
    match ffi::Determinism::try_from(level).expect("a level of rlaif.h") {
        ffi::Determinism::Any => Determinism::Any,
        ffi::Determinism::Warn => Determinism::Warn,
        ffi::Determinism::Require => Determinism::Require,
    }
}

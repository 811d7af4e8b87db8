//! Counts of what products of matrices do on the CPU, and the limits of the machine.

use tch::Kind;

use crate::error::TorchError;
use crate::ffi;

/// Work of products of matrices on the CPU: linear layers, attention and the vocabulary head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkOfProducts {
    /// Multiplications and additions.
    pub operations: u64,
    /// Bytes of operands and results, each counted once for each product.
    pub bytes: u64,
}

impl WorkOfProducts {
    /// The work of this process so far.
    #[must_use]
    pub fn so_far() -> Self {
        let (mut operations, mut bytes) = (0, 0);
        // SAFETY: both outlive the call.
        unsafe { ffi::rlaif_work(&raw mut operations, &raw mut bytes) };
        Self { operations: operations.cast_unsigned(), bytes: bytes.cast_unsigned() }
    }

    /// The work since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            operations: self.operations.wrapping_sub(earlier.operations),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
        }
    }
}

/// Measured limits of this machine, with the threads in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLimits {
    /// Multiplications and additions in a second, by the kernels of products with operands in the cache.
    pub operations_per_s: f64,
    /// Bytes in a second that are read from memory.
    pub bytes_per_s: f64,
}

impl MachineLimits {
    /// Measures the limits for products of f32 or bf16, which takes about half a second.
    ///
    /// # Errors
    /// [`TorchError::OutOfMemory`] for lack of 64 MiB for each thread, and those of [`isa`](crate::isa).
    ///
    /// ```
    /// use rlaif_torch::{MachineLimits, WorkOfProducts, tch::{Device, Kind, Tensor}};
    ///
    /// let limits = MachineLimits::measure(Kind::Float)?;
    /// assert!(limits.operations_per_s > 1e8 && limits.bytes_per_s > 1e7);
    /// let before = WorkOfProducts::so_far();
    /// let x = Tensor::zeros([16, 8], (Kind::Float, Device::Cpu));
    /// rlaif_torch::linear(&x, &Tensor::zeros([4, 8], (Kind::Float, Device::Cpu)), None);
    /// assert!(WorkOfProducts::so_far().since(before).operations >= 2 * 16 * 8 * 4);
    /// # Ok::<(), rlaif_torch::TorchError>(())
    /// ```
    pub fn measure(kind: Kind) -> Result<Self, TorchError> {
        let (mut operations_per_s, mut bytes_per_s) = (0., 0.);
        let number = ffi::Float::of(kind).ok_or_else(|| TorchError::Kind {
            operation: "measuring the machine's limits",
            message: format!("products of Float or BFloat16 are measured, not of {kind:?}"),
        })?;
        // SAFETY: both numbers outlive the call.
        let status = unsafe {
            ffi::rlaif_limits(number.into(), &raw mut operations_per_s, &raw mut bytes_per_s)
        };
        ffi::check("measuring the machine's limits", status)?;
        Ok(Self { operations_per_s, bytes_per_s })
    }
}

//! CUDA without linker flags, and devices by name.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Cuda, Device};

use crate::error::TorchError;
use crate::ffi;

/// State of libtorch's CUDA part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaLibraries {
    /// Loaded. [`tch::Cuda::is_available`] tells if there is a usable GPU.
    Loaded,
    /// This libtorch has no CUDA part.
    NotShipped,
    /// There is no NVIDIA driver, so the CUDA part was not loaded, which would take seconds.
    NoDriver,
}

/// Loads `libtorch_cuda`, which is next to `libtorch_cpu`, so that CUDA works without linker flags.
///
/// A linker drops a library whose symbols are not used, and libtorch finds its CUDA part only once
/// it is loaded. [`init`](crate::init) calls this function; a second call does nothing.
///
/// # Errors
/// [`TorchError::Libtorch`] if the library exists but cannot be loaded, or if libtorch was queried
/// about CUDA before: it remembers the answer.
///
/// ```
/// use rlaif_torch::CudaLibraries;
///
/// if rlaif_torch::load_cuda()? != CudaLibraries::Loaded {
///     assert!(!tch::Cuda::is_available());
/// }
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
pub fn load_cuda() -> Result<CudaLibraries, TorchError> {
    let mut outcome = 0;
    // SAFETY: `outcome` outlives the call.
    ffi::check("loading CUDA", unsafe { ffi::rlaif_cuda_load(&raw mut outcome) })?;
    Ok(match ffi::CudaLoad::try_from(outcome)? {
        ffi::CudaLoad::Loaded => CudaLibraries::Loaded,
        ffi::CudaLoad::NotShipped => CudaLibraries::NotShipped,
        ffi::CudaLoad::NoDriver => CudaLibraries::NoDriver,
    })
}

/// A device as a user names it: `cpu`, `cuda` (the first), `cuda:N`, or `auto`, which is the first
/// CUDA device if there is one, and otherwise the CPU.
///
/// ```
/// use rlaif_torch::DeviceChoice;
///
/// let choice: DeviceChoice = "cuda:1".parse()?;
/// assert_eq!(choice, DeviceChoice::Cuda(1));
/// assert_eq!("cpu".parse::<DeviceChoice>()?.resolve()?, tch::Device::Cpu);
/// assert!("gpu".parse::<DeviceChoice>().is_err());
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The CUDA device of [`prefer_cuda`], by default the first, if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index.
    Cuda(usize),
}

/// The device that [`DeviceChoice::Auto`] is.
static PREFERRED: AtomicUsize = AtomicUsize::new(0);

/// Makes `auto` this CUDA device in this process: each of several processes of a host has its own.
pub fn prefer_cuda(index: usize) {
    PREFERRED.store(index, Ordering::Relaxed);
}

impl DeviceChoice {
    /// The device itself.
    ///
    /// # Errors
    /// [`TorchError::NoDevice`] if it does not exist, with a list of those that do. Errors of
    /// [`load_cuda`], except for the CPU: a broken CUDA installation is not ignored.
    pub fn resolve(self) -> Result<Device, TorchError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => {
                load_cuda()?;
                let preferred = PREFERRED.load(Ordering::Relaxed);
                Ok(match i64::try_from(preferred) {
                    Ok(index) if index < Cuda::device_count() => Device::Cuda(preferred),
                    _ => Device::cuda_if_available(),
                })
            }
            Self::Cuda(index) => {
                load_cuda()?;
                match i64::try_from(index) {
                    Ok(i) if i < Cuda::device_count() => Ok(Device::Cuda(index)),
                    _ => Err(no_device(self.to_string())),
                }
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = TorchError;

    fn from_str(name: &str) -> Result<Self, TorchError> {
        let unknown = || TorchError::DeviceName { found: name.to_owned() };
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                // `parse` alone would accept "+1".
                let digits = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
                let index = digits.then(|| index.parse().ok()).flatten();
                index.map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

/// The error for a device that does not exist, with the existing ones.
pub(crate) fn no_device(wanted: String) -> TorchError {
    let count = Cuda::device_count();
    let available = match (count, load_cuda()) {
        (1.., _) => {
            let cuda: Vec<String> = (0..count).map(|i| format!("`cuda:{i}`")).collect();
            format!("`cpu` and {}", cuda.join(", "))
        }
        (_, Ok(CudaLibraries::NotShipped)) => "`cpu` only: this libtorch has no CUDA".to_owned(),
        (_, Ok(CudaLibraries::NoDriver)) => "`cpu` only: there is no NVIDIA driver".to_owned(),
        (_, Ok(CudaLibraries::Loaded)) => "`cpu` only: CUDA finds no GPU".to_owned(),
        (_, Err(error)) => format!("`cpu` only: {error}"),
    };
    TorchError::NoDevice { wanted, available }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:x"] {
            let error = name.parse::<DeviceChoice>().unwrap_err();
            assert!(matches!(&error, TorchError::DeviceName { found } if found == name), "{error}");
        }
    }
}

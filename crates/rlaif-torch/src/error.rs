//! Errors between Rust and libtorch.

use rlaif_core::{BadSetting, Fault};
use tch::TchError;

use crate::dist::error::DistError;

/// An error of libtorch, or of a call that would crash libtorch.
///
/// A [`TchError`] converts with `?`; running out of memory becomes [`TorchError::OutOfMemory`] in
/// any call.
///
/// ```
/// use rlaif_torch::TorchError;
/// use tch::{Device, Kind, Tensor};
///
/// let absurd = Tensor::f_empty([1 << 50], (Kind::Float, Device::Cpu)).map_err(TorchError::from);
/// match absurd {
///     Err(TorchError::OutOfMemory { requested, .. }) => assert_eq!(requested, Some(1 << 52)),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// A device or the host had too little memory.
    #[error("out of memory{}: {message}", wanted(*.requested))]
    OutOfMemory {
        /// Requested bytes, if libtorch states them. For CUDA, they are rounded to a hundredth of
        /// the unit.
        requested: Option<u64>,
        /// libtorch's message, without its C++ backtrace.
        message: String,
    },
    /// libtorch refused or failed.
    #[error("{operation}: {message}")]
    Libtorch {
        /// The operation.
        operation: &'static str,
        /// libtorch's message, without its C++ backtrace.
        message: String,
    },
    /// A tensor of a dtype that an operation does not support.
    #[error("{operation}: {message}")]
    Kind {
        /// The operation.
        operation: &'static str,
        /// The supported dtypes, and the tensor's.
        message: String,
    },
    /// An error of tch other than running out of memory.
    #[error("tch failed")]
    Tch {
        /// The error.
        #[source]
        source: TchError,
    },
    /// An invalid device name.
    #[error("`{found}` is not a device; expected `cpu`, `cuda`, `cuda:N` or `auto`")]
    DeviceName {
        /// The name as given.
        found: String,
    },
    /// A device that this process cannot use.
    #[error("device `{wanted}` is not available; there is {available}")]
    NoDevice {
        /// The requested device.
        wanted: String,
        /// The existing devices, and the reason if there is no CUDA.
        available: String,
    },
    /// A setting outside its range.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// Several processes that cannot begin or continue a run.
    #[error("{0}")]
    Dist(#[source] Box<DistError>),
    /// A tensor that an operation does not support.
    #[error("tensor `{name}`: expected {expected}, found {found}")]
    Tensor {
        /// The tensor's name, or the argument's.
        name: String,
        /// The requirement.
        expected: String,
        /// The tensor's property.
        found: String,
    },
    /// A saved state that does not fit its target. Nothing was changed.
    #[error(
        "saved state of {what} does not fit: missing {missing:?}, unexpected {unexpected:?}, of \
         another shape or dtype {mismatched:?}"
    )]
    State {
        /// The target.
        what: &'static str,
        /// Tensors that are needed but do not exist.
        missing: Vec<String>,
        /// Tensors that exist but are not needed.
        unexpected: Vec<String>,
        /// Tensors with another shape or dtype: name, expected and found.
        mismatched: Vec<String>,
    },
}

impl TorchError {
    /// Classifies a message of libtorch.
    pub(crate) fn from_libtorch(operation: &'static str, message: String) -> Self {
        let message = without_backtrace(message);
        match out_of_memory(&message) {
            Some(requested) => Self::OutOfMemory { requested, message },
            None => Self::Libtorch { operation, message },
        }
    }
}

impl From<DistError> for TorchError {
    fn from(source: DistError) -> Self {
        Self::Dist(Box::new(source))
    }
}

impl From<TchError> for TorchError {
    fn from(source: TchError) -> Self {
        if let TchError::Torch(message) = &source
            && let Some(requested) = out_of_memory(message)
        {
            return Self::OutOfMemory { requested, message: without_backtrace(message.clone()) };
        }
        Self::Tch { source }
    }
}

impl Fault for TorchError {
    fn is_users(&self) -> bool {
        match self {
            Self::DeviceName { .. } | Self::NoDevice { .. } => true,
            Self::Setting(error) => error.is_users(),
            Self::Dist(error) => error.is_users(),
            Self::OutOfMemory { .. }
            | Self::Libtorch { .. }
            | Self::Kind { .. }
            | Self::Tch { .. }
            | Self::Tensor { .. }
            | Self::State { .. } => false,
        }
    }
}

fn wanted(requested: Option<u64>) -> String {
    requested.map_or_else(String::new, |bytes| format!(" asking for {bytes} bytes"))
}

/// libtorch appends the place of the exception, and often a stack of C++ frames.
fn without_backtrace(mut message: String) -> String {
    for start in ["\nException raised from", "\nframe #0:"] {
        if let Some(at) = message.find(start) {
            message.truncate(at);
        }
    }
    message.truncate(message.trim_end().len());
    message
}

/// If the message comes from an allocator: the bytes that it states.
fn out_of_memory(message: &str) -> Option<Option<u64>> {
    const CPU: &str = "DefaultCPUAllocator: can't allocate memory: you tried to allocate ";
    const CUDA: &str = "CUDA out of memory. Tried to allocate ";
    if let Some((_, rest)) = message.split_once(CPU) {
        return Some(rest.split(' ').next().and_then(|bytes| bytes.parse().ok()));
    }
    if let Some((_, rest)) = message.split_once(CUDA) {
        return Some(bytes_with_unit(rest));
    }
    // The messages of the CUDA driver, of cuBLAS and of the C++ allocator.
    let unnamed = ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc"];
    unnamed.iter().any(|words| message.contains(words)).then_some(None)
}

/// "20.00 MiB. GPU 0 has ..." in bytes.
fn bytes_with_unit(text: &str) -> Option<u64> {
    let mut words = text.split(' ');
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()?.trim_end_matches('.') {
        "bytes" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn an_absurd_allocation_names_its_bytes() {
        let error = Tensor::f_empty([1 << 48], (Kind::Double, Device::Cpu)).unwrap_err();
        let error = TorchError::from(error);
        let TorchError::OutOfMemory { requested, message } = &error else { panic!("{error:?}") };
        assert_eq!(*requested, Some(8 << 48));
        assert!(!message.contains("frame #"), "{message}");
        assert!(error.to_string().contains("asking for 2251799813685248 bytes"), "{error}");
    }

    #[test]
    fn cuda_messages_are_read() {
        // Taken from libtorch 2.11's CUDACachingAllocator.cpp.
        let said = "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of \
                    79.10 GiB of which 1.00 GiB is free.\nException raised from malloc at x.cpp:1";
        let TorchError::OutOfMemory { requested, message } =
            TorchError::from_libtorch("test", said.to_owned())
        else {
            panic!()
        };
        assert_eq!(requested, Some(3 << 29));
        assert!(message.ends_with("is free."), "{message}");
        let whole = "CUDA out of memory. Tried to allocate more than 1EB memory.";
        assert_eq!(out_of_memory(whole), Some(None));
        assert_eq!(out_of_memory("CUDA error: out of memory"), Some(None));
    }

    #[test]
    fn other_errors_stay_what_they_are() {
        let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let error = TorchError::from(a.f_matmul(&a).unwrap_err());
        assert!(matches!(error, TorchError::Tch { .. }), "{error:?}");
        let error = TorchError::from_libtorch("norm", "shapes differ\n".to_owned());
        assert_eq!(error.to_string(), "norm: shapes differ");
    }
}

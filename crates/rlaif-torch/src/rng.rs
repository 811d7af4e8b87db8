//! The state of libtorch's random number generators.

use std::collections::BTreeMap;
use std::ptr;

use tch::{Cuda, Device, Tensor};

use crate::error::TorchError;
use crate::ffi;

/// The CPU's index in `cpp/rng.hpp`.
const CPU: i32 = -1;

/// The state of the default generators: that of the CPU, and that of each CUDA device.
///
/// ```
/// use rlaif_torch::RngState;
/// use tch::{Device, Kind, Tensor};
///
/// let state = RngState::save()?;
/// let first = Tensor::rand([3], (Kind::Float, Device::Cpu));
/// state.restore()?;
/// assert_eq!(Tensor::rand([3], (Kind::Float, Device::Cpu)), first);
/// # Ok::<(), rlaif_torch::TorchError>(())
/// ```
#[derive(Debug)]
pub struct RngState {
    /// Keyed as in C++; opaque bytes, on the CPU.
    generators: BTreeMap<i32, Tensor>,
}

impl RngState {
    /// Reads all default generators.
    ///
    /// # Errors
    /// [`TorchError::Libtorch`] if libtorch refuses.
    pub fn save() -> Result<Self, TorchError> {
        let devices = (0..cuda_count()).map(Device::Cuda);
        Self::save_for([Device::Cpu].into_iter().chain(devices))
    }

    /// Reads the generators of some devices; devices without a generator are skipped.
    pub(crate) fn save_for(devices: impl IntoIterator<Item = Device>) -> Result<Self, TorchError> {
        let mut generators = BTreeMap::new();
        for device in devices {
            let index = match device {
                Device::Cpu => CPU,
                Device::Cuda(index) => cuda_index(index)?,
                _ => continue,
            };
            if let std::collections::btree_map::Entry::Vacant(entry) = generators.entry(index) {
                let mut state = ptr::null_mut();
                // SAFETY: `state` outlives the call.
                let status = unsafe { ffi::rlaif_rng_state(index, &raw mut state) };
                ffi::check("reading a generator's state", status)?;
                // SAFETY: the call succeeded, so it handed over a tensor.
                entry.insert(unsafe { ffi::take(state) });
            }
        }
        Ok(Self { generators })
    }

    /// Restores the generators. Generators that were not saved are not changed.
    ///
    /// # Errors
    /// [`TorchError::NoDevice`] if the state includes a CUDA device that this process does not
    /// have, [`TorchError::Libtorch`] if libtorch refuses the bytes.
    pub fn restore(&self) -> Result<(), TorchError> {
        for index in self.generators.keys() {
            if let Ok(device) = usize::try_from(*index)
                && device >= cuda_count()
            {
                let wanted = format!("cuda:{device}");
                return Err(crate::device::no_device(wanted));
            }
        }
        for (index, state) in &self.generators {
            // SAFETY: the tensor is alive; libtorch checks its size and kind.
            let status = unsafe { ffi::rlaif_rng_set_state(*index, state.as_ptr()) };
            ffi::check("restoring a generator's state", status)?;
        }
        Ok(())
    }

    /// The state as named byte tensors, for a checkpoint: `cpu`, and `cuda:N` for each device.
    #[must_use]
    pub fn to_named(&self) -> Vec<(String, Tensor)> {
        let name = |index: i32| match index {
            CPU => "cpu".to_owned(),
            n => format!("cuda:{n}"),
        };
        self.generators.iter().map(|(i, state)| (name(*i), state.shallow_clone())).collect()
    }

    /// The state from the result of [`to_named`](RngState::to_named).
    ///
    /// # Errors
    /// [`TorchError::State`] if a name is not that of a generator, or the CPU's is missing.
    pub fn from_named(named: &[(String, Tensor)]) -> Result<Self, TorchError> {
        let mut generators = BTreeMap::new();
        let mut unexpected = Vec::new();
        for (name, state) in named {
            let index = match name.strip_prefix("cuda:") {
                None if name == "cpu" => Some(CPU),
                None => None,
                Some(n) => n.parse().ok().filter(|n: &i32| *n >= 0),
            };
            match index {
                Some(index) => drop(generators.insert(index, state.shallow_clone())),
                None => unexpected.push(name.clone()),
            }
        }
        let missing: Vec<String> = match generators.contains_key(&CPU) {
            true => Vec::new(),
            false => vec!["cpu".to_owned()],
        };
        if missing.is_empty() && unexpected.is_empty() {
            return Ok(Self { generators });
        }
        Err(TorchError::State { what: "the generators", missing, unexpected, mismatched: vec![] })
    }

    /// Index and state of each generator, as C++ needs them.
    pub(crate) fn parts(&self) -> (Vec<i32>, Vec<&Tensor>) {
        self.generators.iter().map(|(index, state)| (*index, state)).unzip()
    }
}

/// Runs `f` with libtorch's default generators seeded, and restores them afterwards.
///
/// The draws of `f`, such as the weights of new layers, then depend on `seed` alone, and later
/// draws do not depend on `f`. The generators are restored even after a panic of `f`. They belong
/// to the process: other threads must not draw from them meanwhile.
///
/// # Errors
/// [`TorchError::Libtorch`] if libtorch refuses to read or to restore a generator.
///
/// ```
/// use rlaif_torch::{TorchError, seeded};
/// use tch::{Device, Kind, Tensor};
///
/// let weights = || Tensor::randn([2, 3], (Kind::Float, Device::Cpu));
/// assert_eq!(seeded(7, weights)?, seeded(7, weights)?);
/// assert_ne!(seeded(7, weights)?, seeded(8, weights)?);
/// # Ok::<(), TorchError>(())
/// ```
pub fn seeded<T>(seed: i64, f: impl FnOnce() -> T) -> Result<T, TorchError> {
    let before = PutBack(Some(RngState::save()?));
    tch::manual_seed(seed);
    let result = f();
    before.now()?;
    Ok(result)
}

/// A state that is restored when dropped, also by a panic.
struct PutBack(Option<RngState>);

impl PutBack {
    fn now(mut self) -> Result<(), TorchError> {
        self.0.take().map_or(Ok(()), |state| state.restore())
    }
}

impl Drop for PutBack {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            // Only while unwinding, where an error cannot be returned.
            let _ = state.restore();
        }
    }
}

fn cuda_count() -> usize {
    usize::try_from(Cuda::device_count()).unwrap_or(0)
}

fn cuda_index(index: usize) -> Result<i32, TorchError> {
    i32::try_from(index).map_err(|_| crate::device::no_device(format!("cuda:{index}")))
}

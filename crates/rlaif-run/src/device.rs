//! The device of commands that run a model only if a judge or a reward is one.

use rlaif_torch::{DeviceChoice, TorchError};
use tch::Device;

/// The default.
pub(crate) fn cpu() -> String {
    "cpu".to_owned()
}

/// The device of this name.
pub(crate) fn device(name: &str) -> Result<Device, TorchError> {
    name.parse::<DeviceChoice>().and_then(DeviceChoice::resolve)
}

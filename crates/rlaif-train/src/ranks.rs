//! Checks that the ranks of a run train the same weights.

use rlaif_lm::Parameters;
use rlaif_torch::{TorchError, dist::World, with_bytes};
use tch::{Device, Tensor};
use twox_hash::XxHash3_128;

use crate::error::TrainError;

/// Refuses ranks whose weights differ, before the first step or after one.
///
/// # Errors
/// [`TrainError::Torch`] names the first rank that differs from rank 0.
pub fn same_weights(world: &World, parameters: &Parameters) -> Result<(), TrainError> {
    if world.is_alone() {
        return Ok(());
    }
    let mut hash = XxHash3_128::new();
    for (name, tensor) in parameters.iter() {
        hash.write(format!("{name} {:?} {:?}", tensor.kind(), tensor.size()).as_bytes());
        hash_values(&mut hash, tensor)?;
    }
    let digest = format!("digest {:032x}", hash.finish_128());
    let remedy = "give all ranks the same model files, of the same revision";
    Ok(world.same("the model", &digest, remedy)?)
}

fn hash_values(hash: &mut XxHash3_128, tensor: &Tensor) -> Result<(), TorchError> {
    let _guard = tch::no_grad_guard();
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    with_bytes(&tensor, |bytes| hash.write(bytes))
}

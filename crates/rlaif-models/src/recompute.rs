//! Gradient checkpointing: layers whose inner activations are computed again in the backward pass.

use rlaif_lm::LmError;
use tch::Tensor;

/// A value whose tensors can be held a second time, without a copy of their memory.
pub(crate) trait Shallow {
    /// Another handle on the same tensors.
    fn handle(&self) -> Self;
}

impl Shallow for Tensor {
    fn handle(&self) -> Self {
        self.shallow_clone()
    }
}

impl<T: Shallow> Shallow for Option<T> {
    fn handle(&self) -> Self {
        self.as_ref().map(T::handle)
    }
}

impl<A: Shallow, B: Shallow> Shallow for (A, B) {
    fn handle(&self) -> Self {
        (self.0.handle(), self.1.handle())
    }
}

/// `forward` of the layer and these inputs. Only the inputs are kept for the backward pass, which
/// runs `forward` again on a handle of the layer.
pub(crate) fn recompute<L: Shallow + Send + 'static>(
    layer: &L,
    inputs: &[&Tensor],
    forward: impl Fn(&L, &[Tensor]) -> Tensor + Send + 'static,
) -> Result<Tensor, LmError> {
    let layer = layer.handle();
    rlaif_torch::checkpoint(inputs, move |inputs: &[Tensor]| Ok(forward(&layer, inputs)))
}

/// The same for several results.
pub(crate) fn recompute_many<L: Shallow + Send + 'static>(
    layer: &L,
    inputs: &[&Tensor],
    forward: impl Fn(&L, &[Tensor]) -> Vec<Tensor> + Send + 'static,
) -> Result<Vec<Tensor>, LmError> {
    let layer = layer.handle();
    rlaif_torch::checkpoint_many(inputs, move |inputs: &[Tensor]| Ok(forward(&layer, inputs)))
}

//! A value function with a separate trunk.

use rlaif_lm::{Forward, LmError, Parameters, Policy, TokenBatch, ValueFunction, ValueHead};
use tch::Tensor;

/// A value head on a separate trunk. It needs more memory and time than a head on the policy's
/// trunk, but the value loss cannot affect the policy.
///
/// Its parameters are called `v_head.…` for the head and `value.…` for the trunk.
#[derive(Debug)]
pub struct ValueModel<P> {
    trunk: P,
    head: ValueHead,
    parameters: Parameters,
}

impl<P: Policy> ValueModel<P> {
    /// A value head on `trunk`, whose vocabulary head goes unused. What is trained of the trunk is
    /// what requires a gradient.
    ///
    /// To start from a reward model, load its trunk as `trunk` and its score layer `[1, H]` with
    /// [`ValueHead::from_tensors`].
    ///
    /// # Panics
    /// If the head does not have the width of the trunk's hidden states.
    pub fn new(trunk: P, head: ValueHead) -> Self {
        let (own, other) = (trunk.spec().hidden_size, head.hidden_size());
        assert_eq!(other, Some(own), "a value head reads the hidden states of its trunk");
        let mut parameters = Parameters::new();
        for (name, tensor) in trunk.parameters().iter() {
            // Without a gradient for ever: the optimizer need not carry it.
            if !trunk.parameters().is_of_vocab_head(name) {
                parameters.insert(format!("value.{name}"), tensor.shallow_clone());
            }
        }
        for (name, tensor) in head.parameters().iter() {
            parameters.insert(name, tensor.shallow_clone());
        }
        Self { trunk, head, parameters }
    }

    /// The trunk.
    pub fn trunk(&self) -> &P {
        &self.trunk
    }
}

impl<P: Policy> ValueFunction for ValueModel<P> {
    fn values(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        _hidden: &Tensor,
    ) -> Result<Tensor, LmError> {
        Ok(self.head.forward(&self.trunk.response_hidden(
            prompts,
            responses,
            Forward::default(),
        )?))
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

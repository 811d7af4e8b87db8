//! Policies that hold another policy.

use tch::Tensor;

use crate::{
    batch::TokenBatch,
    cache::{DecodeState, Room},
    error::LmError,
    forward::Forward,
    head::VocabHead,
    params::Parameters,
    policy::Policy,
    spec::LmSpec,
};

/// A type that holds a policy and is one by it: every method of [`Policy`] goes to the one within.
///
/// ```
/// use rlaif_lm::{AsPolicy, Policy};
///
/// struct Named {
///     name: String,
///     policy: Box<dyn Policy>,
/// }
///
/// impl AsPolicy for Named {
///     fn as_policy(&self) -> &dyn Policy {
///         &*self.policy
///     }
/// }
///
/// fn described(policy: &Named) -> String {
///     format!("{} of hidden size {}", policy.name, policy.spec().hidden_size)
/// }
/// ```
pub trait AsPolicy: Send {
    /// The policy within.
    fn as_policy(&self) -> &dyn Policy;
}

impl<T: AsPolicy> Policy for T {
    fn spec(&self) -> &LmSpec {
        self.as_policy().spec()
    }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.as_policy().response_hidden(prompts, responses, forward)
    }

    fn branch_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.as_policy().branch_hidden(prompts, responses, forward)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        self.as_policy().head(forward)
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        self.as_policy().open(room)
    }

    fn enter(
        &self,
        state: &mut DecodeState,
        prompts: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<Vec<u32>, LmError> {
        self.as_policy().enter(state, prompts, forward)
    }

    fn step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        self.as_policy().step(state, tokens, forward)
    }

    fn parameters(&self) -> &Parameters {
        self.as_policy().parameters()
    }
}

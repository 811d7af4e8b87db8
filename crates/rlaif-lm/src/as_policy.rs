//! Policies that hold another policy.

use crate::{policy::Policy, policy_by};

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
    policy_by! {
        as_policy(): spec response_hidden branch_hidden head open enter step parameters
    }
}

/// Writes methods of [`Policy`] by their names, as calls to a policy in a field, in the `impl` of a policy
/// around it that has the other methods.
///
/// ```
/// use rlaif_lm::{DecodeState, Forward, LmError, Policy, TokenBatch, policy_by};
///
/// /// Counts prompts.
/// struct Counting {
///     policy: Box<dyn Policy>,
///     prompts: std::cell::Cell<usize>,
/// }
///
/// impl Policy for Counting {
///     policy_by! { policy: spec response_hidden branch_hidden head open step parameters }
///
///     fn enter(
///         &self,
///         state: &mut DecodeState,
///         prompts: &TokenBatch,
///         forward: Forward<'_>,
///     ) -> Result<Vec<u32>, LmError> {
///         self.prompts.set(self.prompts.get() + prompts.len());
///         self.policy.enter(state, prompts, forward)
///     }
/// }
/// ```
#[macro_export]
macro_rules! policy_by {
    ($field:tt: $($method:ident)+) => { $($crate::policy_by! { @$method [$field] })+ };
    ($field:ident(): $($method:ident)+) => { $($crate::policy_by! { @$method [$field()] })+ };
    (@spec [$($of:tt)+]) => {
        fn spec(&self) -> &$crate::LmSpec {
            self.$($of)+.spec()
        }
    };
    (@response_hidden [$($of:tt)+]) => {
        fn response_hidden(
            &self,
            prompts: &$crate::TokenBatch,
            responses: &$crate::TokenBatch,
            forward: $crate::Forward<'_>,
        ) -> Result<$crate::tch::Tensor, $crate::LmError> {
            self.$($of)+.response_hidden(prompts, responses, forward)
        }
    };
    (@branch_hidden [$($of:tt)+]) => {
        fn branch_hidden(
            &self,
            prompts: &$crate::TokenBatch,
            responses: &$crate::TokenBatch,
            forward: $crate::Forward<'_>,
        ) -> Result<$crate::tch::Tensor, $crate::LmError> {
            self.$($of)+.branch_hidden(prompts, responses, forward)
        }
    };
    (@head [$($of:tt)+]) => {
        fn head(&self, forward: $crate::Forward<'_>) -> Result<$crate::VocabHead, $crate::LmError> {
            self.$($of)+.head(forward)
        }
    };
    (@open [$($of:tt)+]) => {
        fn open(&self, room: $crate::Room) -> Result<$crate::DecodeState, $crate::LmError> {
            self.$($of)+.open(room)
        }
    };
    (@enter [$($of:tt)+]) => {
        fn enter(
            &self,
            state: &mut $crate::DecodeState,
            prompts: &$crate::TokenBatch,
            forward: $crate::Forward<'_>,
        ) -> Result<Vec<u32>, $crate::LmError> {
            self.$($of)+.enter(state, prompts, forward)
        }
    };
    (@step [$($of:tt)+]) => {
        fn step(
            &self,
            state: &mut $crate::DecodeState,
            tokens: &$crate::tch::Tensor,
            forward: $crate::Forward<'_>,
        ) -> Result<$crate::tch::Tensor, $crate::LmError> {
            self.$($of)+.step(state, tokens, forward)
        }
    };
    (@parameters [$($of:tt)+]) => {
        fn parameters(&self) -> &$crate::Parameters {
            self.$($of)+.parameters()
        }
    };
}

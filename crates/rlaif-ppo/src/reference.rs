//! What the KL penalty is measured against.

use rlaif_lm::{Adapters, Forward, Parameters, Policy};

/// The reference policy π_ref: where training started, frozen.
pub enum Reference {
    /// A model of its own, which is never trained: any that shares the policy's vocabulary. Usually
    /// a second copy of the policy; [`share_frozen`] lets it hold the frozen layers only once.
    Frozen(Box<dyn Policy>),
    /// The policy without its adapters, which alone are trained ([`rlaif_lm::is_adapter`] knows them
    /// by name): no second copy of anything.
    AdaptersOff,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frozen(policy) => {
                f.debug_tuple("Frozen").field(&policy.spec().model_type).finish()
            }
            Self::AdaptersOff => f.write_str("AdaptersOff"),
        }
    }
}

impl Reference {
    /// The model to run, and how.
    pub(crate) fn resolve<'a>(&'a self, policy: &'a dyn Policy) -> (&'a dyn Policy, Forward<'a>) {
        match self {
            Self::Frozen(reference) => (&**reference, Forward::default()),
            Self::AdaptersOff => {
                (policy, Forward { adapters: Adapters::Off, ..Forward::default() })
            }
        }
    }
}

/// Lets the reference use the policy's memory for every parameter that the policy does not train:
/// the shared lower layers of TRL's `create_reference_model(num_shared_layers)`. Freeze them first
/// ([`Parameters::train_where`]). Returns the bytes that are no longer held twice.
///
/// Only parameters that hold the same numbers are shared, so the reference stays what it was.
///
/// ```
/// use rlaif_lm::Parameters;
/// use tch::{Device, Kind, Tensor};
/// let [policy, mut reference] = [1., 2.].map(|head| {
///     let mut parameters = Parameters::new();
///     parameters.insert("layers.0.weight", Tensor::ones([4], (Kind::Float, Device::Cpu)));
///     parameters.insert("head.weight", Tensor::full([4], head, (Kind::Float, Device::Cpu)));
///     parameters
/// });
/// policy.train_where(|name| name.starts_with("head"));
/// assert_eq!(rlaif_ppo::share_frozen(&policy, &mut reference), 16);
/// ```
pub fn share_frozen(policy: &Parameters, reference: &Parameters) -> usize {
    policy.share_frozen(reference)
}

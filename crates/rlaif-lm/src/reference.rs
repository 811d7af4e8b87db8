//! The frozen model that a policy is compared with.

use rlaif_core::BadSetting;

use crate::{
    forward::{Adapters, Forward},
    policy::Policy,
};

/// The reference policy π_ref: the frozen policy from before training.
pub enum Reference {
    /// A separate model, which is never trained, with the policy's vocabulary. Usually this is a
    /// second copy of the policy; [`crate::Parameters::share_frozen`] makes the copy share the
    /// memory of frozen layers.
    Frozen(Box<dyn Policy>),
    /// The policy without its adapters, if only they are trained ([`crate::is_adapter`] recognises
    /// them by name). This needs no second copy.
    AdaptersOff,
    /// No model: every row has the reference's log-probabilities, or the loss needs none.
    Given,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frozen(policy) => {
                f.debug_tuple("Frozen").field(&policy.spec().model_type).finish()
            }
            Self::AdaptersOff => f.write_str("AdaptersOff"),
            Self::Given => f.write_str("Given"),
        }
    }
}

impl Reference {
    /// A separate model as the reference.
    pub fn frozen(model: impl Policy + 'static) -> Self {
        Self::Frozen(Box::new(model))
    }

    /// Freezes a reference that is a separate model, and checks that it is comparable with the
    /// policy.
    ///
    /// # Errors
    /// [`BadSetting`] of the field `reference` for another vocabulary, or for `AdaptersOff` with a
    /// policy in which more than adapters is trained.
    pub fn freeze(&self, policy: &dyn Policy) -> Result<(), BadSetting> {
        match self {
            Self::Frozen(model) => {
                let (expected, found) = (policy.spec().vocab_size, model.spec().vocab_size);
                if expected != found {
                    let found = format!("a model with a vocabulary of {found}");
                    let expected = format!("one with the policy's vocabulary of {expected}");
                    return Err(BadSetting::new("reference", found, expected));
                }
                model.parameters().train_where(|_| false);
            }
            Self::AdaptersOff => {
                if let Some(trained) = policy.parameters().trained_base() {
                    let found =
                        format!("the policy without adapters, and `{trained}` of it is trained");
                    let expected =
                        "a frozen copy, or a policy of which an adapter alone is trained";
                    return Err(BadSetting::new("reference", found, expected));
                }
            }
            Self::Given => {}
        }
        Ok(())
    }

    /// The model to run and how, where `policy` is the one being trained; `None` if there is none
    /// to run.
    pub fn resolve<'a>(
        &'a self,
        policy: &'a dyn Policy,
    ) -> Option<(&'a dyn Policy, Forward<'static>)> {
        match self {
            Self::Frozen(model) => Some((&**model, Forward::default())),
            Self::AdaptersOff => {
                Some((policy, Forward { adapters: Adapters::Off, ..Forward::default() }))
            }
            Self::Given => None,
        }
    }
}

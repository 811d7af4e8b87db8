//! Asynchronous rollouts: the responses of the next step, sampled by a copy of the policy beside the update.

use std::mem::take;

use rlaif_core::{BadSetting, Interrupted, RewardModel};
use rlaif_lm::{Parameters, Policy};
use rlaif_rl::{RlError, Stats};
use rlaif_torch::TorchError;

use crate::collect::Collected;

/// Responses that were sampled ahead, and the copy of the policy that samples them.
#[derive(Default)]
pub(crate) struct Ahead {
    pub(crate) copy: Option<Box<dyn Policy>>,
    pub(crate) prepared: Prepared,
    /// An error of sampling or scoring beside the last update. The update was made, so the error is that of the next step.
    pub(crate) failed: Option<RlError>,
    /// The prompts of the step after this one, in [`rlaif_train::drive`].
    pub(crate) announced: Option<Vec<usize>>,
}

/// The responses of the step that comes.
#[derive(Debug, Default)]
pub(crate) enum Prepared {
    /// None: the step samples them by its own weights.
    #[default]
    Nothing,
    Sampled(Collected),
    /// Sampling or scoring them was interrupted, or failed. The step samples them by the copy, whose weights are those before
    /// the last update.
    Owed,
}

impl Ahead {
    /// The copy with the current weights of the policy.
    ///
    /// # Errors
    /// [`BadSetting`] without a copy.
    pub(crate) fn refreshed(&self, policy: &Parameters) -> Result<&dyn Policy, RlError> {
        let copy = self.copy()?;
        for (name, own) in policy.trainable() {
            let Some(other) = copy.parameters().get(&name) else { continue };
            other.shallow_clone().f_copy_(&own.detach()).map_err(TorchError::from)?;
        }
        Ok(copy)
    }

    /// Keeps the responses of the next step, or the error that prevented them.
    pub(crate) fn keep(&mut self, collected: Result<Collected, RlError>) {
        self.prepared = match collected {
            Ok(collected) => Prepared::Sampled(collected),
            Err(error) => {
                self.failed = (!Interrupted::ended(&error)).then_some(error);
                Prepared::Owed
            }
        };
    }

    /// Adds the seconds of responses that were sampled ahead, and of waiting for them after the update.
    pub(crate) fn measure(&mut self, stats: &mut Stats, waited: f64) {
        let Prepared::Sampled(collected) = &mut self.prepared else { return };
        // The seconds belong to the step before, not to the one that trains on the responses.
        for (phase, seconds) in take(&mut collected.seconds) {
            stats.push(format!("time/ahead/{phase}"), seconds);
        }
        stats.push("time/ahead/waited", waited.max(0.));
    }

    /// The copy as it is.
    ///
    /// # Errors
    /// [`BadSetting`] without a copy.
    pub(crate) fn copy(&self) -> Result<&dyn Policy, RlError> {
        self.copy.as_deref().ok_or_else(|| {
            let expected = "`synchronous`, or a trainer with a second model of the policy's weights \
                            (`ReinforceTrainer::sampling_copy`)";
            BadSetting::new("rollouts", "asynchronous", expected).into()
        })
    }
}

/// Does work of the next step, of which the reward remembers nothing if it fails.
pub(crate) fn undone<T>(
    reward: &dyn RewardModel,
    work: impl FnOnce() -> Result<T, RlError>,
) -> Result<T, RlError> {
    let before = reward.state();
    work().or_else(|error| {
        reward.restore(&before)?;
        Err(error)
    })
}

/// Makes a model a copy of the policy: it shares the memory of frozen weights, and has its own of others.
///
/// # Errors
/// [`BadSetting`] names the first weights that differ in name or shape.
pub(crate) fn make_copy(policy: &Parameters, copy: &Parameters) -> Result<(), RlError> {
    let refused = |found: String| {
        let expected = "a model with the weights of the policy";
        BadSetting::new("sampling_copy", found, expected)
    };
    copy.train_where(|_| false);
    let mut others = copy.iter().map(|(name, _)| name);
    if let Some(name) = others.find(|name| policy.get(name).is_none()) {
        return Err(refused(format!("a model with `{name}`, which the policy lacks")).into());
    }
    policy.share_frozen(copy);
    let _guard = tch::no_grad_guard();
    for (name, own) in policy.iter() {
        // The same numbers by the same method; their tensors have no memory.
        if policy.quantized().any(|quantized| quantized == name) {
            continue;
        }
        let other = copy.get(name).ok_or_else(|| refused(format!("a model without `{name}`")))?;
        if own.size() != other.size() || own.kind() != other.kind() {
            let found = format!("a model whose `{name}` is {:?} {:?}", other.kind(), other.size());
            return Err(refused(found).into());
        }
        if own.data_ptr() != other.data_ptr() {
            other.shallow_clone().f_copy_(own).map_err(TorchError::from)?;
        }
    }
    Ok(())
}

//! The trained policy: its parameters, and its place in a checkpoint.

use rlaif_core::BadSetting;
use rlaif_lm::{Policy, Reference, generate::RolloutConcern};
use rlaif_torch::dist::World;
use rlaif_train::{
    CheckpointFiles, Optimizer, OptimizerProgress, Saved, TrainError, restore_parameters,
    same_weights,
};
use tch::Tensor;

use crate::error::RlError;

/// The parameters of a policy that require a gradient.
///
/// # Errors
/// [`RlError::Setting`] names `policy` if there are none.
pub fn trained_parameters(policy: &dyn Policy) -> Result<Vec<(String, Tensor)>, RlError> {
    let trained = policy.parameters().trainable();
    if trained.is_empty() {
        let expected = "parameters that are trained: set `requires_grad`, or add an adapter";
        return Err(BadSetting::new("policy", "frozen as a whole", expected).into());
    }
    Ok(trained)
}

/// Warnings about generation settings as sentences.
pub fn rollout_messages(concerns: &[RolloutConcern]) -> Vec<String> {
    let message = |concern: &RolloutConcern| format!("rollout: `{}` {concern}", concern.setting());
    concerns.iter().map(message).collect()
}

/// Joins the other ranks: checks that the policy and a frozen reference have the same weights in all of them, and
/// shares the gradients.
///
/// # Errors
/// [`TrainError`] for other weights, or a rank that is gone.
pub fn join_ranks(
    world: &World,
    policy: &dyn Policy,
    reference: &Reference,
    optimizer: &mut Optimizer,
) -> Result<(), TrainError> {
    same_weights(world, policy.parameters())?;
    if let Reference::Frozen(model) = reference {
        same_weights(world, model.parameters())?;
    }
    optimizer.join(world);
    Ok(())
}

/// Writes the trained parameters of a policy and the state of their optimizer to a checkpoint.
///
/// # Errors
/// [`TrainError`] if a file cannot be written.
pub fn save_policy(
    files: &mut CheckpointFiles,
    policy: &dyn Policy,
    optimizer: &Optimizer,
) -> Result<(), TrainError> {
    files.tensors("policy", &policy.parameters().trainable())?;
    files.tensors("optimizer", &optimizer.state())
}

/// Restores what [`save_policy`] wrote, and the progress of the optimizer, which the trainer's own
/// state holds.
///
/// # Errors
/// [`RlError::Train`] if a file is missing or its tensors do not fit.
pub fn restore_policy(
    saved: &Saved,
    policy: &dyn Policy,
    optimizer: &mut Optimizer,
    progress: OptimizerProgress,
) -> Result<(), RlError> {
    let own = policy.parameters().trainable();
    restore_parameters(&own, &saved.tensors("policy")?, "the policy")?;
    Ok(optimizer.restore(&saved.tensors("optimizer")?, progress)?)
}

//! The trained policy: its parameters, and its place in a checkpoint.

use rlaif_core::BadSetting;
use rlaif_lm::{Policy, generate::RolloutConcern};
use rlaif_train::{
    CheckpointFiles, Optimizer, OptimizerProgress, Saved, TrainError, restore_parameters,
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

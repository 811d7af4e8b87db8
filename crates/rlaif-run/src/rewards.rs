//! Rewards as run files describe them.

use std::path::Path;

use rlaif_core::RewardModel;
use rlaif_models::{ModelFiles, ModelNames};
use rlaif_rewards::{ProviderError, RewardConfig, Surroundings};
use tch::Device;

use crate::fetch::model_files;

/// The reward that a run file's `[reward]` table, or a file of its own, describes: rules, sums of
/// others, classifiers, judges, reward servers. `docs/rewards.md` has every key.
///
/// Models are folders or hub ids, and run on `device` unless their table has another one; rewards
/// of the same weights share them. Caches are relative to `folder`, keys come from the environment.
///
/// # Errors
/// [`ProviderError`] of a reward that cannot be built: an unavailable model, a label that does not
/// exist, a key that is not set.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::RewardConfig;
/// let config = RewardConfig::from_toml("kind = 'length'\nlongest = 2\nper = 1.0", "run.toml")?;
/// let reward = rlaif_run::rewards_from_config(&config, std::path::Path::new(""), tch::Device::Cpu)?;
/// let scores = reward.score(&[Exchange::new("Greet me.", "Good morning to you!")])?;
/// assert_eq!(scores.total[0].unwrap().get(), -2.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rewards_from_config(
    config: &RewardConfig,
    folder: &Path,
    device: Device,
) -> Result<Box<dyn RewardModel>, ProviderError> {
    surroundings(folder, device, |around| config.build(around))
}

/// Does something with what configured rewards and judges need besides their configurations: caches
/// relative to `folder`, models of this disk and the hub on `device`, keys of the environment.
pub(crate) fn surroundings<T>(
    folder: &Path,
    device: Device,
    make: impl FnOnce(&Surroundings<'_>) -> T,
) -> T {
    let models = models();
    make(&Surroundings::of_folder(folder).models(&models).device(device))
}

/// Finds models on this disk and on the hub.
fn models() -> impl Fn(&ModelNames<'_>) -> Result<ModelFiles, ProviderError> {
    |names: &ModelNames<'_>| {
        model_files(names).map_err(|error| ProviderError::model_folder(names.model, error))
    }
}

//! Rewards as run files describe them.

use std::path::{Path, PathBuf};

use rlaif_core::{RewardModel, TextOrMessages, Unread};
use rlaif_models::{ModelFiles, ModelNames};
use rlaif_rewards::{ProviderError, RewardConfig, RewardInput, Surroundings};
use tch::Device;

use crate::{fetch::model_files, journal::UNORDERED};

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
    surroundings(folder, device, None, |around| config.build(around))
}

/// The same reward for [`score_into`](crate::score_into) and the file `out`, where an interruption
/// loses no verdict that a `normalised` part waits for.
///
/// # Errors
/// As [`rewards_from_config`].
pub fn rewards_for_file(
    config: &RewardConfig,
    folder: &Path,
    device: Device,
    out: &Path,
) -> Result<Box<dyn RewardModel>, ProviderError> {
    rewards_beside(config, folder, device, Some(&rlaif_files::sibling(out, UNORDERED)))
}

/// The same reward, with the verdicts of normalised parts kept beside a journal.
pub(crate) fn rewards_beside(
    config: &RewardConfig,
    folder: &Path,
    device: Device,
    journal: Option<&Path>,
) -> Result<Box<dyn RewardModel>, ProviderError> {
    surroundings(folder, device, journal, |around| config.build(around))
}

/// The end of the name of the file, beside a journal, with the verdicts that normalised parts wait for.
const KEPT: &str = ".kept";

/// The file of kept verdicts beside a journal.
pub(crate) fn kept_beside(journal: &Path) -> PathBuf {
    rlaif_files::sibling(journal, KEPT)
}

/// Does something with what configured rewards and judges need besides their configurations: caches
/// relative to `folder`, models of this disk and the hub on `device`, keys of the environment, and a
/// file for verdicts beside `journal`.
pub(crate) fn surroundings<T>(
    folder: &Path,
    device: Device,
    journal: Option<&Path>,
    make: impl FnOnce(&Surroundings<'_>) -> T,
) -> T {
    let mut around = Surroundings::of_folder(folder).models(&found).device(device);
    if let Some(journal) = journal {
        let kept = kept_beside(journal);
        // Kept verdicts are those of the journal, which says by which reward. Without it they are
        // anybody's.
        if !journal.exists() && kept.exists() {
            // Where it cannot be removed, opening it says why.
            let _ = std::fs::remove_file(&kept);
        }
        around = around.keeping(kept);
    }
    make(&around)
}

/// Sentences on contents of prompts that the models in a reward do not read: their text leaves them out.
pub(crate) fn unread_by<'a>(
    reward: &RewardConfig,
    prompts: impl Iterator<Item = &'a TextOrMessages>,
) -> Vec<String> {
    if reward.input() != RewardInput::Text {
        return Vec::new();
    }
    let mut unread = Unread::default();
    prompts.for_each(|prompt| unread.add([prompt]));
    unread.sentences("rewards")
}

/// Finds a reward's model on this disk or on the hub.
pub(crate) fn found(names: &ModelNames<'_>) -> Result<ModelFiles, ProviderError> {
    model_files(names).map_err(|error| ProviderError::model_folder(names.model, error))
}

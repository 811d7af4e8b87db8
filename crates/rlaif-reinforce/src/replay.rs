//! Groups of earlier steps that are trained on again.

use rlaif_core::{BadSetting, Seed};
use rlaif_rl::permutation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::group::Group;

/// Time of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rollouts {
    /// Each step samples its responses before its update.
    #[default]
    Synchronous,
    /// The responses of the next step are sampled and scored while a thread makes the update. They are sampled by a
    /// copy of the weights before the update, so they are one update old.
    Asynchronous,
}

impl Rollouts {
    /// Updates between the weights that sample a response and those at the start of its step.
    pub fn staleness(self) -> u64 {
        match self {
            Self::Synchronous => 0,
            Self::Asynchronous => 1,
        }
    }
}

/// A replay buffer: each step also trains on responses of earlier steps. Groups stay whole. Groups without a
/// learning signal are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Responses of earlier steps in each step, beside the `batch_size` new ones: a multiple of `group_size`. The
    /// first steps have fewer.
    pub batch_size: usize,
    /// Most updates between the weights that sampled a response and those at the start of the step that trains on
    /// it again.
    pub max_staleness: u64,
}

impl Replay {
    /// Checks the settings, for groups of this size.
    ///
    /// # Errors
    /// [`BadSetting`] names the first that is out of range.
    pub(crate) fn check(&self, group: usize, rollouts: Rollouts) -> Result<(), BadSetting> {
        if self.batch_size == 0 || !self.batch_size.is_multiple_of(group) {
            let expected = format!(
                "above 0 and a multiple of `group_size`, which is {group}: groups stay whole"
            );
            return Err(BadSetting::new("replay.batch_size", self.batch_size, expected));
        }
        let least = rollouts.staleness() + 1;
        if self.max_staleness < least {
            let expected = match rollouts {
                Rollouts::Synchronous => "at least 1: responses are 1 update old in the next step",
                Rollouts::Asynchronous => {
                    "at least 2: asynchronous responses are 1 update old at first, and 2 when they come again"
                }
            };
            return Err(BadSetting::new("replay.max_staleness", self.max_staleness, expected));
        }
        Ok(())
    }
}

/// The groups of earlier steps, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Buffer(pub(crate) Vec<Group>);

impl Buffer {
    /// Some groups for `step`, in the order of their age: any of those that are not too old, with equal
    /// probability.
    pub(crate) fn draw(&self, replay: Replay, group: usize, step: u64, seed: Seed) -> Vec<Group> {
        let order = permutation(self.0.len(), seed.derive("replay", step));
        let fit = |at: &usize| self.0[*at].staleness(step) <= replay.max_staleness;
        let mut chosen: Vec<usize> =
            order.into_iter().filter(fit).take(replay.batch_size / group).collect();
        chosen.sort_unstable();
        chosen.into_iter().map(|at| self.0[at].clone()).collect()
    }

    /// Adds the groups of `step`, and removes those that are too old for the next one.
    pub(crate) fn add(&mut self, groups: Vec<Group>, replay: Replay, step: u64) {
        self.0.extend(groups);
        self.0.retain(|group| group.staleness(step + 1) <= replay.max_staleness);
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::PromptRecord;
    use rlaif_lm::{Prompt, Sampled, generate::FinishReason};

    use super::*;

    fn group(id: usize, version: u64) -> Group {
        let response = Sampled {
            ids: vec![3],
            log_probs: None,
            text: String::new(),
            finish: FinishReason::Eos,
            version,
            played: None,
        };
        Group {
            prompt: Prompt::new(PromptRecord::new(format!("p{id}"), "?"), vec![3]),
            sampled: vec![response; 2],
            scores: Default::default(),
            greedy: None,
            steps: None,
        }
    }

    #[test]
    fn no_group_is_older_than_the_limit_and_each_comes_up() {
        let replay = Replay { batch_size: 4, max_staleness: 2 };
        let (mut buffer, seed) = (Buffer::default(), Seed::new(3));
        let mut drawn = std::collections::BTreeMap::new();
        for step in 0..200 {
            let groups = buffer.draw(replay, 2, step, seed);
            assert_eq!(groups.len(), if step == 0 { 0 } else { 2 });
            for group in groups {
                let age = group.staleness(step);
                assert!((1..=2).contains(&age), "{age}");
                *drawn.entry(age).or_insert(0) += 1;
            }
            let new = (0..3).map(|at| group(3 * step as usize + at, step)).collect();
            buffer.add(new, replay, step);
            assert!(buffer.0.len() <= 6);
        }
        // Both ages equally often, except for the first steps: 200 each, seven standard deviations are 70.
        assert!(drawn.values().all(|n| (130..=270).contains(n)), "{drawn:?}");
        let again = buffer.draw(replay, 2, 200, seed);
        let ids = |groups: &[Group]| -> Vec<_> {
            groups.iter().map(|group| group.prompt.record.id.clone()).collect()
        };
        assert_eq!(ids(&again), ids(&buffer.draw(replay, 2, 200, seed)));
    }
}

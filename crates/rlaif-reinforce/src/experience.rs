//! One batch of experience: groups of responses with their scores and log-probabilities.

use rlaif_rl::{Groups, Mismatch, Rollout};

/// A rollout with its groups. The log-probabilities of the four policies are kept apart: those of
/// the sampler in `rollout.sampler_log_probs`, of the weights that sampled in `rollout.log_probs`, of
/// the reference in `rollout.ref_log_probs`; those of the present weights belong to the update.
#[derive(Debug)]
pub struct Experience {
    /// Responses, scores, log-probabilities. The rows of a group are neighbours.
    pub rollout: Rollout,
    /// The rows of each prompt.
    pub groups: Groups,
    /// The score of the greedy response to the prompt of each row, where the algorithm needs it.
    pub greedy: Option<Vec<Option<f64>>>,
    /// The distance between the sampler's policy and that of the training pass.
    pub mismatch: Mismatch,
    /// Groups that were sampled and left out because their scores are all equal.
    pub left_out: usize,
    /// Passes of each optimizer step of each epoch: epochs, minibatches, passes, rows. Groups are
    /// whole in a minibatch.
    pub schedule: Vec<Vec<Vec<Vec<usize>>>>,
}

impl Experience {
    /// Share of groups whose scores are all equal, or that have fewer than two.
    pub fn equal_groups(&self) -> f64 {
        let scores = &self.rollout.shaped_scores;
        let equal = |rows: &&Vec<usize>| {
            let mut of_rows = rows.iter().filter_map(|&row| scores[row]);
            let first = of_rows.next();
            of_rows.all(|score| Some(score) == first)
        };
        let equal = self.groups.rows().iter().filter(equal).count();
        equal as f64 / self.groups.len().max(1) as f64
    }
}

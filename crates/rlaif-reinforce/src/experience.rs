//! One batch of experience: groups of responses with their scores and log-probabilities.

use std::cell::RefCell;

use rlaif_rl::{Groups, KeptPass, Mismatch, Rollout};

use crate::schedule::Minibatch;

/// A rollout with its groups. It keeps the log-probabilities of three policies apart: the sampler's
/// in `rollout.sampler_log_probs`, those of the weights at the start of the step in
/// `rollout.log_probs`, and the reference's in `rollout.ref_log_probs`. The update computes those of
/// the current weights.
#[derive(Debug)]
pub struct Experience {
    /// Responses, scores, log-probabilities. The rows of a group are adjacent.
    pub rollout: Rollout,
    /// The rows of each prompt.
    pub groups: Groups,
    /// The score of the greedy response to the prompt of each row, where the algorithm needs it.
    pub greedy: Option<Vec<Option<f64>>>,
    /// The last token of each step and its score, by row, if the reward scores steps.
    pub steps: Option<Vec<Vec<(usize, f64)>>>,
    /// The distance between the sampler's policy and that of the training pass.
    pub mismatch: Mismatch,
    /// Number of sampled groups that were left out because all their scores are equal.
    pub left_out: usize,
    /// Share of solved responses among all that were sampled, those of groups that were left out
    /// included; with a [`crate::Curriculum`].
    pub pass_rate: Option<f64>,
    /// The passes of each optimizer step: epochs, minibatches, passes, rows. A minibatch holds
    /// only complete groups.
    pub schedule: Vec<Vec<Minibatch>>,
    /// Number of groups of earlier steps, which come last; with a [`crate::Replay`].
    pub replayed: usize,
    /// Use of responses of earlier weights.
    pub(crate) ages: Ages,
    /// The policy's pass, if it is the only one of the update.
    pub(crate) pass: RefCell<Option<KeptPass>>,
}

/// Use of responses of earlier weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ages {
    /// By the settings, all responses are of the step's weights.
    Same,
    /// The ages of responses are in the metrics.
    Recorded,
}

impl Experience {
    /// Frees the graph of the policy's pass, if the update could use it; the update then computes the
    /// pass again, with the same result. For an experience that is kept for a while.
    pub fn drop_graph(&self) {
        self.pass.take();
    }

    /// Share of groups whose scores are all equal, or that have fewer than two scores.
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

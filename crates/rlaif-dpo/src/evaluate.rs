//! Accuracy of a policy's preferences on held-out pairs.

use rlaif_core::{Interrupted, Metrics, stats::wilson};
use rlaif_lm::{LmError, Policy};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    error::DpoError,
    loss::{BatchScale, PairSums, Weighting},
    reference::ReferenceSums,
    rows::TokenPair,
    trainer::DpoTrainer,
};

/// A policy's numbers on one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairOutcome {
    /// The pair's id.
    pub id: String,
    /// Implicit reward of the chosen response.
    pub reward_chosen: f64,
    /// Implicit reward of the rejected response.
    pub reward_rejected: f64,
    /// Σ_t log π of the chosen response.
    pub log_prob_chosen: f64,
    /// Σ_t log π of the rejected response.
    pub log_prob_rejected: f64,
    /// Tokens of the chosen response.
    pub tokens_chosen: usize,
    /// Tokens of the rejected response.
    pub tokens_rejected: usize,
}

impl PairOutcome {
    /// 1 if the chosen response has the higher implicit reward, ½ for equal rewards, else 0; NaN if
    /// a reward is NaN.
    pub fn reward_accuracy(&self) -> f64 {
        verdict(self.reward_chosen, self.reward_rejected)
    }

    /// 1 if the chosen response has the higher likelihood per token, ½ if both are equal, else 0.
    /// Needs no reference, so it can be compared before and after training.
    pub fn likelihood_accuracy(&self) -> f64 {
        verdict(
            self.log_prob_chosen / self.tokens_chosen as f64,
            self.log_prob_rejected / self.tokens_rejected as f64,
        )
    }
}

fn verdict(chosen: f64, rejected: f64) -> f64 {
    match chosen.partial_cmp(&rejected) {
        Some(std::cmp::Ordering::Greater) => 1.,
        Some(std::cmp::Ordering::Equal) => 0.5,
        Some(std::cmp::Ordering::Less) => 0.,
        // NaN is not a verdict against the policy: the share becomes NaN.
        None => f64::NAN,
    }
}

/// A policy's numbers on held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairEvaluation {
    /// The loss over all pairs as one batch.
    pub loss: f64,
    /// The outcome of each pair, in order.
    pub outcomes: Vec<PairOutcome>,
}

/// A share and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairShare {
    /// The share.
    pub value: f64,
    /// The interval.
    pub ci95: (f64, f64),
}

impl PairShare {
    /// The share `value` of `n` with its interval, see [`rlaif_core::stats::wilson`].
    ///
    /// ```
    /// let share = rlaif_dpo::PairShare::wilson(0.9, 10);
    /// assert!((share.ci95.0 - 0.5958).abs() < 1e-4 && (share.ci95.1 - 0.9821).abs() < 1e-4);
    /// ```
    pub fn wilson(value: f64, n: usize) -> Self {
        Self { value, ci95: wilson(value, n) }
    }
}

impl PairEvaluation {
    fn mean(&self, of: impl Fn(&PairOutcome) -> f64) -> f64 {
        self.outcomes.iter().map(of).sum::<f64>() / self.outcomes.len() as f64
    }

    /// Share of pairs whose chosen response has the higher implicit reward; a tie counts half.
    pub fn accuracy(&self) -> PairShare {
        PairShare::wilson(self.mean(PairOutcome::reward_accuracy), self.outcomes.len())
    }

    /// Share of pairs whose chosen response has the higher likelihood per token; a tie counts half.
    pub fn likelihood_accuracy(&self) -> PairShare {
        PairShare::wilson(self.mean(PairOutcome::likelihood_accuracy), self.outcomes.len())
    }

    /// Mean difference of implicit rewards, chosen minus rejected.
    pub fn margin(&self) -> f64 {
        self.mean(|pair| pair.reward_chosen - pair.reward_rejected)
    }

    /// The numbers under TRL's names. As in TRL, `eval/rewards/accuracies` counts a tie as wrong;
    /// `eval/logps/accuracies` is [`Self::likelihood_accuracy`].
    pub fn metrics(&self) -> Metrics {
        [
            ("eval/loss", self.loss),
            ("eval/rewards/chosen", self.mean(|pair| pair.reward_chosen)),
            ("eval/rewards/rejected", self.mean(|pair| pair.reward_rejected)),
            (
                "eval/rewards/accuracies",
                self.mean(|pair| f64::from(u8::from(pair.reward_chosen > pair.reward_rejected))),
            ),
            ("eval/rewards/margins", self.margin()),
            ("eval/logps/chosen", self.mean(|pair| pair.log_prob_chosen)),
            ("eval/logps/rejected", self.mean(|pair| pair.log_prob_rejected)),
            ("eval/logps/accuracies", self.likelihood_accuracy().value),
        ]
        .into_iter()
        .collect()
    }
}

impl<P: Policy> DpoTrainer<P> {
    /// Evaluates the policy on held-out pairs, one microbatch at a time. `reference` are their
    /// reference sums; by default, the reference model runs.
    ///
    /// # Errors
    /// [`DpoError::NoRows`] without pairs; else as [`DpoTrainer::update_pairs`].
    pub fn evaluate(
        &self,
        rows: &[TokenPair],
        reference: Option<&ReferenceSums>,
    ) -> Result<PairEvaluation, DpoError> {
        if rows.is_empty() {
            return Err(DpoError::NoRows { read: 0, skipped: String::new() });
        }
        let objective = self.pairs()?;
        // Batched by length, and returned in the original order.
        let order = crate::trainer::by_length(rows.iter().map(TokenPair::len));
        let size = self.config().evaluation_batch();
        let world = self.world();
        let mut parts = Vec::new();
        for places in world.deal(&order).chunks(size) {
            Interrupted::check().map_err(LmError::from)?;
            let part: Vec<&TokenPair> = places.iter().map(|&place| &rows[place]).collect();
            let given: Option<Vec<[f32; 2]>> =
                reference.map(|sums| places.iter().map(|&place| sums.rows()[place]).collect());
            parts.push(self.evaluated(&part, given.as_deref())?);
        }
        let place = (self.policy().spec().device, objective.weighting == Weighting::Wpo);
        let x = PairSums::gathered(&parts, place, world)?;
        let order = world.dealt(&order);
        let scale = BatchScale {
            pairs: rows.len() as f64,
            chosen_tokens: rows.iter().map(|row| row.chosen.len() as f64).sum(),
            reward_shift: self.reward_shift().mean,
        };
        let loss = f64::try_from(objective.losses(&x, scale).mean(Kind::Double))?;
        let (chosen, rejected) = objective.rewards(&x);
        let column = |x: &Tensor| Vec::<f64>::try_from(x.to_kind(Kind::Double));
        let columns =
            [column(&chosen)?, column(&rejected)?, column(&x.chosen)?, column(&x.rejected)?];
        let mut outcomes: Vec<(usize, PairOutcome)> = order
            .iter()
            .enumerate()
            .map(|(at, &place)| {
                let row = &rows[place];
                let outcome = PairOutcome {
                    id: row.id.clone(),
                    reward_chosen: columns[0][at],
                    reward_rejected: columns[1][at],
                    log_prob_chosen: columns[2][at],
                    log_prob_rejected: columns[3][at],
                    tokens_chosen: row.chosen.len(),
                    tokens_rejected: row.rejected.len(),
                };
                (place, outcome)
            })
            .collect();
        outcomes.sort_by_key(|(place, _)| *place);
        Ok(PairEvaluation { loss, outcomes: outcomes.into_iter().map(|(_, o)| o).collect() })
    }
}

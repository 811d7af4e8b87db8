//! The numbers of one step, under TRL's names.

use rlaif_core::Metrics;
use serde::{Deserialize, Serialize};

/// Numbers of one update. By default, means are over the rows of the batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DpoStats {
    /// The loss that was minimised.
    pub loss: f64,
    /// Implicit reward of the chosen (desirable) responses; NaN if the batch has none.
    pub reward_chosen: f64,
    /// Implicit reward of the rejected (undesirable) responses; NaN if the batch has none.
    pub reward_rejected: f64,
    /// Share of pairs whose chosen response has the higher implicit reward; a tie does not count.
    /// For unpaired rows, the share of rows whose implicit reward has the right sign.
    pub accuracy: f64,
    /// Difference of the implicit rewards, chosen minus rejected.
    pub margin: f64,
    /// Σ_t log π of the chosen responses.
    pub log_prob_chosen: f64,
    /// Σ_t log π of the rejected responses.
    pub log_prob_rejected: f64,
    /// Mean logit over vocabulary and tokens of the chosen responses.
    pub logit_chosen: f64,
    /// Mean logit over vocabulary and tokens of the rejected responses.
    pub logit_rejected: f64,
    /// Mean entropy of the policy over all response tokens.
    pub entropy: f64,
    /// Mean negative log-likelihood of the chosen responses over their tokens.
    pub nll: f64,
    /// KTO's baseline, or BCO's δ; `None` for other losses.
    pub baseline: Option<f64>,
    /// The routers' auxiliary loss, without its coefficient and not part of `loss`; `None` if it is disabled.
    #[serde(default)]
    pub router_aux_loss: Option<f64>,
    /// Tokens that the policy read.
    pub tokens: u64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// If the step was skipped: the parameter whose gradient had NaN or infinity.
    pub skipped: Option<String>,
}

impl DpoStats {
    /// The numbers by name; NaN values are left out.
    ///
    /// ```
    /// let stats = rlaif_dpo::DpoStats { loss: 0.5, reward_chosen: f64::NAN, ..Default::default() };
    /// let names: Vec<String> = stats.metrics().iter().map(|(name, _)| name.to_owned()).collect();
    /// assert_eq!(names[0], "loss");
    /// assert!(!names.contains(&"rewards/chosen".to_owned()));
    /// ```
    pub fn metrics(&self) -> Metrics {
        let mut all = vec![
            ("loss", self.loss),
            ("rewards/chosen", self.reward_chosen),
            ("rewards/rejected", self.reward_rejected),
            ("rewards/accuracies", self.accuracy),
            ("rewards/margins", self.margin),
            ("logps/chosen", self.log_prob_chosen),
            ("logps/rejected", self.log_prob_rejected),
            ("logits/chosen", self.logit_chosen),
            ("logits/rejected", self.logit_rejected),
            ("entropy", self.entropy),
            ("nll_loss", self.nll),
        ];
        all.extend(self.baseline.map(|baseline| ("kl", baseline)));
        all.extend(self.router_aux_loss.map(|loss| ("router_aux_loss", loss)));
        all.extend([
            ("num_tokens", self.tokens as f64),
            ("grad_norm", self.grad_norm),
            ("learning_rate", self.lr),
        ]);
        all.extend(self.skipped.as_ref().map(|_| ("skipped", 1.)));
        all.into_iter().filter(|(_, value)| !value.is_nan()).collect()
    }
}

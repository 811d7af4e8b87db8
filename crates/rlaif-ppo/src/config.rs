//! The settings of PPO, and the checks of their combinations.

use std::borrow::Cow;

use rlaif_core::{BadSetting, Seed, filled};
use rlaif_lm::{
    Activations, Dropout, LmSpec, RouterLoss,
    generate::{GenerationConfig, RolloutConcern},
};
use rlaif_train::{KlControl, KlEstimator, OptimizerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use rlaif_rl::{
    AdviceKeys, MissingScore, ScoreConfig, StopConfig, Watched, Whitening, check_policy,
    check_sampling,
};

use crate::error::PpoError;

/// The settings of PPO. The defaults are TRL 0.11.4's, except for smaller minibatches and gradients
/// clipped to a norm of 1, and without its defects; [`PpoConfig::trl`] has all of TRL's.
///
/// ```
/// let mut config = rlaif_ppo::PpoConfig { batch_size: 16, minibatch_size: 4, ..Default::default() };
/// config.check()?;
/// config.minibatch_size = 5;
/// let error = config.check().unwrap_err().to_string();
/// assert!(error.contains("`minibatch_size` is 5"), "{error}");
/// # Ok::<(), rlaif_ppo::PpoError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// Number of steps in the run, each a rollout and the updates on it; the end of a learning-rate
    /// schedule.
    pub steps: u64,
    /// Responses per rollout.
    pub batch_size: usize,
    /// Responses per optimizer step; divides `batch_size`.
    pub minibatch_size: usize,
    /// Responses per forward and backward pass, a divisor of `minibatch_size`; 0 for the whole
    /// minibatch. It saves memory and changes nothing else.
    pub microbatch_size: usize,
    /// Passes of an update over the rollout, each in a new order.
    pub epochs: usize,
    /// The sampling settings. PPO accepts a temperature only: top-k, top-p and min-p sample from
    /// another distribution than the one whose log-probabilities are trained.
    #[serde(deserialize_with = "generation")]
    pub generation: GenerationConfig,
    /// The KL penalty against the reference.
    pub kl: KlConfig,
    /// Transformations of scores.
    pub scores: ScoreConfig,
    /// Scaling of rewards to variance 1 before advantages are estimated.
    pub reward_whitening: Whitening,
    /// Whitening of advantages over the tokens of the whole batch.
    pub advantage_whitening: Whitening,
    /// Discount γ.
    pub gamma: f64,
    /// λ of generalized advantage estimation.
    pub gae_lambda: f64,
    /// ε of the clipped surrogate.
    pub clip: f64,
    /// c of the dual clip: the maximum loss of a negative advantage, in multiples of the advantage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
    /// ε of the clipped value loss; `inf` to disable clipping.
    pub value_clip: f64,
    /// Weight of the value loss.
    pub value_coef: f64,
    /// Weight of the entropy bonus; 0 to disable it.
    pub entropy_coef: f64,
    /// Minibatches with a larger mean ratio are skipped; `inf` to disable the check.
    pub ratio_threshold: f64,
    /// An update stops once the KL divergence between the policy and the sampling policy exceeds
    /// 1.5 times this value, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_kl: Option<f64>,
    /// Number of initial steps in which only the value head is trained.
    pub value_warmup_steps: u64,
    /// The mix of pre-training data (PPO-ptx), if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<PretrainingConfig>,
    /// Mode of dropout in updates. Rollouts, references and scoring never use it.
    pub dropout: Dropout,
    /// Gradient checkpointing: `recompute` needs less memory and a third more time.
    pub activations: Activations,
    /// In models with experts, the coefficient of the loss that spreads tokens over experts; 0 to disable it.
    pub router_aux_loss_coef: f64,
    /// Learning rate, schedule, clipping.
    #[serde(deserialize_with = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// Use of TRL 0.11.4's formulas where they differ from the correct ones.
    pub compatibility: Compatibility,
    /// The seed of sampling, of the order of minibatches and of dropout. In a run file it is a
    /// top-level key.
    #[serde(skip)]
    pub seed: Seed,
    /// Conditions under which a run ends before its steps are done.
    pub stop: StopConfig,
}

/// The KL penalty.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// Estimator of the divergence at a token.
    pub estimator: KlEstimator,
    /// The coefficient β, and its control.
    pub control: KlControl,
}

/// A mix of pre-training data: `γ E[log π(x)]` of [Ouyang et al. 2022](https://arxiv.org/abs/2203.02155),
/// equation 2, as a mean per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainingConfig {
    /// The weight relative to the policy's loss.
    pub coef: f64,
    /// Number of rows drawn for each optimizer step.
    pub batch_size: usize,
}

/// Use of TRL 0.11.4's numbers where they differ from the correct ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    /// The correct numbers.
    #[default]
    None,
    /// TRL 0.11.4's numbers, for runs that are compared with it:
    ///
    /// - the first token of an encoder-decoder model's response is ignored everywhere;
    /// - a loss is the mean of each microbatch, and then of those means;
    /// - a minibatch beyond `ratio_threshold` still moves the weights by Adam's momentum;
    /// - `target_kl` is checked after each epoch, in its last minibatch only;
    /// - with whitened rewards, padding has a reward as well, which reaches the tokens before it;
    /// - the lengths of an encoder-decoder model's responses include the decoder's start token.
    #[serde(rename = "trl-0.11")]
    Trl011,
}

/// Limit on rows times epochs of one update: the orders of all epochs are in memory at once.
const MOST_PASSES: usize = 1 << 24;

fn generation<'de, D: Deserializer<'de>>(table: D) -> Result<GenerationConfig, D::Error> {
    filled(&PpoConfig::default().generation, table)
}

fn optimizer<'de, D: Deserializer<'de>>(table: D) -> Result<OptimizerConfig, D::Error> {
    filled(&PpoConfig::default().optimizer, table)
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            steps: 100,
            batch_size: 128,
            minibatch_size: 32,
            microbatch_size: 0,
            epochs: 4,
            generation: GenerationConfig { batch_size: 128, ..GenerationConfig::default() },
            kl: KlConfig::default(),
            scores: ScoreConfig::default(),
            reward_whitening: Whitening::None,
            advantage_whitening: Whitening::Batch,
            gamma: 1.,
            gae_lambda: 0.95,
            clip: 0.2,
            dual_clip: None,
            value_clip: 0.2,
            value_coef: 0.1,
            entropy_coef: 0.,
            ratio_threshold: 10.,
            target_kl: None,
            value_warmup_steps: 0,
            pretraining: None,
            dropout: Dropout::Off,
            activations: Activations::Keep,
            router_aux_loss_coef: 0.,
            optimizer: OptimizerConfig { lr: 1.41e-5, ..OptimizerConfig::default() },
            compatibility: Compatibility::None,
            seed: Seed::new(0),
            stop: StopConfig::default(),
        }
    }
}

impl<'a> From<&'a PpoConfig> for Watched<'a> {
    fn from(config: &'a PpoConfig) -> Self {
        Self {
            kl: config.kl.control,
            batch_size: config.batch_size,
            generation: &config.generation,
            keys: AdviceKeys {
                kl_coef: Some("kl.control"),
                kl_estimator: Some("kl.estimator"),
                entropy_coef: Some("entropy_coef"),
                value_coef: Some("value_coef"),
                update_limit: Some("target_kl"),
                ..AdviceKeys::SCORES_AND_STOP
            },
        }
    }
}

impl PpoConfig {
    /// Responses per forward and backward pass.
    pub fn microbatch(&self) -> usize {
        rlaif_train::rows_of_pass(self.microbatch_size, self.minibatch_size)
    }

    /// Optimizer steps per update.
    pub fn updates_per_step(&self) -> u64 {
        (self.epochs * (self.batch_size / self.minibatch_size)) as u64
    }

    /// Checks every setting, and combinations of settings.
    ///
    /// # Errors
    /// [`PpoError::Setting`] names the first field that is out of range, and its range;
    /// [`PpoError::Rollout`] a generation setting that breaks training.
    pub fn check(&self) -> Result<(), PpoError> {
        RouterLoss::check(self.router_aux_loss_coef)?;
        self.check_sizes()?;
        check_sampling(&self.generation)?;
        self.check_rewards()?;
        self.check_losses()?;
        self.optimizer.check()?;
        Ok(self.stop.check()?)
    }

    fn check_sizes(&self) -> Result<(), PpoError> {
        for (field, value) in [
            ("steps", usize::try_from(self.steps).unwrap_or(usize::MAX)),
            ("batch_size", self.batch_size),
            ("minibatch_size", self.minibatch_size),
            ("epochs", self.epochs),
        ] {
            if value == 0 {
                return Err(setting(field, value, "at least 1"));
            }
        }
        if !self.batch_size.is_multiple_of(self.minibatch_size) {
            return Err(setting(
                "minibatch_size",
                self.minibatch_size,
                format!("a divisor of `batch_size`, which is {}", self.batch_size),
            ));
        }
        let per_step = self.epochs.checked_mul(self.batch_size / self.minibatch_size);
        let updates = per_step.and_then(|updates| self.steps.checked_mul(updates as u64));
        if updates.is_none() {
            let expected = "fewer: the optimizer's steps do not fit 64 bits";
            return Err(setting("steps", self.steps, expected));
        }
        // A rollout holds the order of rows for each epoch.
        if self.epochs.saturating_mul(self.batch_size) > MOST_PASSES {
            let most = (MOST_PASSES / self.batch_size).max(1);
            return Err(setting(
                "epochs",
                self.epochs,
                format!("at most {most} at this batch size"),
            ));
        }
        if !self.minibatch_size.is_multiple_of(self.microbatch()) {
            return Err(setting(
                "microbatch_size",
                self.microbatch(),
                format!("a divisor of `minibatch_size`, which is {}", self.minibatch_size),
            ));
        }
        Ok(())
    }

    fn check_rewards(&self) -> Result<(), PpoError> {
        match self.kl.control {
            KlControl::Fixed { coef } => not_negative("kl.control.fixed.coef", coef)?,
            KlControl::Adaptive { init, target, horizon } => {
                not_negative("kl.control.adaptive.init", init)?;
                positive("kl.control.adaptive.target", target)?;
                positive("kl.control.adaptive.horizon", horizon)?;
                if horizon < self.batch_size as f64 {
                    let expected = format!(
                        "at least `batch_size`, which is {}: the coefficient moves by a fifth in so \
                         many responses, and would not stay positive",
                        self.batch_size
                    );
                    return Err(setting("kl.control.adaptive.horizon", horizon, expected));
                }
            }
        }
        not_negative("scores.missing_eos_penalty", self.scores.missing_eos_penalty)?;
        if let Some(clip) = self.scores.clip {
            positive("scores.clip", clip)?;
        }
        if let MissingScore::Value(value) = self.scores.missing
            && !is_finite(value)
        {
            return Err(setting("scores.missing", value, FINITE));
        }
        for (field, value) in [("gamma", self.gamma), ("gae_lambda", self.gae_lambda)] {
            if !(0. ..=1.).contains(&value) {
                return Err(setting(field, value, "between 0 and 1"));
            }
        }
        Ok(())
    }

    fn check_losses(&self) -> Result<(), PpoError> {
        positive("clip", self.clip)?;
        if let Some(c) = self.dual_clip
            && !(c > 1. && is_finite(c))
        {
            return Err(setting("dual_clip", c, "a number above 1"));
        }
        for (field, value) in
            [("value_clip", self.value_clip), ("ratio_threshold", self.ratio_threshold)]
        {
            if value.is_nan() || value <= 0. {
                return Err(setting(field, value, "a number above 0, or `inf` for none"));
            }
        }
        not_negative("value_coef", self.value_coef)?;
        not_negative("entropy_coef", self.entropy_coef)?;
        if let Some(target) = self.target_kl {
            positive("target_kl", target)?;
        }
        if let Some(pretraining) = self.pretraining {
            not_negative("pretraining.coef", pretraining.coef)?;
            if pretraining.batch_size == 0 {
                return Err(setting("pretraining.batch_size", 0, "at least 1"));
            }
        }
        Ok(())
    }

    /// Checks the settings against the policy, and returns warnings of settings that may do harm.
    pub(crate) fn check_policy(&self, spec: &LmSpec) -> Result<Vec<RolloutConcern>, PpoError> {
        check_policy(&self.generation, spec)
    }
}

pub(crate) fn setting(
    field: &'static str,
    found: impl std::fmt::Display,
    expected: impl Into<Cow<'static, str>>,
) -> PpoError {
    BadSetting::new(field, found, expected).into()
}

/// `true` if f32 can represent the value.
fn is_finite(value: f64) -> bool {
    (value as f32).is_finite()
}

const FINITE: &str = "a number that is finite in f32";

fn positive(field: &'static str, value: f64) -> Result<(), PpoError> {
    if value > 0. && is_finite(value) {
        return Ok(());
    }
    Err(setting(field, value, format!("{FINITE} and above 0")))
}

fn not_negative(field: &'static str, value: f64) -> Result<(), PpoError> {
    if value >= 0. && is_finite(value) {
        return Ok(());
    }
    Err(setting(field, value, format!("{FINITE} and at least 0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_of_a_table_keep_the_defaults_of_the_configuration() {
        let text = r#"{"optimizer": {"weight_decay": 0.1}, "generation": {"max_new_tokens": 7}}"#;
        let found: PpoConfig = serde_json::from_str(text).unwrap();
        let mut want = PpoConfig::default();
        want.optimizer.weight_decay = 0.1;
        want.generation.max_new_tokens = 7;
        assert_eq!(found, want);
    }
}

//! The settings of a distillation.

use rlaif_core::{BadSetting, Seed, filled};
use rlaif_lm::{Activations, Dropout, RouterLoss, generate::GenerationConfig};
use rlaif_rl::{RlError, check_sampling};
use rlaif_train::OptimizerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::divergence::TeacherDivergence;

/// The settings of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// Batches of responses, and the optimizer steps on them, in the whole run.
    pub steps: u64,
    /// Prompts of a step, with a response of the student to each.
    pub batch_size: usize,
    /// Responses of one forward and backward pass; 0 for the whole batch. It saves memory and changes nothing
    /// else.
    pub microbatch_size: usize,
    /// The distance of the student from its teacher.
    pub divergence: TeacherDivergence,
    /// λ: the probability that a step learns on the student's own responses; the others learn on the
    /// reference responses to their prompts ([Agarwal et al. 2023](https://arxiv.org/abs/2306.13649)).
    pub on_policy: f64,
    /// Divisor of both models' logits in the loss. Sampling has its own in `generation`.
    pub temperature: f64,
    /// Mode of the student's dropout in updates.
    pub dropout: Dropout,
    /// Activations that a forward pass keeps for its backward pass.
    pub activations: Activations,
    /// In students with experts, the coefficient of the loss that spreads tokens over experts; 0 to disable it.
    pub router_aux_loss_coef: f64,
    /// Sampling of the student's responses, from its whole distribution.
    #[serde(deserialize_with = "generation")]
    pub generation: GenerationConfig,
    /// Learning rate, schedule, clipping.
    #[serde(deserialize_with = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// The seed of sampling and of dropout. A run file has it at the top.
    #[serde(skip)]
    pub seed: Seed,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            steps: 100,
            batch_size: 32,
            microbatch_size: 0,
            divergence: TeacherDivergence::default(),
            on_policy: 1.,
            temperature: 1.,
            dropout: Dropout::Off,
            activations: Activations::Keep,
            router_aux_loss_coef: 0.,
            generation: GenerationConfig::default(),
            optimizer: OptimizerConfig { lr: 1e-5, ..OptimizerConfig::default() },
            seed: Seed::new(0),
        }
    }
}

fn generation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GenerationConfig, D::Error> {
    filled(&DistillConfig::default().generation, deserializer)
}

fn optimizer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OptimizerConfig, D::Error> {
    filled(&DistillConfig::default().optimizer, deserializer)
}

impl DistillConfig {
    /// Responses of one forward and backward pass.
    pub fn microbatch(&self) -> usize {
        rlaif_train::rows_of_pass(self.microbatch_size, self.batch_size)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`RlError::Setting`] names the first field that is out of range, and what it may be;
    /// [`RlError::Rollout`] a setting of generation that breaks training.
    ///
    /// ```
    /// use rlaif_distill::{DistillConfig, TeacherDivergence};
    /// let divergence = TeacherDivergence::Jsd { beta: 2. };
    /// let error = DistillConfig { divergence, ..Default::default() }.check().unwrap_err();
    /// assert_eq!(error.to_string(), "`divergence.jsd.beta` is 2; expected from 0 to 1");
    /// ```
    pub fn check(&self) -> Result<(), RlError> {
        RouterLoss::check(self.router_aux_loss_coef)?;
        let steps = usize::try_from(self.steps).unwrap_or(usize::MAX);
        for (field, value) in [("steps", steps), ("batch_size", self.batch_size)] {
            if value == 0 {
                return Err(BadSetting::new(field, value, "at least 1").into());
            }
        }
        if !(self.temperature > 0. && self.temperature.is_finite()) {
            return Err(BadSetting::new("temperature", self.temperature, "above 0").into());
        }
        if !(0. ..=1.).contains(&self.on_policy) {
            return Err(BadSetting::new("on_policy", self.on_policy, "from 0 to 1").into());
        }
        if self.on_policy < 1.
            && matches!(self.divergence, TeacherDivergence::PolicyGradient { .. })
        {
            let expected = "1 with the divergence `policy_gradient`, which is a mean over the \
                            student's own responses";
            return Err(BadSetting::new("on_policy", self.on_policy, expected).into());
        }
        self.divergence.check()?;
        check_sampling(&self.generation)?;
        Ok(self.optimizer.check()?)
    }
}

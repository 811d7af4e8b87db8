//! The settings of preference training.

use rlaif_core::{BadSetting, filled};
use rlaif_lm::{Activations, Dropout, RouterLoss};
use rlaif_train::OptimizerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    error::DpoError,
    forward::{Pass, PromptForward},
    loss::{Coupling, PairLoss, PairObjective, UnpairedLoss},
    reference::ReferenceUpdate,
};

/// Kind of the training rows, and the loss on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Preference pairs.
    Pairs(PairObjective),
    /// Single responses with one verdict each.
    Unpaired(UnpairedLoss),
}

impl Objective {
    /// `true` if the loss needs a reference policy.
    pub fn needs_reference(&self) -> bool {
        match self {
            Self::Pairs(objective) => objective.needs_reference(),
            Self::Unpaired(_) => true,
        }
    }

    fn check(&self) -> Result<(), DpoError> {
        match self {
            Self::Pairs(objective) => {
                objective.check().map_err(|error| error.within("objective.pairs"))
            }
            Self::Unpaired(loss) => {
                loss.check().map_err(|error| error.within("objective.unpaired"))
            }
        }
    }
}

/// DPO's own: sigmoid at β = 0.1.
impl Default for Objective {
    fn default() -> Self {
        Self::Pairs(PairLoss::Sigmoid { beta: 0.1, label_smoothing: 0. }.into())
    }
}

/// Source of the reference's log-probabilities; a loss without a reference ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReferenceConfig {
    /// Computed once, before the first step, and kept on disk: no second model, no second pass.
    #[default]
    Cached,
    /// Computed at every step by a frozen copy of the policy or, for a policy with adapters, by the
    /// policy without them.
    Live {
        /// Updates of the reference towards the policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        update: Option<ReferenceUpdate>,
    },
}

/// The settings of preference training. The defaults are DPO's own.
///
/// ```
/// use rlaif_dpo::DpoConfig;
/// let config: DpoConfig = serde_json::from_str(
///     r#"{"objective": {"pairs": {"terms": [{"type": "ipo", "beta": 0.2}]}}}"#,
/// )?;
/// config.check()?;
/// assert_eq!(config.optimizer.lr, 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// The loss.
    pub objective: Objective,
    /// Rows per backward pass; 0 for the whole batch. It changes memory, not the result.
    pub microbatch_size: usize,
    /// Divisor of the logits before the softmax.
    pub temperature: f64,
    /// Use of the policy's dropout in the update.
    pub dropout: Dropout,
    /// Gradient checkpointing: `recompute` needs less memory and a third more time.
    pub activations: Activations,
    /// Sharing of the prompt's computation between the two responses.
    pub prompt_forward: PromptForward,
    /// Source of the reference's log-probabilities.
    pub reference: ReferenceConfig,
    /// In models with experts, the coefficient of the loss that spreads tokens over experts; 0 to disable it.
    pub router_aux_loss_coef: f64,
    /// The optimizer's settings.
    #[serde(deserialize_with = "optimizer")]
    pub optimizer: OptimizerConfig,
}

fn optimizer<'de, D: Deserializer<'de>>(table: D) -> Result<OptimizerConfig, D::Error> {
    filled(&DpoConfig::default().optimizer, table)
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            microbatch_size: 0,
            temperature: 1.,
            dropout: Dropout::Off,
            activations: Activations::Keep,
            prompt_forward: PromptForward::default(),
            reference: ReferenceConfig::default(),
            router_aux_loss_coef: 0.,
            optimizer: OptimizerConfig { lr: 1e-6, ..OptimizerConfig::default() },
        }
    }
}

impl DpoConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the field.
    pub fn check(&self) -> Result<(), DpoError> {
        self.objective.check()?;
        self.optimizer.check()?;
        RouterLoss::check(self.router_aux_loss_coef)?;
        let setting = |field: &'static str, found: String, expected: &'static str| {
            Err(BadSetting::new(field, found, expected).into())
        };
        if !(self.temperature.is_finite() && self.temperature > 0.) {
            return setting("temperature", self.temperature.to_string(), "a positive number");
        }
        let coupled = matches!(&self.objective, Objective::Pairs(objective)
            if objective.coupling() == Coupling::WholeBatch);
        if self.dropout == Dropout::On && coupled && self.microbatch_size > 0 {
            let expected = "0 with this loss and dropout: the parts are computed twice, and their \
                            noise would differ";
            return setting("microbatch_size", self.microbatch_size.to_string(), expected);
        }
        match self.reference {
            ReferenceConfig::Live { update: Some(update) } => update.check(),
            ReferenceConfig::Live { update: None } | ReferenceConfig::Cached => Ok(()),
        }
    }

    pub(crate) fn pass(&self) -> Pass {
        Pass {
            temperature: self.temperature,
            prompt_forward: match self.router_aux_loss_coef == 0. {
                true => self.prompt_forward,
                // Routers count the tokens of a prompt with each of its responses.
                false => PromptForward::Twice,
            },
            dropout: self.dropout,
            activations: self.activations,
        }
    }

    /// Rows per backward pass.
    pub(crate) fn microbatch(&self, rows: usize) -> usize {
        rlaif_train::rows_of_pass(self.microbatch_size, rows.max(1))
    }

    /// Rows per forward pass without a backward pass.
    pub(crate) fn evaluation_batch(&self) -> usize {
        /// Used by default.
        const ROWS: usize = 16;
        self.microbatch(ROWS)
    }

    pub(crate) fn update_of_reference(&self) -> Option<ReferenceUpdate> {
        match self.reference {
            ReferenceConfig::Live { update } => update,
            ReferenceConfig::Cached => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_of_a_table_keep_the_defaults_of_the_configuration() {
        let text = r#"{"optimizer": {"weight_decay": 0.1}}"#;
        let found: DpoConfig = serde_json::from_str(text).unwrap();
        let mut want = DpoConfig::default();
        want.optimizer.weight_decay = 0.1;
        assert_eq!(found, want);
    }
}

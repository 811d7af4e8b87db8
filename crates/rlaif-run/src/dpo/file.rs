//! The run file of `rlaif dpo`.

use rlaif_core::BadSetting;
use rlaif_dpo::{DpoConfig, Objective, OnlineConfig, ReferenceConfig, RowConfig};
use rlaif_engine::VllmConfig;
use rlaif_rewards::RewardConfig;
use rlaif_train::FitConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::DataSection,
    error::RunError,
    file::RunFile,
    model::{ModelSection, Placement},
    pair_columns::{PairColumnsSection, PairFormat},
    prompt::PromptSection,
    rl::RlTrainSection,
};

/// The run file of `rlaif dpo`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpoFile {
    /// Seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The policy.
    pub model: ModelSection,
    /// The rows; by default, the built-in pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSection>,
    /// Format of the rows.
    #[serde(default)]
    pub columns: PairColumnsSection,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// Encoding of rows as token ids.
    #[serde(default)]
    pub rows: RowConfig,
    /// The loss and the update.
    #[serde(default)]
    pub dpo: DpoConfig,
    /// Sampling of pairs from the policy's own responses to the prompts of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineSection>,
    /// Sampling of `[online]` on vLLM servers; by default, the policy samples in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vllm: Option<VllmConfig>,
    /// Steps, evaluations, checkpoints.
    #[serde(default)]
    pub train: FitConfig,
}

/// The judge of two responses, and their sampling.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnlineSection {
    /// Any reward.
    pub reward: RewardConfig,
    /// The column of reference responses, for rewards that compare with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_column: Option<String>,
    /// Sampling of pairs.
    #[serde(default)]
    pub pairs: OnlineConfig,
    /// Number of responses of each step for samples.jsonl.
    #[serde(default = "OnlineSection::samples")]
    pub samples: usize,
}

impl OnlineSection {
    fn samples() -> usize {
        RlTrainSection::default().samples
    }
}

impl RunFile for DpoFile {
    const COMMAND: &'static str = "dpo";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.as_mut().map_or_else(Vec::new, DataSection::locations);
        all.extend(self.model.locations());
        all.extend(self.online.iter_mut().flat_map(|online| online.reward.locations()));
        all
    }
}

impl DpoFile {
    /// Checks for contradictory settings, before anything is loaded.
    ///
    /// # Errors
    /// [`RunError::Setting`], [`RunError::Dpo`].
    pub fn check(&self) -> Result<(), RunError> {
        self.dpo.check().map_err(|error| RunError::from(error).within("dpo"))?;
        self.rows.check().map_err(|error| RunError::from(error).within("rows"))?;
        self.prompt.check()?;
        // As `rows.check` does where the limit is not that of a file.
        if let Some(data) = self.data.as_ref().filter(|data| data.max_tokens < 2) {
            let expected = "at least 2: a token of the prompt and one more";
            return Err(BadSetting::new("data.max_tokens", data.max_tokens, expected).into());
        }
        if let Some(online) = &self.online {
            let checked = online.pairs.check();
            checked.map_err(|error| RunError::from(error).within("online.pairs"))?;
        }
        if let Some(vllm) = &self.vllm {
            vllm.check().map_err(|error| RunError::from(error.within("vllm")))?;
            if self.online.is_none() {
                let expected = "used with `[online]`, whose responses it samples";
                return Err(BadSetting::new("vllm", "given without `[online]`", expected).into());
            }
        }
        let setting = |key: &'static str, found: &str, expected: &'static str| {
            Err(BadSetting::new(key, found, expected).into())
        };
        let unpaired = matches!(self.dpo.objective, Objective::Unpaired(_));
        let fits = match self.columns.format {
            PairFormat::Auto => true,
            PairFormat::Unpaired => unpaired,
            PairFormat::Pairs | PairFormat::Hh => !unpaired,
        };
        if !fits {
            return match unpaired {
                true => setting(
                    "columns.format",
                    "that of pairs with an unpaired loss",
                    "`unpaired`, or a loss of pairs (`dpo.objective.pairs`)",
                ),
                false => setting(
                    "columns.format",
                    "`unpaired` with a loss of pairs",
                    "pairs, or an unpaired loss (`dpo.objective.unpaired`)",
                ),
            };
        }
        if unpaired && self.data.is_none() {
            let expected = "rows with verdicts for an unpaired loss; the built-in rows are pairs";
            return setting("data", "missing", expected);
        }
        let cached = self.dpo.reference == ReferenceConfig::Cached;
        if self.online.is_some() {
            if unpaired {
                let expected = "a loss of pairs: two sampled responses make a pair";
                return setting("online", "given with an unpaired loss", expected);
            }
            if cached && self.dpo.objective.needs_reference() {
                return setting(
                    "dpo.reference",
                    "`cached` with `[online]`",
                    "type = \"live\": sampled responses have no cached reference",
                );
            }
        }
        Ok(())
    }
}

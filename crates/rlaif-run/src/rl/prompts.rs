//! The prompts of reinforcement learning.

use rlaif_core::{BadSetting, PromptRecord, PromptRow, Rendering, TextKind};
use rlaif_data::{ImportColumns, ImportOptions, RowForm};
use rlaif_lm::{Joiner, LmSpec};
use rlaif_rewards::RewardConfig;
use rlaif_rl::Prompt;
use rlaif_text::HfTokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    columns::dropped,
    error::RunError,
    prompt::{PromptSection, of_rows, rendered},
    rewards::unread_by,
    rows::{RowReader, read_as},
    skipped::SkippedRows,
};

/// Prompts: files of JSON Lines, CSV or Parquet, in any form of docs/data.md that has prompts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptData {
    /// A file, or a pattern such as `shards/*.jsonl`.
    pub prompts: String,
    /// The column of prompts.
    #[serde(default = "PromptData::column")]
    pub column: String,
    /// The column of reference responses, for rewards that compare with them and for distillation off policy; by default, the right
    /// answer of rows in the columns of GSM8K, MATH and DAPO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_column: Option<String>,
    /// Prompts of more tokens are left out; 0 leaves out only those that do not fit the context.
    #[serde(default)]
    pub max_tokens: usize,
    /// Choices that the data sets leave open.
    #[serde(default)]
    pub import: ImportOptions,
}

impl PromptData {
    fn column() -> String {
        "prompt".to_owned()
    }

    /// The reader of the rows.
    fn reader(&self, metadata: Vec<String>) -> RowReader {
        let named = ImportColumns {
            reference: self.reference_column.clone(),
            metadata,
            ..ImportColumns::default().rename(&self.column, "prompt")
        };
        // A named column holds the prompts, regardless of the form of the rows.
        let form = (self.column != Self::column()).then_some(RowForm::Prompt);
        RowReader {
            form,
            usual: RowForm::Prompt,
            preferred: &RowForm::PROBLEMS,
            columns: named,
            options: self.import,
        }
    }

    /// Reads the prompts that fit, and counts the others.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`]; [`RunError::Setting`] if there are fewer than
    /// needed.
    pub(crate) fn read(
        &self,
        prompt: &PromptSection,
        codec: &HfTokenizer,
        spec: &LmSpec,
        needed: Needed<'_>,
    ) -> Result<RlPrompts, RunError> {
        let (rows, form) = self.reader(needed.columns).read::<PromptRow>(&self.prompts)?;
        let mut skipped = dropped(&rows);
        let mut how = prompt.rendering();
        how.chat.tools = needed.tools;
        let mut rows = rows.into_records();
        if self.reference_column.is_none() && !RowForm::PROBLEMS.contains(&form) {
            // Right answers are references. Responses are so only if the run file declares that.
            rows.iter_mut().for_each(|row| row.reference = None);
        }
        let records = rendered(&rows, &mut skipped, |row| row.render(codec, &how))?;
        let records: Vec<PromptRecord> = records.into_iter().flatten().collect();
        let conversations = records.iter().any(|record| record.kind == TextKind::Rendered);
        let rendering = of_rows(prompt, conversations);
        let context = spec.context.map_or(usize::MAX, |all| spec.remaining(all, needed.new_tokens));
        let limit = match self.max_tokens {
            0 => context,
            limit => limit.min(context),
        };
        let all = records.len();
        let mut prompts = Prompt::of_records(records, &Joiner::new(codec, spec))?;
        prompts.retain(|prompt| {
            let problem = match prompt.ids.len() {
                0 => Some("no prompt"),
                length => (length > limit).then_some("too long"),
            };
            problem.into_iter().for_each(|problem| skipped.leave_out(problem));
            problem.is_none()
        });
        if prompts.len() < needed.rows {
            let found = match limit {
                usize::MAX => format!("a file of {all} prompts"),
                limit => {
                    let fit = prompts.len();
                    format!("a file with {fit} of {all} prompts of at most {limit} tokens")
                }
            };
            let expected = format!("at least {} of them ({})", needed.rows, needed.because);
            return Err(BadSetting::new("data.prompts", found, expected).into());
        }
        let mut notes = vec![read_as(&self.prompts, form)];
        if let Some(reward) = needed.reward {
            notes.extend(unread_by(reward, rows.iter().map(|row| &row.prompt)));
        }
        Ok(RlPrompts { prompts, skipped, notes, rendering })
    }
}

/// The prompts of a run.
#[derive(Debug)]
pub struct RlPrompts {
    /// The prompts that fit.
    pub prompts: Vec<Prompt>,
    /// Counts of the others.
    pub skipped: SkippedRows,
    /// Sentences on the form of the rows, for the log.
    pub notes: Vec<String>,
    /// The rendering of the prompts.
    pub rendering: Rendering,
}

/// The number of prompts of a step, the length of responses, and the columns of rewards.
#[derive(Debug, Clone)]
pub(crate) struct Needed<'a> {
    /// Maximum number of tokens of a response.
    pub(crate) new_tokens: usize,
    /// Tools for the chat template.
    pub(crate) tools: Option<Vec<serde_json::Value>>,
    /// Columns beside the prompt.
    pub(crate) columns: Vec<String>,
    /// The reward that reads them.
    pub(crate) reward: Option<&'a RewardConfig>,
    /// Prompts of a step.
    pub(crate) rows: usize,
    /// The key of that number, for the error.
    pub(crate) because: &'static str,
}

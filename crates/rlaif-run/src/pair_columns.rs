//! The columns of preference pairs.

use rlaif_data::{ImportOptions, RowForm, Unusable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rows::{PairNames, RowReader};

/// Format of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairFormat {
    /// Recognised by the columns: every form in docs/data.md.
    #[default]
    Auto,
    /// Prompt, chosen and rejected response in separate columns.
    Pairs,
    /// HH: two complete dialogues, or their prompt separately.
    Hh,
    /// Prompt, response, and a verdict on it: good or not.
    Unpaired,
}

impl PairFormat {
    /// The form of rows; `None` if it is recognised by the columns.
    pub(crate) fn form(self) -> Option<RowForm> {
        match self {
            Self::Auto => None,
            Self::Pairs => Some(RowForm::Preference),
            Self::Hh => Some(RowForm::Hh),
            Self::Unpaired => Some(RowForm::Unpaired),
        }
    }
}

/// Format of the rows, and their columns.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairColumnsSection {
    /// Format of the rows.
    pub format: PairFormat,
    /// Column of prompts.
    pub prompt: String,
    /// Column of preferred responses.
    pub chosen: String,
    /// Column of the other responses.
    pub rejected: String,
    /// Column of margins, for soft labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Column of single responses.
    pub response: String,
    /// Column of verdicts on single responses.
    pub label: String,
}

impl Default for PairColumnsSection {
    fn default() -> Self {
        Self {
            format: PairFormat::Auto,
            prompt: "prompt".to_owned(),
            chosen: "chosen".to_owned(),
            rejected: "rejected".to_owned(),
            margin: None,
            response: "completion".to_owned(),
            label: "label".to_owned(),
        }
    }
}

impl PairColumnsSection {
    /// The reader of the rows.
    pub(crate) fn reader(&self, options: ImportOptions) -> RowReader {
        // `RowConfig` decides about empty and equal responses.
        let options = ImportOptions { unusable: Unusable::Read, ..options };
        let names = PairNames {
            prompt: &self.prompt,
            chosen: &self.chosen,
            rejected: &self.rejected,
            margin: self.margin.as_deref(),
        };
        let mut reader = names.reader(self.format.form(), options);
        reader.columns =
            reader.columns.rename(&self.response, "completion").rename(&self.label, "label");
        reader
    }
}

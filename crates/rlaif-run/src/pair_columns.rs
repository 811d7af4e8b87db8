//! The columns of preference pairs.

use rlaif_data::{ImportOptions, RowForm, Unusable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rows::{PairNames, RowReader};

/// Contents of the rows of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PairFormat {
    /// Found by the columns: every form of docs/data.md.
    #[default]
    Auto,
    /// Prompt, chosen and rejected response in columns of their own.
    Pairs,
    /// HH: two whole dialogues, or their prompt apart.
    Hh,
    /// Prompt, response, and whether it is a good one.
    Unpaired,
}

impl PairFormat {
    /// The form of rows; `None` where it is found by the columns.
    pub(crate) fn form(self) -> Option<RowForm> {
        match self {
            Self::Auto => None,
            Self::Pairs => Some(RowForm::Preference),
            Self::Hh => Some(RowForm::Hh),
            Self::Unpaired => Some(RowForm::Unpaired),
        }
    }
}

/// Contents of rows, and their columns.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairColumnsSection {
    /// Contents of the rows.
    pub format: PairFormat,
    /// Column of prompts.
    pub prompt: String,
    /// Column of preferred responses.
    pub chosen: String,
    /// Column of the other responses.
    pub rejected: String,
    /// Column of margins, which soft labels are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Column of single responses.
    pub response: String,
    /// Column of verdicts on them.
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
    /// The way to read the rows.
    pub(crate) fn reader(&self, options: ImportOptions) -> RowReader {
        // `RowConfig` says what becomes of empty and of equal responses.
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

//! `[columns]`: the format of the rows of a file.

use rlaif_data::{Dataset, ImportColumns, ImportOptions, RowForm};
use rlaif_train::SftRow;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    encode::Encoder,
    error::RunError,
    prompt::PromptSection,
    rows::{RowReader, learned_rows, place_of_learned},
    skipped::SkippedRows,
};

/// Format of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// Recognised by the columns: every form in docs/data.md.
    #[default]
    Auto,
    /// A prompt and the response to learn, in two columns.
    Demonstrations,
    /// A column of messages; every turn of the assistant is learned.
    Conversations,
    /// A column of texts, learned completely.
    Texts,
}

/// Format of the training rows, and their columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnSection {
    /// Format of a row.
    pub format: DataFormat,
    /// The column of prompts.
    pub prompt: String,
    /// The column of responses; `completion` works as well.
    pub response: String,
    /// The column of conversations.
    pub messages: String,
    /// The column of texts.
    pub text: String,
}

impl Default for ColumnSection {
    fn default() -> Self {
        Self {
            format: DataFormat::Auto,
            prompt: "prompt".to_owned(),
            response: "response".to_owned(),
            messages: "messages".to_owned(),
            text: "text".to_owned(),
        }
    }
}

impl ColumnSection {
    /// The reader of the rows.
    pub(crate) fn reader(&self, options: ImportOptions) -> RowReader {
        let columns = ImportColumns::default();
        let prompt = |columns: ImportColumns| {
            let columns = columns.rename(&self.prompt, "prompt");
            match self.response.as_str() {
                // Either name is accepted.
                "response" => columns,
                other => columns.rename(other, "completion"),
            }
        };
        let (form, columns) = match self.format {
            DataFormat::Auto => {
                let columns = prompt(columns).rename(&self.messages, "messages");
                (None, columns.rename(&self.text, "text"))
            }
            DataFormat::Demonstrations => (Some(RowForm::PromptCompletion), prompt(columns)),
            DataFormat::Conversations => {
                (Some(RowForm::Messages), columns.rename(&self.messages, "messages"))
            }
            DataFormat::Texts => (Some(RowForm::Text), columns.rename(&self.text, "text")),
        };
        // A column with the name of a response is learned, even beside a preference.
        let preferred = &[RowForm::Unpaired, RowForm::HelpSteer2, RowForm::PromptCompletion];
        RowReader { form, usual: RowForm::PromptCompletion, preferred, columns, options }
    }

    /// Every usable row of the files at `path`, and counts of the others.
    ///
    /// Reads every usable row of the files at `path`, and counts the others.
    /// [`RunError::Data`], [`RunError::Codec`], and what [`Encoder`] refuses.
    pub fn read(
        &self,
        path: &str,
        prompt: &PromptSection,
        encoder: &Encoder<'_>,
    ) -> Result<(Vec<SftRow>, SkippedRows), RunError> {
        let reader = self.reader(ImportOptions::default());
        let (records, _) = learned_rows(&reader, path)?;
        let mut skipped = dropped(&records);
        let rows = encoder
            .learned(records.records(), &prompt.rendering(), &mut skipped)
            .map_err(|error| error.placed(|id| place_of_learned(&reader, &[path], id)))?;
        Ok((rows.into_iter().flatten().collect(), skipped))
    }
}

/// Counts of rows that reading left out.
pub(crate) fn dropped<T>(all: &Dataset<T>) -> SkippedRows {
    let dropped = all.provenance().steps.iter().flat_map(|step| step.dropped.clone());
    SkippedRows { out: dropped.collect(), cut: 0 }
}

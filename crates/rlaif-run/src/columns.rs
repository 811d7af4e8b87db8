//! `[columns]`: what the rows of a file are made of.

use rlaif_core::Record;
use rlaif_data::{
    DataError, Dataset, Reader, Row,
    corpora::{ConversationColumns, Corpus, DemonstrationColumns, Outcome},
};
use rlaif_train::SftRow;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{encode::Encoder, error::RunError, place, skipped::SkippedRows, source::source};

/// Contents of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// A prompt and the response to learn, in two columns.
    #[default]
    Demonstrations,
    /// A column of messages; every turn of the assistant is learned.
    Conversations,
    /// A column of text, all of which is learned.
    Texts,
}

/// Contents of the rows to learn from, and their columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnSection {
    /// Contents of a row.
    pub format: DataFormat,
    /// The column of prompts.
    pub prompt: String,
    /// The column of responses.
    pub response: String,
    /// The column of conversations.
    pub messages: String,
    /// The column of texts.
    pub text: String,
}

impl Default for ColumnSection {
    fn default() -> Self {
        Self {
            format: DataFormat::Demonstrations,
            prompt: "prompt".to_owned(),
            response: "response".to_owned(),
            messages: "messages".to_owned(),
            text: "text".to_owned(),
        }
    }
}

/// A row of text to continue.
#[derive(Debug, Clone)]
pub(crate) struct TextRecord {
    id: String,
    pub(crate) text: String,
}

impl Record for TextRecord {
    fn id(&self) -> &str {
        &self.id
    }
}

/// A column of texts.
#[derive(Debug, Clone)]
pub(crate) struct TextColumn(String);

impl TextColumn {
    pub(crate) fn new(column: &str) -> Self {
        Self(column.to_owned())
    }
}

impl Corpus for TextColumn {
    type Record = TextRecord;

    fn name(&self) -> String {
        "texts".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<TextRecord>, DataError> {
        let text = row.text(&self.0)?;
        let id = row.identity(None, &[&text])?;
        Ok(Outcome::Kept(TextRecord { id, text }))
    }
}

impl ColumnSection {
    /// Every row of the files at `path` that there is something to learn from, and what became of the
    /// others.
    ///
    /// # Errors
    /// [`RunError::Data`], [`RunError::Codec`], and what [`Encoder`] refuses.
    pub fn read(
        &self,
        path: &str,
        encoder: &Encoder<'_>,
    ) -> Result<(Vec<SftRow>, SkippedRows), RunError> {
        let (rows, mut skipped, dropped) = match self.format {
            DataFormat::Demonstrations => {
                let (prompt, response) = (self.prompt.clone(), self.response.clone());
                let corpus = DemonstrationColumns { id: None, prompt, response };
                let (records, dropped) = records(path, corpus)?;
                let (rows, skipped) = encoder.demonstrations(&records)?;
                (rows, skipped, dropped)
            }
            DataFormat::Conversations => {
                let corpus = ConversationColumns { id: None, messages: self.messages.clone() };
                let (records, dropped) = records(path, corpus.clone())?;
                let (rows, skipped) = encoder
                    .conversations(&records)
                    .map_err(|error| error.placed(|id| place::of(&[path], &corpus, id)))?;
                (rows, skipped, dropped)
            }
            DataFormat::Texts => {
                let (records, dropped) = records(path, TextColumn::new(&self.text))?;
                let texts: Vec<&str> = records.iter().map(|row| row.text.as_str()).collect();
                let (rows, skipped) = encoder.texts(&texts)?;
                (rows, skipped, dropped)
            }
        };
        skipped.add(dropped);
        Ok((rows.into_iter().flatten().collect(), skipped))
    }
}

fn records<C: Corpus>(path: &str, corpus: C) -> Result<(Vec<C::Record>, SkippedRows), RunError>
where
    C::Record: Record,
{
    let all = Reader::new(source(path)?).dataset(corpus)?;
    let skipped = dropped(&all);
    Ok((all.into_records(), skipped))
}

/// Counts of rows that reading left out.
pub(crate) fn dropped<T>(all: &Dataset<T>) -> SkippedRows {
    let dropped = all.provenance().steps.iter().flat_map(|step| step.dropped.clone());
    SkippedRows { out: dropped.collect(), cut: 0 }
}

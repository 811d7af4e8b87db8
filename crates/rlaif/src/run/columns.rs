//! `[columns]`: what the rows of a file are made of.

use rlaif_core::Record;
use rlaif_data::{
    DataError, Dataset, Reader, Row, Source,
    corpora::{ConversationColumns, Corpus, DemonstrationColumns, Outcome},
};
use rlaif_train::SftRow;
use serde::{Deserialize, Serialize};

use super::{DataFormat, Encoder, Left, RunError, place};

/// What rows to learn from are made of, and the columns it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnSection {
    /// What a row is.
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
    pub fn read(&self, path: &str, encoder: &Encoder<'_>) -> Result<(Vec<SftRow>, Left), RunError> {
        let (rows, mut left, dropped) = match self.format {
            DataFormat::Demonstrations => {
                let (prompt, response) = (self.prompt.clone(), self.response.clone());
                let corpus = DemonstrationColumns { id: None, prompt, response };
                let (records, dropped) = records(path, corpus)?;
                let (rows, left) = encoder.demonstrations(&records)?;
                (rows, left, dropped)
            }
            DataFormat::Conversations => {
                let corpus = ConversationColumns { id: None, messages: self.messages.clone() };
                let (records, dropped) = records(path, corpus.clone())?;
                let (rows, left) = encoder
                    .conversations(&records)
                    .map_err(|error| error.placed(|id| place::of(&[path], &corpus, id)))?;
                (rows, left, dropped)
            }
            DataFormat::Texts => {
                let (records, dropped) = records(path, TextColumn::new(&self.text))?;
                let texts: Vec<&str> = records.iter().map(|row| row.text.as_str()).collect();
                let (rows, left) = encoder.texts(&texts)?;
                (rows, left, dropped)
            }
        };
        left.add(dropped);
        Ok((rows.into_iter().flatten().collect(), left))
    }
}

fn records<C: Corpus>(path: &str, corpus: C) -> Result<(Vec<C::Record>, Left), RunError>
where
    C::Record: Record,
{
    let all = Reader::new(source(path)?).dataset(corpus)?;
    let left = dropped(&all);
    Ok((all.into_records(), left))
}

/// What reading left out.
pub(super) fn dropped<T>(all: &Dataset<T>) -> Left {
    let dropped = all.provenance().steps.iter().flat_map(|step| step.dropped.clone());
    Left { out: dropped.collect(), cut: 0 }
}

/// A file, or the files that fit a pattern.
pub(super) fn source(path: &str) -> Result<Source, RunError> {
    let pattern = path.contains(['*', '?', '[']);
    Ok(if pattern { Source::glob(path)? } else { Source::file(path)? })
}

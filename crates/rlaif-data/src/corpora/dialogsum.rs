//! DialogSum (Chen et al. 2021, arXiv 2105.06762): everyday dialogues with summaries.
//! <https://huggingface.co/datasets/knkarthick/dialogsum>

use rlaif_core::Record;

use super::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Row, content_id};

/// DialogSum, or any file with the columns `dialogue` and `summary`; `id` and `topic` are
/// optional.
#[derive(Debug, Clone, Copy, Default)]
pub struct DialogSum;

/// One dialogue with a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialogSumRecord {
    /// The record's identity. The test part has three summaries of each dialogue, with different
    /// ids: group by [`DialogSumRecord::dialogue`] when splitting.
    pub id: String,
    /// The dialogue, one turn to a line.
    pub dialogue: String,
    /// The human-written summary.
    pub summary: String,
    /// The topic, in a word or two.
    pub topic: Option<String>,
}

impl Record for DialogSumRecord {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Corpus for DialogSum {
    type Record = DialogSumRecord;

    fn name(&self) -> String {
        "dialogues with summaries".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<DialogSumRecord>, DataError> {
        let dialogue = row.text("dialogue")?;
        let summary = row.text("summary")?;
        let content = [dialogue.as_str(), &summary];
        let id =
            if row.has("id") { row.identity(Some("id"), &content)? } else { content_id(&content) };
        let topic = row.optional_text("topic")?;
        Ok(Outcome::Kept(DialogSumRecord { id, dialogue, summary, topic }))
    }
}

//! Prompts as text and as token ids.

use std::sync::Arc;

use rlaif_core::{CodecError, PromptRecord, Record};

use crate::joiner::Joiner;

/// A prompt as text and as token ids. Clones share both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The texts for rewards and reports.
    pub record: Arc<PromptRecord>,
    /// The policy's input: the tokens of `record.prompt`, special tokens included.
    pub ids: Arc<[u32]>,
}

impl Prompt {
    /// Creates a prompt with the tokens that the policy reads ([`Joiner::open`]).
    pub fn new(record: impl Into<Arc<PromptRecord>>, ids: impl Into<Arc<[u32]>>) -> Self {
        Self { record: record.into(), ids: ids.into() }
    }

    /// The prompts of records, with the tokens that the policy reads.
    ///
    /// # Errors
    /// As [`Joiner::open`].
    pub fn of_records(
        records: Vec<PromptRecord>,
        joiner: &Joiner<'_>,
    ) -> Result<Vec<Self>, CodecError> {
        let texts: Vec<_> =
            records.iter().map(|record| (record.prompt.as_str(), record.kind)).collect();
        let ids = joiner.open(&texts)?;
        Ok(records.into_iter().zip(ids).map(|(record, ids)| Self::new(record, ids)).collect())
    }
}

impl Record for Prompt {
    fn id(&self) -> &str {
        &self.record.id
    }
}

/// Names rows by the records of their prompts ([`PromptRecord::place`]), for errors.
pub fn place(prompts: &[Prompt]) -> impl Fn(usize) -> String + '_ {
    |row| match prompts.get(row) {
        Some(prompt) => prompt.record.place(),
        None => format!("row {row}"),
    }
}

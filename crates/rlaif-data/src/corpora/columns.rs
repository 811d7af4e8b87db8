//! Records from named columns of any file. By default, a column has the name of its content;
//! without an id column, a record's id is the hash of its texts.

use rlaif_core::{
    Conversation, Demonstration, Desirability, Message, Metadata, PreferencePair, PromptRecord,
    TextOrMessages, UnpairedPreference,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Row, content_id};

/// Prompts, with or without reference responses.
///
/// ```
/// use rlaif_data::corpora::PromptColumns;
/// let columns = PromptColumns { prompt: "question".into(), ..PromptColumns::default() };
/// assert_eq!(columns.reference, None);
/// ```
#[derive(Debug, Clone)]
pub struct PromptColumns {
    /// The column of ids.
    pub id: Option<String>,
    /// The column of prompts.
    pub prompt: String,
    /// The column of reference responses. Every row must have it, but it may be empty (null).
    pub reference: Option<String>,
    /// Columns that become the metadata of the prompt; every row must have them.
    pub metadata: Vec<String>,
}

impl Default for PromptColumns {
    fn default() -> Self {
        Self { id: None, prompt: "prompt".into(), reference: None, metadata: Vec::new() }
    }
}

impl Corpus for PromptColumns {
    type Record = PromptRecord;

    fn name(&self) -> String {
        "prompts".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<PromptRecord>, DataError> {
        let mut metadata = Metadata::new();
        for column in &self.metadata {
            row.expect(column)?;
            if let Some(value) = row.get(column).filter(|value| !value.is_null()) {
                metadata.insert(column.clone(), value.clone());
            }
        }
        let prompt = row.text(&self.prompt)?;
        let reference = match &self.reference {
            Some(column) => {
                row.expect(column)?;
                row.optional_text(column)?
            }
            None => None,
        };
        let id = row.identity(self.id.as_deref(), &[&prompt])?;
        let mut record = PromptRecord::new(id, prompt);
        record.reference = reference;
        record.metadata = metadata;
        Ok(Outcome::Kept(record))
    }
}

/// Prompts with the responses to imitate.
#[derive(Debug, Clone)]
pub struct DemonstrationColumns {
    /// The column of ids.
    pub id: Option<String>,
    /// The column of prompts.
    pub prompt: String,
    /// The column of responses.
    pub response: String,
}

impl Default for DemonstrationColumns {
    fn default() -> Self {
        Self { id: None, prompt: "prompt".into(), response: "response".into() }
    }
}

impl Corpus for DemonstrationColumns {
    type Record = Demonstration;

    fn name(&self) -> String {
        "prompts with responses".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Demonstration>, DataError> {
        let prompt = row.text(&self.prompt)?;
        let response = row.text(&self.response)?;
        let id = row.identity(self.id.as_deref(), &[&prompt, &response])?;
        Ok(Outcome::Kept(Demonstration::new(id, prompt, response)))
    }
}

/// Preference pairs, with or without margins.
#[derive(Debug, Clone)]
pub struct PairColumns {
    /// The column of ids.
    pub id: Option<String>,
    /// The column of prompts.
    pub prompt: String,
    /// The column of preferred responses.
    pub chosen: String,
    /// The column of the other responses.
    pub rejected: String,
    /// The column of margins. Every row must have it, but it may be empty (null).
    pub margin: Option<String>,
}

impl Default for PairColumns {
    fn default() -> Self {
        Self {
            id: None,
            prompt: "prompt".into(),
            chosen: "chosen".into(),
            rejected: "rejected".into(),
            margin: None,
        }
    }
}

impl Corpus for PairColumns {
    type Record = PreferencePair;

    fn name(&self) -> String {
        "preference pairs".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<PreferencePair>, DataError> {
        let prompt = row.text(&self.prompt)?;
        let chosen = row.text(&self.chosen)?;
        let rejected = row.text(&self.rejected)?;
        let margin = match &self.margin {
            Some(column) => {
                row.expect(column)?;
                row.optional_number(column)?
            }
            None => None,
        };
        let id = row.identity(self.id.as_deref(), &[&prompt, &chosen, &rejected])?;
        let pair = PreferencePair::new(id, prompt, chosen, rejected);
        Ok(Outcome::Kept(PreferencePair { margin, ..pair }))
    }
}

/// Responses with one verdict each, for KTO.
#[derive(Debug, Clone)]
pub struct UnpairedColumns {
    /// The column of ids.
    pub id: Option<String>,
    /// The column of prompts.
    pub prompt: String,
    /// The column of responses.
    pub response: String,
    /// The column of verdicts: true or 1 where the response is desirable, false or 0 where not.
    pub label: String,
}

impl Default for UnpairedColumns {
    fn default() -> Self {
        Self {
            id: None,
            prompt: "prompt".into(),
            response: "completion".into(),
            label: "label".into(),
        }
    }
}

impl Corpus for UnpairedColumns {
    type Record = UnpairedPreference;

    fn name(&self) -> String {
        "unpaired preferences".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<UnpairedPreference>, DataError> {
        let prompt = row.text(&self.prompt)?;
        let response = row.text(&self.response)?;
        let desirability = if row.truth(&self.label)? {
            Desirability::Desirable
        } else {
            Desirability::Undesirable
        };
        let id = row.identity(self.id.as_deref(), &[&prompt, &response])?;
        let row = UnpairedPreference::new(id, prompt, response, desirability);
        Ok(Outcome::Kept(row))
    }
}

/// Conversations: a column of lists of objects with a `role` and a `content`. In CSV, the list as
/// JSON text.
#[derive(Debug, Clone)]
pub struct ConversationColumns {
    /// The column of ids.
    pub id: Option<String>,
    /// The column of messages.
    pub messages: String,
}

impl Default for ConversationColumns {
    fn default() -> Self {
        Self { id: None, messages: "messages".into() }
    }
}

impl Corpus for ConversationColumns {
    type Record = Conversation;

    fn name(&self) -> String {
        "conversations".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<Conversation>, DataError> {
        const EXPECTED: &str = "a list of messages, each with a `role` and a `content`";
        let value = row.take(&self.messages)?;
        let messages = match &value {
            Value::String(json) => serde_json::from_str(json).ok(),
            other => Vec::deserialize(other).ok(),
        };
        let messages: Vec<Message> =
            messages.ok_or_else(|| row.wrong_type(&self.messages, EXPECTED, &value))?;
        let id = match &self.id {
            Some(column) => row.identity(Some(column), &[])?,
            None => {
                let all = TextOrMessages::Messages(messages.clone());
                let parts = all.content_parts();
                content_id(&parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>())
            }
        };
        Ok(Outcome::Kept(Conversation { id, messages }))
    }
}

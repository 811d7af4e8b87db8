//! Input of the algorithms, as text.

use serde::{Deserialize, Serialize};

use crate::codec::Specials;
use crate::message::Message;
use crate::metadata::Metadata;
use crate::reply::Reply;

/// Any record with an id, which splits, shuffles and reports use.
///
/// An id identifies a record, not its position: two readings of the same row have the same id,
/// regardless of the other rows.
pub trait Record {
    /// The identity of this record.
    fn id(&self) -> &str;
}

/// The origin of a record's texts, which decides about their special tokens.
///
/// ```
/// use rlaif_core::{Specials, TextKind};
/// assert_eq!(TextKind::Plain.specials(), Specials::Include);
/// assert_eq!(TextKind::Rendered.specials(), Specials::Exclude);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextKind {
    /// Text as somebody wrote it: the tokenizer adds its special tokens to a prompt, and a learned
    /// response gets an end of sequence.
    #[default]
    Plain,
    /// The output of a chat template, which has written every special token there is to be.
    Rendered,
}

impl TextKind {
    /// Encoding of the texts.
    pub fn specials(self) -> Specials {
        match self {
            Self::Plain => Specials::Include,
            Self::Rendered => Specials::Exclude,
        }
    }

    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// A prompt x: what a policy answers.
///
/// ```
/// use rlaif_core::PromptRecord;
/// let record = PromptRecord::new("q-1", "Name a prime.").with_reference("Seven.");
/// assert_eq!(record.reference.as_deref(), Some("Seven."));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromptRecord {
    /// The record's identity.
    pub id: String,
    /// The text the policy reads, template and all.
    pub prompt: String,
    /// The prompt as rewards and reports read it, where a chat template made another text of it for
    /// the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The prompt as a conversation, where it is one: for rewards that have a chat template of their
    /// own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// A response written by a person, where there is one: for metrics, and rewards that compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Further facts about the prompt.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// The origin of the texts.
    #[serde(default, skip_serializing_if = "TextKind::is_plain")]
    pub kind: TextKind,
}

impl PromptRecord {
    /// A plain prompt without a reference response.
    pub fn new(id: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into(),
            asked: None,
            messages: Vec::new(),
            reference: None,
            metadata: Metadata::new(),
            kind: TextKind::Plain,
        }
    }

    /// The same prompt with a reference response.
    #[must_use]
    pub fn with_reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// The record as errors name it: by its id, where it has one, and the beginning of its prompt.
    ///
    /// ```
    /// use rlaif_core::PromptRecord;
    /// let record = PromptRecord::new("q-1", "Name\na prime.");
    /// assert_eq!(record.place(), "record `q-1` (prompt `Name\\na prime.`)");
    /// assert_eq!(PromptRecord::new("", "Why?").place(), "prompt `Why?`");
    /// ```
    pub fn place(&self) -> String {
        place(&self.id, self.asked.as_deref().unwrap_or(&self.prompt))
    }

    /// The prompt with a `response`, as reward models and metrics take it.
    ///
    /// Metadata without an entry is left out, so that equal rows look equal to a reward, by any
    /// route to it.
    ///
    /// ```
    /// use rlaif_core::{Exchange, PromptRecord};
    /// let record = PromptRecord::new("q-1", "Name a prime.");
    /// assert_eq!(record.exchange("Two."), Exchange::new("Name a prime.", "Two."));
    /// ```
    pub fn exchange<'a>(&'a self, response: &'a str) -> Exchange<'a> {
        Exchange {
            prompt: self.asked.as_deref().unwrap_or(&self.prompt),
            response,
            messages: (!self.messages.is_empty()).then_some(&self.messages),
            said: None,
            reference: self.reference.as_deref(),
            metadata: (!self.metadata.is_empty()).then_some(&self.metadata),
        }
    }
}

fn place(id: &str, prompt: &str) -> String {
    const SHOWN: usize = 60;
    let mut start: String = prompt.chars().take(SHOWN).collect();
    if start.len() < prompt.len() {
        start.push('…');
    }
    let start = start.escape_debug();
    if id.is_empty() {
        format!("prompt `{start}`")
    } else {
        format!("record `{id}` (prompt `{start}`)")
    }
}

/// A prompt and the response to imitate: what supervised fine-tuning learns from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demonstration {
    /// The record's identity.
    pub id: String,
    /// The prompt x.
    pub prompt: String,
    /// The response y to learn.
    pub response: String,
    /// The origin of the texts.
    #[serde(default, skip_serializing_if = "TextKind::is_plain")]
    pub kind: TextKind,
}

impl Demonstration {
    /// A plain prompt and the response to learn.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        response: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into(),
            response: response.into(),
            kind: TextKind::Plain,
        }
    }
}

/// A prompt, the response that was preferred and the one that was not.
///
/// `prompt + chosen` and `prompt + rejected` are the two full texts: a space between prompt and
/// response belongs to the response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// The record's identity.
    pub id: String,
    /// The prompt x both responses answer.
    pub prompt: String,
    /// The preferred response, y_w.
    pub chosen: String,
    /// The other response, y_l.
    pub rejected: String,
    /// The margin of `chosen` over `rejected`, on the scale of the annotators. Not to be confused
    /// with the margin between implicit rewards that preference training reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The origin of the texts.
    #[serde(default, skip_serializing_if = "TextKind::is_plain")]
    pub kind: TextKind,
}

impl PreferencePair {
    /// A pair of plain texts without a margin.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        chosen: impl Into<String>,
        rejected: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
            margin: None,
            kind: TextKind::Plain,
        }
    }
}

/// Label of an unpaired response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desirability {
    /// A response to encourage.
    Desirable,
    /// A response to discourage.
    Undesirable,
}

/// A prompt, one response, and whether it is a good one: what KTO learns from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnpairedPreference {
    /// The record's identity.
    pub id: String,
    /// The prompt x.
    pub prompt: String,
    /// The response y.
    pub response: String,
    /// The verdict on the response.
    pub desirability: Desirability,
    /// The origin of the texts.
    #[serde(default, skip_serializing_if = "TextKind::is_plain")]
    pub kind: TextKind,
}

impl UnpairedPreference {
    /// A plain prompt and response with a verdict.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        response: impl Into<String>,
        desirability: Desirability,
    ) -> Self {
        Self {
            id: id.into(),
            prompt: prompt.into(),
            response: response.into(),
            desirability,
            kind: TextKind::Plain,
        }
    }
}

/// A conversation in turns, for chat templates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// The record's identity.
    pub id: String,
    /// The turns, oldest first.
    pub messages: Vec<Message>,
}

/// One (x, y) as text. A reward model brings its own tokenizer, so token ids never cross here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exchange<'a> {
    /// The prompt x.
    pub prompt: &'a str,
    /// The response y.
    pub response: &'a str,
    /// The prompt as a conversation, for rewards that have a chat template of their own; `None` where
    /// it is a text.
    pub messages: Option<&'a [Message]>,
    /// The response as messages, if they have more than its text.
    pub said: Option<&'a [Message]>,
    /// A response written by a person, where there is one.
    pub reference: Option<&'a str>,
    /// Further facts about the prompt, for rewards that need it; `None` rather than an empty map.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> Exchange<'a> {
    /// An exchange with only prompt and response.
    pub fn new(prompt: &'a str, response: &'a str) -> Self {
        Self { prompt, response, messages: None, said: None, reference: None, metadata: None }
    }

    /// The same prompt with another text as the response.
    #[must_use]
    pub fn with_response(self, response: &'a str) -> Self {
        Self { response, said: None, ..self }
    }
}

/// A prompt with the response a policy gave: the owned form of [`Exchange`].
///
/// ```
/// use rlaif_core::{PromptRecord, Sample};
/// let sample = Sample { record: PromptRecord::new("q-1", "Name a prime."), response: "Two.".into() };
/// assert_eq!(sample.exchange().response, "Two.");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub record: PromptRecord,
    /// The response.
    pub response: Reply,
}

impl Sample {
    /// The borrowed form that reward models and metrics take.
    pub fn exchange(&self) -> Exchange<'_> {
        self.record.answered(&self.response)
    }
}

impl Record for Sample {
    fn id(&self) -> &str {
        &self.record.id
    }
}

macro_rules! identified_by_their_id_field {
    ($($record:ty),+) => {$(
        impl Record for $record {
            fn id(&self) -> &str {
                &self.id
            }
        }
    )+};
}

pub(crate) use identified_by_their_id_field;

identified_by_their_id_field!(
    PromptRecord,
    Demonstration,
    PreferencePair,
    UnpairedPreference,
    Conversation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_may_be_absent_from_a_file_and_are_left_out_of_one() {
        let read: PreferencePair =
            serde_json::from_str(r#"{"id":"a","prompt":"p","chosen":"c","rejected":"r"}"#).unwrap();
        assert_eq!(read.margin, None);
        assert!(!serde_json::to_string(&read).unwrap().contains("margin"));
        let prompt: PromptRecord = serde_json::from_str(r#"{"id":"a","prompt":"p"}"#).unwrap();
        assert_eq!(prompt, PromptRecord::new("a", "p"));
    }

    #[test]
    fn an_exchange_has_metadata_only_where_there_is_any() {
        let mut record = PromptRecord::new("7", "p").with_reference("gold");
        let bare = Exchange { reference: Some("gold"), ..Exchange::new("p", "y") };
        assert_eq!(record.exchange("y"), bare);
        record.metadata.insert("source".to_owned(), "web".into());
        let metadata = record.metadata.clone();
        assert_eq!(record.exchange("y"), Exchange { metadata: Some(&metadata), ..bare });
    }

    #[test]
    fn a_sample_goes_by_the_id_of_its_prompt_and_lends_its_reference() {
        let sample = Sample {
            record: PromptRecord::new("7", "p").with_reference("gold"),
            response: "y".into(),
        };
        assert_eq!(sample.id(), "7");
        assert_eq!(sample.exchange().reference, Some("gold"));
    }
}

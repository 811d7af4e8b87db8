//! Responses as rewards, judges and exams read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    codec::CodecError,
    message::{Message, TextOrMessages},
    metadata::Metadata,
    record::{Exchange, PreferencePair, PromptRecord, Record},
    rows::{PairRow, Rendering},
};

/// A response to a prompt.
///
/// In a file, it is a text, a list of messages, or a table of `text` (or `response`, `answer`,
/// `content`), `messages` and `maker` (or `model`).
///
/// ```
/// use rlaif_core::Reply;
/// let said: Reply = serde_json::from_str(r#"{"text": "Seven.", "maker": "m"}"#)?;
/// assert_eq!((said.text.as_str(), said.maker.as_deref()), ("Seven.", Some("m")));
/// let chat = r#"[{"role": "assistant", "content": "Seven.", "reasoning_content": "A prime."}]"#;
/// let chat: Reply = serde_json::from_str(chat)?;
/// assert_eq!((chat.text.as_str(), chat.messages.len()), ("Seven.", 1));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Reply {
    /// The text.
    pub text: String,
    /// The response as messages, if they have more than the text: for rewards that have a chat
    /// template of their own.
    pub messages: Vec<Message>,
    /// The model that wrote it, if known.
    pub maker: Option<String>,
}

impl Reply {
    /// A text of an unknown maker.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), messages: Vec::new(), maker: None }
    }

    /// Returns `true` for the same text and messages, by any maker.
    pub fn says_as(&self, other: &Self) -> bool {
        (&self.text, &self.messages) == (&other.text, &other.messages)
    }

    /// The same response by this maker.
    #[must_use]
    pub fn by(self, maker: Option<String>) -> Self {
        Self { maker, ..self }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<TextOrMessages> for Reply {
    fn from(said: TextOrMessages) -> Self {
        let text = said.readable();
        let messages = match said {
            TextOrMessages::Text(_) => Vec::new(),
            TextOrMessages::Messages(messages) => match messages.as_slice() {
                [only] if *only == Message::new("assistant", &*text) => Vec::new(),
                _ => messages,
            },
        };
        Self { text, messages, maker: None }
    }
}

impl From<Reply> for TextOrMessages {
    fn from(reply: Reply) -> Self {
        if reply.messages.is_empty() { reply.text.into() } else { reply.messages.into() }
    }
}

/// A response as files have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Said(TextOrMessages),
    Table(Metadata),
}

/// A response as a table.
#[derive(Deserialize)]
struct Table {
    #[serde(alias = "response", alias = "answer", alias = "content")]
    text: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default, alias = "model")]
    maker: Option<String>,
}

impl TryFrom<Written> for Reply {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let table = match written {
            Written::Said(said) => return Ok(said.into()),
            Written::Table(table) => table,
        };
        if table.contains_key("role") {
            return Ok(TextOrMessages::from(vec![Message::from_object(table)?]).into());
        }
        let table: Table =
            serde_json::from_value(Value::Object(table)).map_err(|error| error.to_string())?;
        let Table { text, messages, maker } = table;
        let reply = match (text, messages) {
            (Some(text), messages) => Self { text, messages, maker: None },
            (None, messages) if messages.is_empty() => return Err("missing field `text`".into()),
            (None, messages) => TextOrMessages::from(messages).into(),
        };
        Ok(reply.by(maker))
    }
}

impl From<Reply> for Written {
    fn from(reply: Reply) -> Self {
        let Reply { text, messages, maker } = reply;
        if messages.is_empty() && maker.is_none() {
            return Self::Said(text.into());
        }
        let mut table = Metadata::new();
        table.insert("text".to_owned(), text.into());
        if !messages.is_empty() {
            table.insert("messages".to_owned(), serde_json::json!(messages));
        }
        table.extend(maker.map(|maker| ("maker".to_owned(), maker.into())));
        Self::Table(table)
    }
}

impl PromptRecord {
    /// A prompt as rewards read it, from a text or messages.
    pub fn asked(id: impl Into<String>, prompt: TextOrMessages) -> Self {
        let text = prompt.readable();
        let messages = match prompt {
            TextOrMessages::Text(_) => Vec::new(),
            TextOrMessages::Messages(messages) => messages,
        };
        Self { messages, ..Self::new(id, text) }
    }

    /// A prompt that rewards read ([`PromptRecord::asked`]), as a training with this rendering puts it
    /// to them.
    ///
    /// # Errors
    /// As [`Rendering::asked`].
    pub fn asked_by(self, how: &Rendering) -> Result<Self, CodecError> {
        let Self { prompt, messages, .. } = &self;
        let (prompt, messages) = match messages.as_slice() {
            [] => how.asked(&prompt.as_str().into())?,
            _ => (prompt.clone(), how.with_system(messages.clone())),
        };
        Ok(Self { prompt, messages, ..self })
    }

    /// The prompt with a response, as reward models and metrics take it.
    pub fn answered<'a>(&'a self, reply: &'a Reply) -> Exchange<'a> {
        let said = (!reply.messages.is_empty()).then_some(reply.messages.as_slice());
        Exchange { said, ..self.exchange(&reply.text) }
    }
}

/// A prompt and two responses as rewards read them, the preferred one first.
///
/// ```
/// use rlaif_core::AskedPair;
/// let pair = AskedPair::new("7", "What is 2 + 2?", "4", "5");
/// assert_eq!(pair.exchanges().map(|exchange| exchange.response), ["4", "5"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedPair {
    /// The prompt.
    pub record: PromptRecord,
    /// The preferred response.
    pub chosen: Reply,
    /// The other response.
    pub rejected: Reply,
}

impl AskedPair {
    /// A pair of texts.
    pub fn new(
        id: impl Into<String>,
        prompt: impl Into<String>,
        chosen: impl Into<Reply>,
        rejected: impl Into<Reply>,
    ) -> Self {
        let record = PromptRecord::new(id, prompt);
        Self { record, chosen: chosen.into(), rejected: rejected.into() }
    }

    /// The two exchanges, the preferred one first.
    pub fn exchanges(&self) -> [Exchange<'_>; 2] {
        [&self.chosen, &self.rejected].map(|reply| self.record.answered(reply))
    }
}

impl From<&PreferencePair> for AskedPair {
    fn from(pair: &PreferencePair) -> Self {
        let PreferencePair { id, prompt, chosen, rejected, .. } = pair;
        Self::new(id, prompt, chosen.as_str(), rejected.as_str())
    }
}

impl Record for AskedPair {
    fn id(&self) -> &str {
        &self.record.id
    }
}

impl PairRow {
    /// The pair as rewards read it: without the special tokens of a chat template, with messages if the
    /// row has them, and with the row's further columns. The column `reference` is the reference
    /// response.
    ///
    /// # Errors
    /// As [`Rendering::asked`].
    pub fn asked(self, how: &Rendering, reference: Option<&str>) -> Result<AskedPair, CodecError> {
        let Self { id, prompt, chosen, rejected, metadata, .. } = self;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let record = PromptRecord {
            reference: reference.and_then(|column| metadata.get(column)).and_then(text),
            metadata,
            ..PromptRecord::asked(id, prompt).asked_by(how)?
        };
        Ok(AskedPair { record, chosen: chosen.into(), rejected: rejected.into() })
    }
}

/// Contents of messages that the text of rows leaves out, with the number of rows.
///
/// ```
/// use rlaif_core::{Message, TextOrMessages, Unread};
/// let asked = vec![Message::new("system", "Be brief."), Message::new("user", "Name a prime.")];
/// let mut unread = Unread::default();
/// unread.add([&TextOrMessages::from(asked)]);
/// assert_eq!(unread.sentences("rewards").len(), 1);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread(BTreeMap<String, usize>);

impl Unread {
    /// Adds a row of these texts.
    pub fn add<'a>(&mut self, row: impl IntoIterator<Item = &'a TextOrMessages>) {
        let mut names: Vec<String> =
            row.into_iter().flat_map(TextOrMessages::not_in_text).collect();
        names.sort();
        names.dedup();
        for name in names {
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// Sentences for the log, about these readers of the text.
    pub fn sentences(&self, readers: &str) -> Vec<String> {
        let said = |(name, count): (&String, &usize)| {
            format!(
                "{count} rows have {name} in their messages, which the text that {readers} read \
                 leaves out"
            )
        };
        self.0.iter().map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_written_as_they_are_read() {
        for json in [
            r#""Seven.""#,
            r#"{"text":"Seven.","maker":"m"}"#,
            r#"{"text":"Seven.","messages":[{"role":"assistant","content":"Seven.","name":"a"}]}"#,
        ] {
            let reply: Reply = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        }
        let turn = r#"{"role":"assistant","content":"Seven.","reasoning_content":"A prime."}"#;
        let reply: Reply = serde_json::from_str(turn).unwrap();
        assert_eq!(reply.messages[0].more["reasoning_content"], "A prime.");
        let plain: Reply = serde_json::from_str(r#"{"content":"Seven.","model":"m"}"#).unwrap();
        assert_eq!(plain, Reply::new("Seven.").by(Some("m".to_owned())));
        let error = serde_json::from_str::<Reply>(r#"{"maker":"m"}"#).unwrap_err().to_string();
        assert!(error.contains("missing field `text`"), "{error}");
    }

    #[test]
    fn a_pair_has_the_messages_the_reference_and_the_columns_of_its_row() {
        let row: PairRow = serde_json::from_value(serde_json::json!({
            "id": "7",
            "prompt": [
                {"role": "user", "content": "Name a prime."},
                {"role": "assistant", "content": "Two."},
                {"role": "user", "content": "Another one."},
            ],
            "chosen": [{"role": "assistant", "content": "Seven.", "reasoning_content": "Odd."}],
            "rejected": [{"role": "assistant", "content": "Nine."}],
            "metadata": {"gold": "Three.", "source": "web"},
        }))
        .unwrap();
        let how = Rendering { system: Some("Be brief.".to_owned()), ..Rendering::default() };
        let pair = row.asked(&how, Some("gold")).unwrap();
        let [chosen, rejected] = pair.exchanges();
        let roles = |messages: &[Message]| -> Vec<String> {
            messages.iter().map(|turn| turn.role.clone()).collect()
        };
        assert_eq!(roles(chosen.messages.unwrap()), ["system", "user", "assistant", "user"]);
        assert_eq!(chosen.said.unwrap()[0].more["reasoning_content"], "Odd.");
        assert_eq!((rejected.response, rejected.said), ("Nine.", None));
        assert_eq!(rejected.reference, Some("Three."));
        assert_eq!(rejected.metadata.unwrap()["source"], "web");
    }
}

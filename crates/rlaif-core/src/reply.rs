//! A response, as text or messages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    message::{Message, TextOrMessages},
    metadata::Metadata,
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
}

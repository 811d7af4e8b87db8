//! Messages of a conversation, and texts that may be given as messages.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::metadata::Metadata;

/// One turn of a conversation, as chat templates read it.
///
/// A chat template gets every key that the file has, `reasoning_content`, `name`, `tool_calls` and
/// `tool_call_id` for instance, as transformers hands them on. Serialised, a message is the object
/// that it was read from.
///
/// ```
/// let json = r#"{"role":"assistant","content":null,"tool_calls":[{"name":"clock"}]}"#;
/// let message: rlaif_core::Message = serde_json::from_str(json)?;
/// assert_eq!(message.content, "");
/// assert_eq!(message.more["tool_calls"][0]["name"], "clock");
/// assert_eq!(serde_json::to_string(&message)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or another role that the model's chat template knows.
    pub role: String,
    /// The text of the turn. Where [`Message::other_content`] is set, the texts of its parts, one
    /// after another.
    pub content: String,
    /// Value that the template reads in place of `content`, where that is not a text.
    pub other_content: Option<OtherContent>,
    /// The other keys, in the order of the file.
    pub more: Metadata,
}

/// The content of a message that is not one text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OtherContent {
    /// A list of parts, such as `{"type": "text", "text": "..."}`.
    Parts(Vec<Value>),
    /// `null`: a turn that only calls tools, for instance.
    Null,
    /// No such key.
    Absent,
}

impl Message {
    /// A turn of `role` with the text `content`.
    ///
    /// ```
    /// let turn = rlaif_core::Message::new("user", "When can a newborn eat solid food?");
    /// assert_eq!(turn.role, "user");
    /// ```
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            other_content: None,
            more: Metadata::new(),
        }
    }

    /// The same turn with another key.
    ///
    /// ```
    /// use rlaif_core::Message;
    /// let turn = Message::new("assistant", "Seven.").with("reasoning_content", "A prime.");
    /// assert_eq!(turn.keys().collect::<Vec<_>>(), ["role", "content", "reasoning_content"]);
    /// ```
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.more.insert(key.into(), value.into());
        self
    }

    /// The message of a JSON object, with the keys `role` and `content`, or ShareGPT's `from` and `value`.
    ///
    /// ```
    /// use rlaif_core::Message;
    /// let found: Message = serde_json::from_str(r#"{"from": "gpt", "value": "Hi"}"#)?;
    /// assert_eq!(found, Message::new("assistant", "Hi"));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// A phrase that says what is wrong, for the end of a message: no `role`, or a content that is
    /// neither a text nor a list of parts nor null.
    pub fn from_object(object: Metadata) -> Result<Self, String> {
        let (mut role, mut content, mut more) = (None, None, Metadata::new());
        for (key, value) in from_share_gpt(object) {
            match key.as_str() {
                "role" => role = Some(value),
                "content" => content = Some(value),
                _ => {
                    more.insert(key, value);
                }
            }
        }
        let role = match role {
            Some(Value::String(role)) => role,
            Some(_) => return Err("a message's `role` is not a text".to_owned()),
            None => return Err("a message has no `role`".to_owned()),
        };
        let (content, other_content) = match content {
            Some(Value::String(text)) => (text, None),
            Some(Value::Array(parts)) => (parts_text(&parts), Some(OtherContent::Parts(parts))),
            Some(Value::Null) => (String::new(), Some(OtherContent::Null)),
            None if more.is_empty() => return Err("a message has no `content`".to_owned()),
            None => (String::new(), Some(OtherContent::Absent)),
            Some(_) => {
                let expected = "a text, a list of parts or null";
                return Err(format!("a message's `content` is not {expected}"));
            }
        };
        Ok(Self { role, content, other_content, more })
    }

    /// The text of the turn, with its calls of tools as JSON.
    fn readable(&self) -> Cow<'_, str> {
        let calls: Metadata = CALLS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), self.more.get(*key)?.clone())))
            .filter(|(_, value)| !says_nothing(value))
            .collect();
        if calls.is_empty() {
            return Cow::from(&self.content);
        }
        let calls = Value::Object(calls);
        Cow::from(match self.content.trim_end() {
            "" => calls.to_string(),
            content => format!("{content}\n{calls}"),
        })
    }

    fn is_of_the_system(&self) -> bool {
        ["system", "developer"].contains(&self.role.as_str())
    }

    /// The parts of the message that [`TextOrMessages::readable`] leaves out: keys such as
    /// `reasoning_content`, and kinds of parts such as `image`.
    pub fn not_in_text(&self) -> Vec<String> {
        let keys = self.more.iter().filter(|(key, value)| {
            let known = ["name", "tool_call_id"].contains(&key.as_str());
            !known && !CALLS.contains(&key.as_str()) && !says_nothing(value)
        });
        let mut found: Vec<String> = keys.map(|(key, _)| format!("`{key}`")).collect();
        if let Some(OtherContent::Parts(parts)) = &self.other_content {
            let other = parts.iter().filter(|part| part_text(part).is_none());
            found.extend(other.map(|part| match part.get("type").and_then(Value::as_str) {
                Some(kind) => format!("parts of type `{kind}`"),
                None => "parts without a type".to_owned(),
            }));
        }
        found
    }

    /// The keys of the message, in the order in which it is written.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let content = (self.other_content != Some(OtherContent::Absent)).then_some("content");
        ["role"].into_iter().chain(content).chain(self.more.keys().map(String::as_str))
    }

    /// The value of a key, as chat templates read it.
    pub fn get(&self, key: &str) -> Option<Cow<'_, Value>> {
        match key {
            "role" => Some(Cow::Owned(self.role.as_str().into())),
            "content" => match &self.other_content {
                None => Some(Cow::Owned(self.content.as_str().into())),
                Some(OtherContent::Parts(parts)) => Some(Cow::Owned(parts.clone().into())),
                Some(OtherContent::Null) => Some(Cow::Owned(Value::Null)),
                Some(OtherContent::Absent) => None,
            },
            _ => self.more.get(key).map(Cow::Borrowed),
        }
    }
}

/// The texts of the parts of a content, one after another; other parts have none.
fn parts_text(parts: &[Value]) -> String {
    parts.iter().filter_map(part_text).collect()
}

fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text").and_then(Value::as_str))
}

/// Keys of a message that are part of what it says: calls of tools, in new and old notation.
const CALLS: [&str; 2] = ["tool_calls", "function_call"];

/// Returns `true` for null, and for a text, a list or an object without content.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.keys().filter_map(|key| Some((key, self.get(key)?))))
    }
}

/// Converts an object with ShareGPT's keys and roles to a message's; others are unchanged.
fn from_share_gpt(mut object: Metadata) -> Metadata {
    let (Some(Value::String(from)), Some(_)) = (object.get("from"), object.get("value")) else {
        return object;
    };
    if object.contains_key("role") {
        return object;
    }
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" | "function_call" => {
            "assistant"
        }
        "observation" | "tool" | "function_response" => "tool",
        other => other,
    };
    let role = Value::from(role);
    let content = object.shift_remove("value").unwrap_or_default();
    object.shift_remove("from");
    let mut message = Metadata::new();
    message.insert("role".to_owned(), role);
    message.insert("content".to_owned(), content);
    message.extend(object);
    message
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_object(Metadata::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A prompt or a response as a row has it: a text, or messages for the chat template.
///
/// ```
/// use rlaif_core::{Message, TextOrMessages};
/// let text: TextOrMessages = serde_json::from_str(r#""Name a prime.""#)?;
/// let chat: TextOrMessages =
///     serde_json::from_str(r#"[{"role":"user","content":"Name a prime."}]"#)?;
/// assert_eq!(text, TextOrMessages::from("Name a prime."));
/// assert_eq!(chat, TextOrMessages::from(vec![Message::new("user", "Name a prime.")]));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string, or a list of messages")]
pub enum TextOrMessages {
    /// A text.
    Text(String),
    /// Messages, oldest first.
    Messages(Vec<Message>),
}

impl TextOrMessages {
    /// Returns `true` without messages, or if all of them are only white space: no calls of tools, no
    /// images, no reasoning.
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Messages(messages) => messages
                .iter()
                .all(|m| m.readable().trim().is_empty() && m.not_in_text().is_empty()),
        }
    }

    /// The parts that [`TextOrMessages::readable`] leaves out: messages of the system, the name of a turn that
    /// is alone, and [`Message::not_in_text`].
    pub fn not_in_text(&self) -> Vec<String> {
        let Self::Messages(messages) = self else { return Vec::new() };
        let (system, turns): (Vec<&Message>, Vec<&Message>) =
            messages.iter().partition(|message| message.is_of_the_system());
        let mut found: Vec<String> = messages.iter().flat_map(Message::not_in_text).collect();
        found.extend(
            system
                .iter()
                .filter(|m| !m.content.trim().is_empty())
                .map(|m| format!("messages of the {}", m.role)),
        );
        if let [only] = turns.as_slice()
            && only.more.get("name").is_some_and(|name| !says_nothing(name))
        {
            found.push("`name`".to_owned());
        }
        found
    }

    /// The content as readable text, without the special tokens of a chat template: a text, or the
    /// only message besides the system's, or several turns with their roles and names. Calls of tools
    /// follow what a turn says, as JSON. [`TextOrMessages::not_in_text`] names what is left out.
    ///
    /// ```
    /// use rlaif_core::{Message, TextOrMessages};
    /// let asked = vec![Message::new("system", "Be brief."), Message::new("user", "Name a prime.")];
    /// assert_eq!(TextOrMessages::from(asked).readable(), "Name a prime.");
    /// ```
    pub fn readable(&self) -> String {
        let messages = match self {
            Self::Text(text) => return text.clone(),
            Self::Messages(messages) => messages,
        };
        let turns: Vec<&Message> = messages.iter().filter(|m| !m.is_of_the_system()).collect();
        match turns.as_slice() {
            [only] => only.readable().into_owned(),
            turns => {
                let turn = |m: &&Message| {
                    let name = m.more.get("name").and_then(Value::as_str);
                    let name = name.map_or(String::new(), |name| format!(" ({name})"));
                    format!("{}{name}: {}", m.role, m.readable())
                };
                turns.iter().map(turn).collect::<Vec<_>>().join("\n\n")
            }
        }
    }

    /// The messages; a text is one message of `role`.
    pub fn into_messages(self, role: &str) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::new(role, text)],
            Self::Messages(messages) => messages,
        }
    }

    /// Texts that identify the content: of messages, each role and content, then the other keys.
    pub fn content_parts(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::Text(text) => vec![text.as_str().into()],
            Self::Messages(messages) => messages
                .iter()
                .flat_map(|message| {
                    // Messages of role and content alone keep the ids that they always had.
                    let whole = !message.more.is_empty() || message.other_content.is_some();
                    let whole = whole
                        .then(|| Cow::Owned(serde_json::to_string(message).unwrap_or_default()));
                    let content = Cow::from(message.content.as_str());
                    [Some(message.role.as_str().into()), Some(content), whole].into_iter().flatten()
                })
                .collect(),
        }
    }
}

impl From<&str> for TextOrMessages {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for TextOrMessages {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Message>> for TextOrMessages {
    fn from(messages: Vec<Message>) -> Self {
        Self::Messages(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_it_was_read() {
        for json in [
            r#"{"role":"user","content":"hi"}"#,
            r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"image"},"b"]}"#,
            r#"{"role":"assistant","content":null,"tool_calls":[{"z":1,"a":{"y":2,"b":3}}]}"#,
            r#"{"role":"assistant","tool_calls":[]}"#,
            r#"{"role":"tool","content":"12","tool_call_id":"x","name":"clock"}"#,
        ] {
            let message: Message = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&message).unwrap(), json);
        }
        let parts: Message = serde_json::from_str(
            r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"image"},"b"]}"#,
        )
        .unwrap();
        assert_eq!(parts.content, "ab");
    }

    #[test]
    fn calls_of_tools_are_in_the_text_and_what_is_not_is_named() {
        let read = |json: &str| serde_json::from_str::<Message>(json).unwrap();
        let call = r#"{"role":"assistant","content":null,"tool_calls":[{"name":"clock"}]}"#;
        let said = TextOrMessages::from(vec![read(call)]);
        assert_eq!(said.readable(), r#"{"tool_calls":[{"name":"clock"}]}"#);
        let turns = vec![
            read(r#"{"role":"user","content":"Time?"}"#),
            read(r#"{"role":"assistant","content":"Wait.\n","function_call":{"name":"clock"}}"#),
            read(r#"{"role":"tool","name":"clock","tool_call_id":"1","content":"12"}"#),
            read(r#"{"role":"assistant","content":"Noon.","tool_calls":[],"thinking":""}"#),
        ];
        assert!(turns.iter().all(|turn| turn.not_in_text().is_empty()));
        assert_eq!(
            TextOrMessages::from(turns).readable(),
            "user: Time?\n\nassistant: Wait.\n{\"function_call\":{\"name\":\"clock\"}}\n\n\
             tool (clock): 12\n\nassistant: Noon."
        );
        let asked = [
            r#"{"role":"system","content":"Be brief."}"#,
            r#"{"role":"user","name":"Ann","content":"Time?"}"#,
        ];
        let asked = TextOrMessages::from(asked.map(read).to_vec());
        assert_eq!(asked.readable(), "Time?");
        assert_eq!(asked.not_in_text(), ["messages of the system", "`name`"]);
        for (content, more, blank) in [
            (r#"" ""#, "", true),
            ("null", r#","tool_calls":[]"#, true),
            ("null", r#","tool_calls":[{"name":"clock"}]"#, false),
            (r#"[{"type":"image"}]"#, "", false),
            (r#"[{"type":"text","text":" "}]"#, "", true),
        ] {
            let turn = read(&format!(r#"{{"role":"assistant","content":{content}{more}}}"#));
            assert_eq!(TextOrMessages::from(vec![turn]).is_blank(), blank, "{content}{more}");
        }
        let other = read(
            r#"{"role":"user","content":["a",{"type":"image_url"},{}],"reasoning_content":"b"}"#,
        );
        assert_eq!(
            other.not_in_text(),
            ["`reasoning_content`", "parts of type `image_url`", "parts without a type"]
        );
    }

    #[test]
    fn what_is_not_a_message_is_refused_with_the_reason() {
        for (json, expected) in [
            (r#"{"content":"hi"}"#, "no `role`"),
            (r#"{"role":"user"}"#, "no `content`"),
            (r#"{"role":1,"content":"hi"}"#, "`role` is not a text"),
            (r#"{"role":"user","content":3}"#, "`content` is not a text, a list of parts or null"),
        ] {
            let error = serde_json::from_str::<Message>(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

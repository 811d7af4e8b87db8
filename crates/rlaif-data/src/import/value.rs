//! Conversion of a row's values to texts and messages, including JSON that a CSV holds as text.

use std::borrow::Cow;

use rlaif_core::{Message, TextOrMessages, python_json::json_text};
use serde_json::{Map, Value};

/// The mark before the answer of a solution in GSM8K.
pub(super) const HASHES: &str = "####";

/// A list of objects, or an object of lists of one length, as `datasets` writes a `Sequence` of
/// objects.
pub(super) fn objects(value: &Value) -> Option<Vec<Map<String, Value>>> {
    match &*json_text(value) {
        Value::Array(items) => items.iter().map(|item| item.as_object().cloned()).collect(),
        Value::Object(columns) => {
            let columns: Option<Vec<(&String, &Vec<Value>)>> =
                columns.iter().map(|(key, column)| Some((key, column.as_array()?))).collect();
            let columns = columns?;
            let rows = columns.first()?.1.len();
            columns.iter().all(|(_, column)| column.len() == rows).then_some(())?;
            let row = |at: usize| {
                columns.iter().map(|(key, column)| ((*key).clone(), column[at].clone())).collect()
            };
            Some((0..rows).map(row).collect())
        }
        _ => None,
    }
}

/// Returns whether a value is a list of messages, in either notation.
pub(super) fn is_messages(value: &Value) -> bool {
    let message = |object: &Map<String, Value>| {
        object.contains_key("role") || object.contains_key("from") && object.contains_key("value")
    };
    objects(value).is_some_and(|objects| objects.iter().all(message))
}

/// True of messages as Python writes them (`repr`), which is not JSON.
pub(super) fn is_python(text: &str) -> bool {
    let text = text.trim_start();
    let begins = ["[{'", "{'", "[['"].iter().any(|start| text.starts_with(start));
    let keys = |keys: [&str; 2]| keys.iter().all(|key| text.contains(&format!("'{key}':")));
    begins && (keys(["role", "content"]) || keys(["from", "value"]))
}

/// Parses a list of messages; the error is a phrase that says what is wrong.
pub(super) fn messages(value: &Value) -> Result<Vec<Message>, String> {
    let objects = objects(value).ok_or_else(|| "a message is not an object".to_owned())?;
    objects.into_iter().map(Message::from_object).collect()
}

/// Joins the parts of messages that are all text into one text: templates of text models expect
/// that.
pub(super) fn flattened(mut messages: Vec<Message>) -> Vec<Message> {
    for message in &mut messages {
        if let Some(rlaif_core::OtherContent::Parts(parts)) = &message.other_content
            && parts
                .iter()
                .all(|part| part.is_string() || part.get("text").is_some_and(Value::is_string))
        {
            message.other_content = None;
        }
    }
    messages
}

/// The value of a field of CSV: messages that are JSON text there, or the text.
///
/// # Errors
/// A list as Python writes it.
pub(super) fn of_csv(value: &Value) -> Result<Cow<'_, Value>, String> {
    let Some(text) = value.as_str() else { return Ok(Cow::Borrowed(value)) };
    if is_python(text) {
        return Err("a list as Python writes it, not JSON".to_owned());
    }
    // A text that only starts like JSON remains a text.
    let nested = text.trim_start().starts_with('[').then(|| messages(value));
    match nested {
        Some(Ok(messages)) if !messages.is_empty() => Ok(json_text(value)),
        _ => Ok(Cow::Borrowed(value)),
    }
}

/// A text, or messages.
pub(super) fn text_or_messages(value: &Value) -> Result<TextOrMessages, String> {
    match value {
        Value::String(text) => Ok(text.as_str().into()),
        Value::Array(_) => messages(value).map(TextOrMessages::from),
        Value::Object(_) if objects(value).is_some() => messages(value).map(TextOrMessages::from),
        Value::Object(object) => Ok(vec![Message::from_object(object.clone())?].into()),
        _ => Err("neither a text nor a list of messages".to_owned()),
    }
}

/// A conversation up to the assistant's last turn, and from there.
pub(super) fn last_answer(messages: &[Message]) -> Option<(Vec<Message>, Vec<Message>)> {
    let at = messages.iter().rposition(|message| message.role == "assistant")?;
    (at > 0).then(|| (messages[..at].to_vec(), messages[at..].to_vec()))
}

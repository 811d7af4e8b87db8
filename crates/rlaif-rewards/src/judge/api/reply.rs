//! Parts of a reply that several wire formats share.

use serde_json::Value;

pub(super) fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The text of a message's content: a string, or the text parts of a list. Thinking, images and
/// tool calls are not part of the answer.
pub(super) fn content_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(parts) => parts.iter().map(content_of).collect(),
        Value::Object(part) => {
            let kind = part.get("type").and_then(Value::as_str);
            let text = part.get("text").or_else(|| part.get("content"));
            match (kind, text) {
                (None | Some("text" | "output_text"), Some(text)) => content_of(text),
                _ => String::new(),
            }
        }
        _ => String::new(),
    }
}

/// `true` if a value is present and not empty.
pub(super) fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(values) => values.iter().any(is_given),
        Value::Object(values) => !values.is_empty(),
        Value::Bool(given) => *given,
        Value::Number(_) => true,
    }
}

pub(super) fn count_of(usage: &Value, key: &str) -> u64 {
    usage[key].as_u64().unwrap_or(0)
}

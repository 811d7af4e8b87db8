//! Calls of tools in the text of a model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The form in which a model calls tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallForm {
    /// `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, any number of times: Hermes, and Qwen 2.5
    /// and 3.
    #[default]
    Hermes,
    /// The whole text is `{"name": .., "parameters": {..}}`: Llama 3.1. Calls may be separated by `;`.
    Llama,
    /// `@name input`, each on a line of its own: for models that write no JSON. The input is passed on as
    /// `{"input": ".."}`.
    Plain,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Arguments of the call, an object.
    pub arguments: Value,
}

/// Reasons why a text that looks like a call is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A call without its end.
    #[error("`<tool_call>` without `</tool_call>`")]
    Open,
    /// A text that is not JSON.
    #[error("the call is not JSON: {0}")]
    Json(String),
    /// JSON of another shape.
    #[error("the call has no {0}")]
    Missing(&'static str),
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

impl CallForm {
    /// The calls of a text, in their order; none if the text is an answer.
    pub fn calls(self, text: &str) -> Vec<Result<Call, CallError>> {
        match self {
            Self::Hermes => {
                let parts = text.split(OPEN).skip(1);
                let calls = parts.map(|part| match part.split_once(CLOSE) {
                    Some((call, _)) => read(call, "arguments"),
                    None => Err(CallError::Open),
                });
                calls.collect()
            }
            Self::Llama => {
                let text = text.trim();
                let text = text.strip_prefix("<|python_tag|>").unwrap_or(text).trim();
                match text.starts_with('{') {
                    true => of_objects(text),
                    false => Vec::new(),
                }
            }
            Self::Plain => {
                let lines = text.lines().filter_map(|line| line.trim().strip_prefix('@'));
                lines.map(plain).collect()
            }
        }
    }
}

/// One JSON object after another, perhaps with `;` between them.
fn of_objects(text: &str) -> Vec<Result<Call, CallError>> {
    let mut all = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => all.push(of_value(&value, "parameters")),
            Some(Err(error)) => {
                all.push(Err(CallError::Json(error.to_string())));
                break;
            }
            None => break,
        }
        rest = rest[values.byte_offset()..].trim_start_matches([';', ' ', '\n', '\t', '\r']);
    }
    all
}

fn plain(line: &str) -> Result<Call, CallError> {
    let (name, input) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if name.is_empty() {
        return Err(CallError::Missing("name"));
    }
    let arguments = serde_json::json!({"input": input.trim()});
    Ok(Call { name: name.to_owned(), arguments })
}

fn read(text: &str, arguments: &'static str) -> Result<Call, CallError> {
    let value: Value =
        serde_json::from_str(text.trim()).map_err(|error| CallError::Json(error.to_string()))?;
    of_value(&value, arguments)
}

/// A call with its arguments under this key or, as some models write it, under the other one.
fn of_value(value: &Value, arguments: &'static str) -> Result<Call, CallError> {
    let name = value.get("name").and_then(Value::as_str).ok_or(CallError::Missing("name"))?;
    let other = if arguments == "parameters" { "arguments" } else { "parameters" };
    let found = value.get(arguments).or_else(|| value.get(other));
    let arguments = match found {
        Some(Value::Object(_)) => found.cloned(),
        // Arguments as JSON text, as in OpenAI's API.
        Some(Value::String(text)) => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    };
    let arguments = arguments.ok_or(CallError::Missing("object of arguments"))?;
    Ok(Call { name: name.to_owned(), arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: Value) -> Result<Call, CallError> {
        Ok(Call { name: name.to_owned(), arguments })
    }

    #[test]
    fn each_form_finds_its_calls() {
        let two = "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
                   <tool_call>{\"name\": \"now\", \"arguments\": \"{}\"}</tool_call>";
        for (form, text, expected) in [
            (CallForm::Hermes, two, vec![call("add", json!({"a": 1})), call("now", json!({}))]),
            (CallForm::Hermes, "It is 7.", vec![]),
            (CallForm::Hermes, "<tool_call>{\"name\"", vec![Err(CallError::Open)]),
            (
                CallForm::Hermes,
                "<tool_call>{\"arguments\": {}}</tool_call>",
                vec![Err(CallError::Missing("name"))],
            ),
            (
                CallForm::Hermes,
                "<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call>",
                vec![Err(CallError::Missing("object of arguments"))],
            ),
            (
                CallForm::Llama,
                "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"now\", \
                 \"parameters\": {}}",
                vec![call("add", json!({"a": 1})), call("now", json!({}))],
            ),
            (CallForm::Llama, "The set {1, 2}.", vec![]),
            (
                CallForm::Plain,
                "@add 1 2\nso\n @now",
                vec![call("add", json!({"input": "1 2"})), call("now", json!({"input": ""}))],
            ),
            (CallForm::Plain, "@ 3", vec![Err(CallError::Missing("name"))]),
            (CallForm::Plain, "7", vec![]),
        ] {
            assert_eq!(form.calls(text), expected, "{text}");
        }
        for (form, text) in [
            (CallForm::Hermes, "<tool_call>add(1)</tool_call>"),
            (CallForm::Llama, "{\"name\": \"add\", "),
        ] {
            assert!(matches!(&*form.calls(text), [Err(CallError::Json(_))]), "{text}");
        }
    }
}

//! Anthropic's Messages API, also in Bedrock's InvokeModel.
//!
//! <https://docs.anthropic.com/en/api/messages>,
//! <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html>.

use serde_json::{Map, Value, json};

use super::super::spending::Tokens;
use super::ask::{Ask, put};
use super::reply::{content_of, count_of};
use crate::rubric::{Answer, Finish};

/// Builds the body: with a model for Anthropic, without one for Bedrock, which has the model in the
/// path.
pub(super) fn body(model: Option<&str>, ask: &Ask<'_>) -> Map<String, Value> {
    let mut body = Map::new();
    match model {
        Some(model) => put(&mut body, "model", Some(model)),
        None => put(&mut body, "anthropic_version", Some("bedrock-2023-05-31")),
    }
    put(&mut body, "max_tokens", Some(ask.max_tokens()));
    let system = ask.question.system.as_str();
    put(&mut body, "system", Some(system).filter(|system| !system.is_empty()));
    let content = json!([{"type": "text", "text": ask.question.user}]);
    put(&mut body, "messages", Some(json!([{"role": "user", "content": content}])));
    put(&mut body, "temperature", ask.temperature());
    put(&mut body, "top_p", ask.top_p());
    put(&mut body, "top_k", ask.top_k());
    let format = |schema| json!({"format": {"type": "json_schema", "schema": schema}});
    put(&mut body, "output_config", ask.schema().map(format));
    body
}

pub(super) fn answer(reply: &Value) -> Option<(Answer, Tokens)> {
    let content = &reply["content"];
    if !content.is_array() && !content.is_string() {
        return None;
    }
    let text = content_of(content);
    let finish = match reply["stop_reason"].as_str() {
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("refusal") => Finish::Refused,
        _ => Finish::Complete,
    };
    let usage = &reply["usage"];
    let cached = count_of(usage, "cache_read_input_tokens");
    let input =
        count_of(usage, "input_tokens") + count_of(usage, "cache_creation_input_tokens") + cached;
    let tokens = Tokens { input, output: count_of(usage, "output_tokens") };
    Some((Answer { text, finish, tokens: Vec::new() }, tokens))
}

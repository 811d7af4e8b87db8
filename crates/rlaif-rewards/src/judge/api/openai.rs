//! OpenAI's chat completions, which vLLM, TGI, llama.cpp and Ollama support as well.
//!
//! <https://platform.openai.com/docs/api-reference/chat/create>,
//! <https://docs.vllm.ai/en/latest/serving/openai_compatible_server/>.

use serde_json::{Map, Value, json};

use super::super::optional::Optional;
use super::super::spending::Tokens;
use super::ask::{Ask, put};
use super::reply::{content_of, count_of, is_given, text_of};
use crate::rubric::{Answer, Finish, TokenAlternatives};

pub(super) fn body(
    model: &str,
    top_log_probs: u8,
    extra: &Map<String, Value>,
    ask: &Ask<'_>,
) -> Map<String, Value> {
    let mut body = Map::new();
    put(&mut body, "model", Some(model));
    let user = json!({"role": "user", "content": ask.question.user});
    let system = json!({"role": "system", "content": ask.question.system});
    let messages = match ask.question.system.is_empty() {
        true => json!([user]),
        false => json!([system, user]),
    };
    put(&mut body, "messages", Some(messages));
    let new_name = ask.without.has(Optional::MaxTokensName);
    let name = if new_name { "max_completion_tokens" } else { "max_tokens" };
    put(&mut body, name, Some(ask.max_tokens()));
    put(&mut body, "temperature", ask.temperature());
    put(&mut body, "top_p", ask.top_p());
    put(&mut body, "top_k", ask.top_k());
    put(&mut body, "seed", ask.seed());
    if ask.shape.log_probs {
        put(&mut body, "logprobs", Some(true));
        put(&mut body, "top_logprobs", Some(top_log_probs));
    }
    let format = |schema| {
        let schema = json!({"name": "verdict", "strict": true, "schema": schema});
        json!({"type": "json_schema", "json_schema": schema})
    };
    put(&mut body, "response_format", ask.schema().map(format));
    body.extend(extra.clone());
    body
}

pub(super) fn answer(reply: &Value) -> Option<(Answer, Tokens)> {
    let choice = reply["choices"].as_array()?.first()?;
    let message = choice["message"].as_object()?;
    let content = message.get("content").unwrap_or(&Value::Null);
    let text = content_of(content);
    // Some servers send this field, empty, with every answer.
    let refuses = |part: &Value| part["type"] == "refusal" && is_given(&part["refusal"]);
    let declined = message.get("refusal").is_some_and(is_given)
        || content.as_array().is_some_and(|parts| parts.iter().any(refuses));
    let finish = match choice["finish_reason"].as_str() {
        _ if declined => Finish::Refused,
        Some("length" | "max_tokens" | "MAX_TOKENS") => Finish::Length,
        Some("content_filter" | "refusal" | "safety" | "SAFETY") => Finish::Refused,
        _ => Finish::Complete,
    };
    let tokens = choice["logprobs"]["content"].as_array();
    let tokens = tokens.map(|tokens| tokens.iter().map(alternatives).collect());
    let usage = &reply["usage"];
    let used = Tokens {
        input: count_of(usage, "prompt_tokens"),
        output: count_of(usage, "completion_tokens"),
    };
    Some((Answer { text, finish, tokens: tokens.unwrap_or_default() }, used))
}

fn alternatives(token: &Value) -> TokenAlternatives {
    let one = |token: &Value| {
        Some((text_of(&token["token"]), token["logprob"].as_f64().filter(|l| *l <= 1e-6)?))
    };
    let mut alternatives: Vec<_> = one(token).into_iter().collect();
    alternatives.extend(token["top_logprobs"].as_array().into_iter().flatten().filter_map(one));
    TokenAlternatives { token: text_of(&token["token"]), alternatives }
}
